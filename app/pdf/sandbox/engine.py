"""What an engine is."""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from app.pdf.pages import Line, OutlineEntry
from app.pdf.sandbox.pictures import Picture

MOST_CHARACTERS_A_PAGE = 1_000_000
# With more garbage the font does not say what its glyphs are: better to look at the page.
GARBLED = 0.2
# With more garbage there is nothing to find in it.
ILLEGIBLE = 0.5
_GARBAGE = re.compile("[\x00\x01\x03-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd-\uffff]")


class PageError(Exception):
    """This engine cannot read this page."""


@dataclass(slots=True)
class PageText:
    """What an engine found on a page; its text is not clean yet."""

    lines: list[Line]
    is_scan: bool = False
    """Its text has to be read from its picture; `lines` are all there is where that fails."""
    is_doubtful: bool = False
    """Another engine may find more: nothing is drawn on it, or text without characters, or without sense."""
    engine: str = ""


@runtime_checkable
class Renderer(Protocol):
    """An engine that can make pictures of pages."""

    def render(self, number: int, scale: float, most_pixels: int) -> Picture:
        """In shades of grey. Raises PageError."""
        ...


def garbage_share(text: str) -> float:
    """How much of it is controls, private-use or replacement characters, from 0 to 1."""
    return len(_GARBAGE.findall(text)) / max(len(text), 1)


class Engine(Protocol):
    """One open document. Pages count from 1."""

    name: str
    pages_total: int
    is_mended: bool
    """The file had lost its end: a page that cannot be read was lost with it."""

    def __init__(self, file: mmap.mmap, password: str | None) -> None:
        """Raises an Unreadable when the file cannot be opened."""

    def title(self) -> str: ...

    def outline(self) -> Iterator[OutlineEntry]: ...

    def read_page(self, number: int) -> PageText:
        """Raises PageError, or TooMuchText."""
        ...
