"""Detecting the language of a document from its text."""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SAMPLE_CHARACTERS: Final = 20_000
"""5 to 15 ms of CPU time; on whole pages the verdict does not change after the first 1,000."""

MIN_CONFIDENCE: Final = 0.5
"""Tables of numbers, code and titles of two words stay under it, sentences are mostly above 0.9."""

_NO_LANGUAGE: Final = "zxx"  # the model's class for numbers, markup and names


class LanguageDetector:
    """Tells languages apart; its model is loaded on first use: 0.6 s, 75 MB. For use by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._identifier: LanguageIdentifier | None = None

    def detect(self, texts: Iterable[str]) -> str | None:
        """The ISO 639-1 code of the language most of the texts is in; None when it cannot be told.

        Takes CPU time: call it in a thread.
        """
        sample = "\n".join(texts)[:SAMPLE_CHARACTERS]
        language, confidence = self._loaded().classify(sample)
        return language if confidence >= MIN_CONFIDENCE and language != _NO_LANGUAGE else None

    def _loaded(self) -> "LanguageIdentifier":
        with self._lock:
            if self._identifier is None:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier  # here: numpy and a model

                identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
                # Only what has a code of two letters: the others are mostly mistaken for those they are near.
                two_letters = [code for code in identifier.labels if len(code) == 2]
                identifier.set_languages([*two_letters, _NO_LANGUAGE])
                self._identifier = identifier
            return self._identifier
