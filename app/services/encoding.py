"""Encoding text into tokens a word at a time: a word that was met before is looked up.

The tokenizers library makes several objects for each token, which takes longer than finding it. Documents
repeat their words, and looking them up takes a tenth of the time.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain

from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

_MOST_TOKENS = 2**17  # of known words, 20 MB; ten annual reports have 33,000 words of 4 tokens

# White space goes with the word behind it: to many tokenizers a space is part of a token.
_WORD = re.compile(r"[ \t\n]*[^ \t\n]+|[ \t\n]+")
_ACROSS_WORDS = re.compile(r"[^▁ \t\n\0][▁ \t\n]")
_LLAMA_NORMALIZER = 'Sequence(normalizers=[Prepend(prepend="▁"), Replace(pattern=String(" "), content="▁")])'

Ids = Sequence[int]
Offsets = Sequence[tuple[int, int]]


class Encoded:
    """The tokens of a text, which consists of `parts`: `ids` of each, and `offsets` of tokens in it."""

    def __init__(self, parts: Sequence[str], ids: Sequence[Ids], offsets: Mapping[str, Offsets]) -> None:
        self._parts = parts
        self._ids = ids
        self._offsets = offsets
        self._starts = list(accumulate(map(len, parts), initial=0))
        self._counts = list(accumulate(map(len, ids), initial=0))

    def __len__(self) -> int:
        return self._counts[-1]

    @property
    def ids(self) -> list[int]:
        return list(chain.from_iterable(self._ids))

    def start_of(self, token: int) -> int:
        """Where in the text the token with this index begins."""
        part = bisect_right(self._counts, token) - 1
        return self._starts[part] + self._offsets[self._parts[part]][token - self._counts[part]][0]

    def ids_before(self, end: int) -> list[int] | None:
        """Of the tokens that begin before this place in the text; None when one of them goes beyond it."""
        parts = bisect_left(self._starts, end)
        if self._starts[parts] == end:
            return list(chain.from_iterable(self._ids[:parts]))
        last = parts - 1
        offsets, end = self._offsets[self._parts[last]], end - self._starts[last]
        tokens = bisect_left(offsets, (end,))
        if tokens == 0 or offsets[tokens - 1][1] > end:
            return None
        return [*chain.from_iterable(self._ids[:last]), *self._ids[last][:tokens]]


class Encoder:
    """Gives the tokens that the tokenizer gives, without special ones. For use by any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._keeps_words_apart = _keeps_words_apart(tokenizer)
        self._known = _KnownWords()

    def encode(self, text: str) -> Encoded:
        is_by_words = self._keeps_words_apart and not text[:1].isspace()
        if not is_by_words or any(token in text for token in self._added):
            ids, offsets = self._encode(text)
            return Encoded([text], [ids], {text: offsets})
        words = _WORD.findall(text)
        while True:
            known = self._known
            try:
                return Encoded(words, list(map(known.ids.__getitem__, words)), known.offsets)
            except KeyError:
                self._learn(words)

    def _learn(self, words: Sequence[str]) -> None:
        """All that are not known, in one text that begins as theirs does."""
        if self._known.tokens > _MOST_TOKENS:
            self._known = _KnownWords()
        known = self._known
        unknown = [words[0], *(word for word in dict.fromkeys(words[1:]) if word not in known.ids)]
        ids, offsets = self._encode("".join(unknown))
        start = first = 0
        for word in unknown:
            behind = bisect_left(offsets, (start + len(word),), first)
            places = tuple([(begin - start, end - start) for begin, end in offsets[first:behind]])
            known.add(word, tuple(ids[first:behind]), places)
            start, first = start + len(word), behind

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets


class _KnownWords:
    """What words consist of; those without white space before them are the first of their text."""

    def __init__(self) -> None:
        self.ids: dict[str, Ids] = {}
        self.offsets: dict[str, Offsets] = {}
        self.tokens = 0

    def add(self, word: str, ids: Ids, offsets: Offsets) -> None:
        if word not in self.ids:
            self.tokens += len(ids)
            self.offsets[word] = offsets
            self.ids[word] = ids


def _keeps_words_apart(tokenizer: Tokenizer) -> bool:
    """Whether a word has the same tokens whatever stands around it, unless it is the first of its text.

    So it is with BERT's tokenizers, which cut at white space before all else, and with Llama's, if no token
    of the vocabulary goes from one word into the next.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.normalized or token.lstrip or token.rstrip for token in added):
        return False
    normalizer, cutter, model = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model
    if isinstance(model, WordPiece):
        return isinstance(normalizer, BertNormalizer) and isinstance(cutter, BertPreTokenizer)
    return (
        isinstance(model, BPE)
        and repr(normalizer) == _LLAMA_NORMALIZER
        and cutter is None
        and model.byte_fallback
        and not model.dropout
        and not _ACROSS_WORDS.search("\0".join(tokenizer.get_vocab()))
    )
