"""Lines repeated at the top or bottom of most pages: read once, not once a page."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

from app.pdf.pages import Line

MOST_LINES = 3
"""At either edge of a page."""
FEWEST_PAGES = 3
SHARE_OF_PAGES = 0.4
"""Left and right pages often have headers of their own."""
CELLS_OF_A_TABLE = 4

_NUMBER = re.compile(r"\d+")
_LONE_NUMBER = re.compile(r"[^\w]*(\d{1,5})[^\w]*")


class RunningHeads:
    """Which lines are repeated; each is left where it stands first, page numbers nowhere."""

    def __init__(self, pages: Iterable[tuple[int, Sequence[Line]]]) -> None:
        first_pages: dict[Hashable, int] = {}
        counts: Counter[Hashable] = Counter()
        pages_with_text = 0
        for number, lines in pages:
            pages_with_text += bool(lines)
            for key in {key for edge in _edges(lines) for _, key in _keys(edge, number)}:
                counts[key] += 1
                first_pages.setdefault(key, number)
        enough = max(FEWEST_PAGES, SHARE_OF_PAGES * pages_with_text)
        self._first_pages = {key: first_pages[key] for key, count in counts.items() if count >= enough}

    def without(self, number: int, lines: Sequence[Line]) -> list[Line]:
        """The lines of page `number` that are not repeated ones."""
        dropped: set[int] = set()
        for edge in _edges(lines):
            for place, key in _keys(edge, number):
                if key not in self._first_pages:
                    break
                if not isinstance(key, str) or self._first_pages[key] != number:
                    dropped.add(place)
        return [line for place, line in enumerate(lines) if place not in dropped]


Edge = list[tuple[int, Line]]


def _edges(lines: Sequence[Line]) -> tuple[Edge, Edge]:
    """The first lines from the top and from the bottom of the page, outermost first."""
    placed = [(place, line) for place, line in enumerate(lines) if not line.is_hidden]
    placed.sort(key=lambda item: item[1].box[1] if item[1].box else 0.0)
    half = min(MOST_LINES, (len(placed) + 1) // 2)
    return placed[:half], placed[::-1][:half]


def _keys(edge: Edge, number: int) -> Iterator[tuple[int, Hashable]]:
    """What makes the line of one page that of another: its words, or its distance from the page's number."""
    for place, line in edge:
        if (lone := _LONE_NUMBER.fullmatch(line.text)) is not None:
            yield place, int(lone[1]) - number
        elif line.text.count("\t") < CELLS_OF_A_TABLE - 1 and any(map(str.isalpha, line.text)):
            yield place, _NUMBER.sub("#", line.text).casefold()
        else:
            return
