"""What a reader yields: the facts of a document, then its pages in order."""

from dataclasses import dataclass, field
from datetime import datetime

Box = tuple[float, float, float, float]
"""left, top, right, bottom in points; origin at the top left of the page."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of clean text; cells of a table row are separated by tabs."""

    text: str
    box: Box | None = None
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page, counted from 1. `error` says that it could not be read; no lines: it has no text."""

    number: int
    lines: tuple[Line, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class OutlineEntry:
    """A heading of the document's outline and the page (from 1) where its section starts."""

    title: str
    page: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What is known before the first page. `engine` names the one that reads it, or "pdfium+pypdf" for both.

    `page_labels` are the numbers printed on the pages, empty when they are simply 1, 2, 3…
    """

    engine: str
    pages_total: int
    title: str | None = None
    author: str | None = None
    outline: tuple[OutlineEntry, ...] = field(default=())
    created_at: datetime | None = None
    modified_at: datetime | None = None
    page_labels: tuple[str, ...] = ()
