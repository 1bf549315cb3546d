"""Headings by their looks, for documents without an outline: larger than the text, or bold on their own."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from app.pdf.pages import Line
from app.pdf.sandbox.layout import StyledLine

# Times the size of the text.
LARGER = 1.15
# Characters of a line.
LONGEST = 120
MOST_LINES = 3
MOST_HEADINGS = 5_000
# Of all lines: with more of them, they are no headings but the way the text is set.
LARGEST_SHARE = 0.25


# Its number may stand apart from the heading, as the cells of a row do.
_NUMBERED = re.compile(r"[^\t]{0,9}(\d|\.)[^\t]{0,3}\t[^\t]*[^\W\d_]{3}[^\t]*")


class _Style(NamedTuple):
    size: float
    is_bold: bool


class Headings:
    """Of one document. Its text is set in the style of most of the characters so far.

    Pages are added some before they are asked for.
    """

    def __init__(self) -> None:
        self._characters: Counter[_Style] = Counter()
        self._lines = 0
        self._found = 0

    def add(self, lines: Sequence[Line]) -> None:
        self._lines += len(lines)
        for line in lines:
            if isinstance(line, StyledLine):
                self._characters[_Style(line.size, line.is_bold)] += len(line.text)

    def of(self, lines: Sequence[Line]) -> list[str]:
        """Those of a page; none where looks do not tell."""
        if not self._characters:
            return []
        text_style = self._characters.most_common(1)[0][0]
        found = [text for _, text in _on_page(lines, text_style)]
        self._found += len(found)
        is_too_many = self._found > min(LARGEST_SHARE * self._lines, MOST_HEADINGS)
        return [] if is_too_many else found


def _on_page(lines: Sequence[Line], text_style: _Style) -> Iterator[tuple[_Style, str]]:
    """Lines that look like a heading; those that follow each other in one style are one."""

    def style(place: int) -> _Style | None:
        return _style_of_heading(lines, place, text_style)

    for found, places in groupby(range(len(lines)), style):
        texts = [lines[place].text for place in places]
        if found is not None and len(texts) <= MOST_LINES and _is_title("".join(texts)):
            yield found, " ".join(texts)


def _is_title(text: str) -> bool:
    return text[0].isalnum() and not text[0].islower() and not text.endswith((".", ",", ";"))


def _style_of_heading(lines: Sequence[Line], place: int, text_style: _Style) -> _Style | None:
    line = lines[place]
    if not isinstance(line, StyledLine) or line.is_hidden or len(line.text) > LONGEST:
        return None
    is_larger = line.size >= LARGER * text_style.size
    if not is_larger and (not line.is_bold or text_style.is_bold or line.size < text_style.size):
        return None
    if "\t" in line.text and not _NUMBERED.fullmatch(line.text):
        return None
    if sum(map(str.isalpha, line.text)) < 3:
        return None
    if not is_larger:
        neighbours = [*lines[max(place - 1, 0) : place], *lines[place + 1 : place + 2]]
        if any("\t" in other.text and not _NUMBERED.fullmatch(other.text) for other in neighbours):
            return None  # in a table
    return _Style(line.size, line.is_bold)
