"""The one border for text from outside: pages, headings, titles, metadata and file names.

Whatever goes in, Postgres accepts what comes out; cleaning twice changes nothing.
"""

import re
import unicodedata
from functools import cache

# Characters without white space; at most 2,000 bytes, under Postgres' 2,046 for a lexeme.
LONGEST_RUN = 500

# Letters; more than these at one place were not drawn for the eye.
LONGEST_LIGATURE = 4
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONGEST_RUN + 1},}}")
# Rows of dots that lead to a page number. Tabs separate cells, and a cell may be a dot.
_LEADERS = re.compile(r"([.·・])(?: *\1){4,}")
# Its end and an ellipsis.
DOTS_OF_A_SENTENCE = 4
_NEWLINE = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Zero width spaces, soft hyphen, byte order mark, and the marks that reorder text to disguise it.
_INVISIBLE = frozenset(
    "\u00ad\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_KEPT_TAGS = ("<super>", "<sub>", "<fraction>")


class _Folding(dict[int, str]):
    """What each character becomes, worked out when it is first met (for str.translate)."""

    def __missing__(self, codepoint: int) -> str:
        folded = self[codepoint] = _fold(codepoint)
        return folded


def _fold(codepoint: int) -> str:
    character = chr(codepoint)
    category = unicodedata.category(character)
    if character in "\t\n":
        return character
    if category in ("Cc", "Cs") or _is_noncharacter(codepoint) or character in _INVISIBLE:
        return ""
    if category == "Zs":
        return " "
    decomposition = unicodedata.decomposition(character)
    is_presentation_form = decomposition.startswith("<") and not decomposition.startswith(_KEPT_TAGS)
    if is_presentation_form and " 0020 " not in f" {decomposition} ":
        return unicodedata.normalize("NFKC", character)
    return unicodedata.normalize("NFC", character)


def spelling(letters: str) -> str:
    """The letters of one right-to-left glyph in reading order, when they may have been turned round.

    A ligature that Unicode knows is as it should be; lam and alef are one, alef and lam are none.
    """
    if len(letters) > LONGEST_LIGATURE or letters in _ligatures():
        return letters
    return letters[::-1]


@cache
def _ligatures() -> frozenset[str]:
    """Of Hebrew and Arabic letters, those which are none when turned round."""
    codepoints = (*range(0xFB1D, 0xFE00), *range(0xFE70, 0xFEFD))
    spelled = {unicodedata.normalize("NFKC", chr(codepoint)) for codepoint in codepoints}
    return frozenset(letters for letters in spelled if len(letters) > 1 and letters[::-1] not in spelled)


def _is_noncharacter(codepoint: int) -> bool:
    return codepoint & 0xFFFE == 0xFFFE or 0xFDD0 <= codepoint <= 0xFDEF


_folding = _Folding()


def _split_run(run: re.Match[str]) -> str:
    return " ".join(run[0][start : start + LONGEST_RUN] for start in range(0, len(run[0]), LONGEST_RUN))


def clean(text: str) -> str:
    """Text without controls, lone surrogates and noncharacters; ligatures spelled out; NFC; `\\n` line ends.

    Superscripts and fractions stay (x² is not x2). Runs without white space are split at LONGEST_RUN; of
    leaders three dots stay.
    """
    is_ascii = text.isascii()
    if not is_ascii:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        text = _NEWLINE.sub("\n", paired).translate(_folding)
    elif not text.replace("\t", "").isprintable():
        text = _NEWLINE.sub("\n", text).translate(_folding)
    if not is_ascii or text.count(".") > DOTS_OF_A_SENTENCE:
        text = _LEADERS.sub(r"\1\1\1", text)
    if len(text) > LONGEST_RUN:
        text = _LONG_RUN.sub(_split_run, text)
    return text if is_ascii else unicodedata.normalize("NFC", text)
