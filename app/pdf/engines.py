"""What an engine is, and the two there are. Used in reading processes only."""

import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.pdf.pages import Line, OutlineEntry

MOST_CHARACTERS_A_PAGE = 1_000_000
_GARBAGE = re.compile("[\x00\x01\x03-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd-\uffff]")


class PageError(Exception):
    """This engine cannot read this page."""


@dataclass(slots=True)
class PageText:
    """What an engine found on a page; its text is not clean yet."""

    lines: list[Line]
    height: float = 0.0
    is_garbled: bool = False
    """The font does not say which characters its glyphs are."""
    picture_share: float = 0.0
    """Of the page's area; only looked at where text is scarce, garbled or invisible."""


@dataclass(slots=True)
class Properties:
    title: str = ""
    author: str = ""
    created_at: datetime | None = None
    modified_at: datetime | None = None


def is_garbled(text: str) -> bool:
    """Is more than a fifth control, private-use or replacement characters?"""
    return len(_GARBAGE.findall(text)) * 5 > len(text)


class Engine(Protocol):
    """One open document. Pages count from 1."""

    name: str
    pages_total: int

    def __init__(self, file: mmap.mmap, password: str | None) -> None:
        """Raises an Unreadable when the file cannot be opened."""

    def properties(self) -> Properties: ...

    def outline(self) -> Iterator[OutlineEntry]: ...

    def page_label(self, number: int) -> str: ...

    def read_page(self, number: int) -> PageText:
        """Raises PageError, or TooMuchText."""
        ...


def engine_called(name: str) -> type[Engine]:
    """The engines, by name; each is imported when it is first asked for (pypdf takes 0.2 s)."""
    return _ENGINES[name]()


def _pdfium() -> type[Engine]:
    from app.pdf.pdfium import Pdfium

    return Pdfium


def _pypdf() -> type[Engine]:
    from app.pdf.pypdf_engine import PyPDF

    return PyPDF


_ENGINES: dict[str, Callable[[], type[Engine]]] = {"pdfium": _pdfium, "pypdf": _pypdf}
