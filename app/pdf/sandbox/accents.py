"""Accents that are drawn apart from their letters, as TeX does it: `Schr¨odinger`, `Libert`a`.

A reader sees one letter. In the text an accent stands before its letter or after it; above a capital also in
a line of its own, or within another word of the line.
"""

import re
import unicodedata
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence

from app.pdf.pages import Box

# What each sign is, above or below a letter.
_COMBINING = {
    "`": "\u0300", "\u00b4": "\u0301", "^": "\u0302", "\u02c6": "\u0302", "~": "\u0303", "\u02dc": "\u0303",
    "\u00af": "\u0304", "\u02d8": "\u0306", "\u02d9": "\u0307", "\u00a8": "\u0308", "\u02da": "\u030a",
    "\u02dd": "\u030b", "\u02c7": "\u030c", "\u00b8": "\u0327", "\u02db": "\u0328",
}  # fmt: skip
_BELOW = "\u00b8\u02db"
_DOTLESS = {"\u0131": "i", "\u0237": "j"}
_SIGN = re.compile(f"[{re.escape(''.join(_COMBINING))}]")
_OTHER = re.compile(rf"[^\s{re.escape(''.join(_COMBINING))}]")
# Of one letter.
MOST_ACCENTS = 3
# Characters before an accent out of place, and after it, among which its letter is: both are in one line.
REACH = 200
# Of a page; to look around one takes 0.3 ms.
MOST_OUT_OF_PLACE = 200
# Of a letter's width: so far beside it the middle of its accent may be, since letters lean.
ASIDE = 0.15
# Of a letter's height: so far from it, or into it, its accent may be.
APART = 0.6
# Of a letter's height: a wider gap is one between words.
GAP_OF_WORDS = 0.25

# Of characters, by their places in a text.
Boxes = Callable[[Sequence[int]], list[Box]]


def with_accents(text: str, boxes_of: Boxes) -> Sequence[tuple[str, int]]:
    """The characters of the text with whole letters, and their places in `text`; empty if all are."""
    if not any(sign in text for sign in _COMBINING):  # 20 times as quick as looking where
        return ()
    accents = _Accents(text, boxes_of)
    for sign in _SIGN.finditer(text):
        accents.place(sign.start())
    return accents.whole_letters()


class _Accents:
    """Of one text: what each of its letters bears, and what is gone."""

    def __init__(self, text: str, boxes_of: Boxes) -> None:
        self._text = text
        self._boxes_of = boxes_of
        self._others = [other.start() for other in _OTHER.finditer(text)]
        self._borne: defaultdict[int, str] = defaultdict(str)
        self._gone: set[int] = set()
        self._searches = 0

    def whole_letters(self) -> Sequence[tuple[str, int]]:
        if not self._borne:
            return ()
        return [
            (character, place)
            for place, letter in enumerate(self._text)
            if place not in self._gone
            for character in self._whole(place, letter)
        ]

    def _whole(self, place: int, letter: str) -> str:
        if place not in self._borne:
            return letter
        return unicodedata.normalize("NFC", _DOTLESS.get(letter, letter) + self._borne[place])

    def place(self, sign: int) -> None:
        """If a sign is the accent of a letter, the letter bears it from now on."""
        number = bisect(self._others, sign)
        beside = self._others[max(number - 1, 0) : number + 1]
        box, *boxes = self._boxes_of([sign, *beside])
        letter = self._under(sign, box, beside, boxes)
        if letter is None and self._is_out_of_place(sign, box, beside, boxes):
            around = self._others[max(number - REACH, 0) : number + REACH]
            letter = self._under(sign, box, around, self._boxes_of(around))
        if letter is None:
            return
        if len(self._borne[letter]) < MOST_ACCENTS:
            self._borne[letter] += _COMBINING[self._text[sign]]
        self._gone.add(sign)
        if any(character.isspace() for character in self._text[min(sign, letter) : max(sign, letter)]):
            self._close(beside, boxes)

    def _under(self, sign: int, box: Box, places: Sequence[int], boxes: Sequence[Box]) -> int | None:
        is_below = self._text[sign] in _BELOW
        for place, letter in zip(places, boxes, strict=True):
            if self._text[place].isalpha() and _bears(letter, box, is_below=is_below):
                return place
        return None

    def _is_out_of_place(self, sign: int, box: Box, beside: Sequence[int], boxes: Sequence[Box]) -> bool:
        """Not where it stands in the text: between what is before it and what is behind it in its line."""
        if self._searches == MOST_OUT_OF_PLACE:
            return False
        self._searches += 1
        width = box[2] - box[0]
        follows = [
            other[0] <= box[0] if place < sign else box[2] - width < other[0]
            for place, other in zip(beside, boxes, strict=True)
            if "\n" not in self._text[min(place, sign) : max(place, sign)]
        ]
        return not follows or not all(follows)

    def _close(self, beside: Sequence[int], boxes: Sequence[Box]) -> None:
        """Between what is beside an accent there is no more space than the eye sees."""
        if len(beside) < 2:
            return
        (first, last), (before, after) = beside, boxes
        spaces = [place for place in range(first + 1, last) if self._text[place].isspace()]
        if "\n" in self._text[first:last]:
            return
        is_gap = after[0] - before[2] > GAP_OF_WORDS * max(before[3] - before[1], after[3] - after[1])
        self._gone.update(spaces[1:] if is_gap else spaces)


def _bears(letter: Box, accent: Box, *, is_below: bool) -> bool:
    left, top, right, bottom = letter
    width, height = right - left, bottom - top
    apart = accent[1] - bottom if is_below else top - accent[3]
    return (
        left - ASIDE * width <= (accent[0] + accent[2]) / 2 <= right + ASIDE * width
        and width > 0
        and abs(apart) <= APART * height
    )
