"""Lines repeated at the top or bottom of most pages: read once, not once a page."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from app.pdf.pages import Line

MOST_LINES = 3
"""At either edge of a page, and never more than a quarter of it."""
FEWEST_PAGES = 3
SHARE_OF_PAGES = 0.4
"""Left and right pages often have heads of their own."""
CELLS_OF_A_TABLE = 4
"""The head of a table that goes on over pages stays."""

_NUMBER = re.compile(r"\d{1,5}")


class RunningHeads:
    """Which lines are repeated. Each is left where it stands first; page numbers are left nowhere."""

    def __init__(self, pages: Iterable[tuple[int, Sequence[Line]]]) -> None:
        first_pages: dict[str, int] = {}
        counts: Counter[str] = Counter()
        pages_with_text = 0
        for number, lines in pages:
            pages_with_text += bool(lines)
            for key in {key for edge in _edges(lines) for _, line in edge for key in _keys(line, number)}:
                counts[key] += 1
                first_pages.setdefault(key, number)
        enough = max(FEWEST_PAGES, SHARE_OF_PAGES * pages_with_text)
        self._first_pages = {key: first_pages[key] for key, count in counts.items() if count >= enough}

    def without(self, number: int, lines: Sequence[Line]) -> list[Line]:
        """The lines of page `number` that are not repeated ones."""
        dropped: set[int] = set()
        for edge in _edges(lines):
            for place, line in edge:
                repeated = [key for key in _keys(line, number) if key in self._first_pages]
                if not repeated:
                    break
                has_words = any(map(str.isalpha, line.text))
                if not has_words or all(self._first_pages[key] != number for key in repeated):
                    dropped.add(place)
        kept = [line for place, line in enumerate(lines) if place not in dropped]
        return kept or list(lines)


Edge = list[tuple[int, Line]]


def _edges(lines: Sequence[Line]) -> tuple[Edge, Edge]:
    """The first lines from the top and from the bottom of the page, outermost first."""
    placed = [(place, line) for place, line in enumerate(lines) if not line.is_hidden]
    placed.sort(key=lambda item: item[1].box[1] if item[1].box else 0.0)
    most = min(MOST_LINES, max(1, len(placed) // 4))
    return placed[:most], placed[::-1][:most]


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
