"""Detecting the language of a document from its text."""

import re
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# 5 to 15 ms of CPU time; on whole pages the verdict does not change after the first 1,000.
SAMPLE_CHARACTERS: Final = 20_000

# Tables of numbers, code and titles of two words stay under it, sentences are mostly above 0.9.
MIN_CONFIDENCE: Final = 0.5

_NO_LANGUAGE: Final = "zxx"  # the model's class for numbers, markup and names


# Where English alone is read, the model need not be loaded: it takes 0.7 s of the first document of every
# process, and 75 MB for good. These words were 15-23 % of the words of ten English PDFs, a quarter of which
# were tables, and under 0.1 % of those of French, German and Arabic ones.
_ENGLISH_WORDS: Final = frozenset(
    ("the", "of", "and", "to", "that", "with", "by", "are", "from", "this", "which", "have")
)
_MIN_ENGLISH_SHARE: Final = 0.12
_MIN_ENGLISH_COUNT: Final = 10


class LanguageDetector:
    """Tells languages apart; its model is loaded when a text is not plain English. For use by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._identifier: LanguageIdentifier | None = None

    def detect(self, texts: Iterable[str]) -> str | None:
        """The ISO 639-1 code of the language most of the texts is in; None when it cannot be told.

        Takes CPU time: call it in a thread.
        """
        sample = "\n".join(texts)[:SAMPLE_CHARACTERS]
        if _is_plain_english(sample):
            return "en"
        language, confidence = self._loaded().classify(sample)
        return language if confidence >= MIN_CONFIDENCE and language != _NO_LANGUAGE else None

    def _loaded(self) -> "LanguageIdentifier":
        with self._lock:
            if self._identifier is None:
                self._identifier = _load()
            return self._identifier


def _load() -> "LanguageIdentifier":
    """Of the model, what has a code of two letters: others are mostly mistaken for those they are near.

    Put together anew, since an identifier keeps the languages it leaves out: 28 MB.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # here: only where it is needed

    whole = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    whole.set_languages([*(code for code in whole.labels if len(code) == 2), _NO_LANGUAGE])
    return LanguageIdentifier(
        *(whole.nb_ptc, whole.nb_pc, whole.nb_classes, whole.tk_nextmove, whole.tk_output),
        norm_probs=True,
        tk_row=whole.tk_row,
    )


def _is_plain_english(text: str) -> bool:
    words = re.findall(r"[^\W\d_]+", text.lower())
    count = sum(word in _ENGLISH_WORDS for word in words)
    return count >= max(_MIN_ENGLISH_COUNT, _MIN_ENGLISH_SHARE * len(words))
