"""What a reader yields: the facts of a document, then its pages in order."""

from dataclasses import dataclass

# left, top, right, bottom in points; origin at the top left of the page.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of clean text; cells of a table row are separated by tabs."""

    text: str
    box: Box | None = None
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page, counted from 1. `error` says that it could not be read; no lines: it has no text.

    `engine` names the one that read it. `headings` begin on it, by the looks of its lines; none of a document
    with an outline.
    """

    number: int
    lines: tuple[Line, ...] = ()
    error: str | None = None
    engine: str | None = None
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutlineEntry:
    """A heading of the document's outline and the page (from 1) where its section starts."""

    title: str
    page: int


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What is known before the first page; `engine` is the one that opened it."""

    engine: str
    pages_total: int
    title: str | None = None
    outline: tuple[OutlineEntry, ...] = ()
