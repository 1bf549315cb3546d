"""Lines repeated at the top or bottom of most pages around one: read once, not once a page."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.pdf.pages import Line

# At either edge of a page, and never more than a quarter of it.
MOST_LINES = 3
FEWEST_PAGES = 3
# Left and right pages often have heads of their own.
SHARE_OF_PAGES = 0.4
# The head of a table that goes on over pages stays.
CELLS_OF_A_TABLE = 4
# Looked at for one, as many before as after it: so the head of a chapter is one on its first page.
PAGES_AROUND = 33

_NUMBER = re.compile(r"\d{1,5}")


class _EdgeLine(NamedTuple):
    """A line of an edge by its place on the page, and what it has in common with those of other pages."""

    place: int
    keys: tuple[str, ...]
    has_words: bool


Edge = list[_EdgeLine]


class RunningHeads:
    """Which lines are repeated. Each is left where it stands first; page numbers are left nowhere.

    Pages are added in order, some before they are asked for, and each is asked for once, in order.
    """

    def __init__(self) -> None:
        self._edges: dict[int, tuple[Edge, Edge]] = {}
        self._counts: Counter[str] = Counter()
        self._first_pages: dict[str, int] = {}

    def add(self, number: int, lines: Sequence[Line]) -> None:
        if not lines:
            return
        self._edges[number] = edges = _edges(number, lines)
        self._counts.update(_keys_of(edges))
        if len(self._edges) > PAGES_AROUND:
            gone = self._edges.pop(next(iter(self._edges)))
            for key in _keys_of(gone):
                self._counts[key] -= 1
                if not self._counts[key]:
                    del self._counts[key]

    def without(self, number: int, lines: Sequence[Line]) -> list[Line]:
        """The lines of page `number`, as they were added, that are not repeated ones."""
        enough = max(FEWEST_PAGES, SHARE_OF_PAGES * len(self._edges))
        dropped: set[int] = set()
        for edge in self._edges.get(number, ()):
            for line in edge:
                repeated = [key for key in line.keys if self._counts[key] >= enough]
                if not repeated:
                    break
                if not line.has_words or all(self._first_page(key, number) != number for key in repeated):
                    dropped.add(line.place)
        kept = [line for place, line in enumerate(lines) if place not in dropped]
        return kept or list(lines)

    def _first_page(self, key: str, number: int) -> int:
        """The first of the pages around that has it, when it was found to be repeated."""
        if key not in self._first_pages:
            with_key = (page for page, edges in self._edges.items() if key in _keys_of(edges))
            self._first_pages[key] = next(with_key, number)
        return self._first_pages[key]


def _keys_of(edges: tuple[Edge, Edge]) -> set[str]:
    return {key for edge in edges for line in edge for key in line.keys}


def _edges(number: int, lines: Sequence[Line]) -> tuple[Edge, Edge]:
    """The first lines from the top and from the bottom of the page, outermost first."""
    placed = [
        (line.box[1] if line.box else 0.0, place) for place, line in enumerate(lines) if not line.is_hidden
    ]
    placed.sort()
    most = min(MOST_LINES, max(1, len(placed) // 4))
    top = [_edge_line(place, lines[place], number) for _, place in placed[:most]]
    bottom = [_edge_line(place, lines[place], number) for _, place in placed[::-1][:most]]
    return top, bottom


def _edge_line(place: int, line: Line, number: int) -> _EdgeLine:
    return _EdgeLine(place, tuple(_keys(line, number)), any(map(str.isalpha, line.text)))


def _keys(line: Line, number: int) -> Iterator[str]:
    """What the line has in common with that of another page: all of it, or all but a page number."""
    if line.text.count("\t") >= CELLS_OF_A_TABLE - 1 or len(line.text) > 300:
        return
    text = line.text.casefold()
    if any(map(str.isalpha, text)):
        yield text
    numbers = list(_NUMBER.finditer(text))
    for found in (numbers[:1] + numbers[-1:])[: len(numbers)]:
        yield f"{text[: found.start()]}[page {int(found[0]) - number:+}]{text[found.end() :]}"
