"""Reading one document from its first byte to its last page, inside a reading process.

All pages are read before the first is given out: which lines are repeated heads, and how broken words
are spelled, only the whole document tells.
"""

import mmap
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from app.errors import (
    Corrupted,
    Encrypted,
    NoPages,
    NotAPDF,
    NoText,
    OutOfMemory,
    TooManyPages,
    TooMuchText,
    Unreadable,
    UnsupportedEncryption,
)
from app.pdf.pages import DocumentFacts, Line, OutlineEntry, Page
from app.pdf.sandbox.engine import Engine, PageError, PageText, Renderer
from app.pdf.sandbox.engines import engine_called
from app.pdf.sandbox.headings import headings
from app.pdf.sandbox.hyphens import Hyphens
from app.pdf.sandbox.ocr import OCRError, Tesseract
from app.pdf.sandbox.running_heads import RunningHeads
from app.pdf.text import clean
from app.pdf.wire import At, Frame, ReadRequest, at_to_frame, facts_to_frame, page_to_frame

MARK_WITHIN = 1_024
"""Bytes from the start in which the mark %PDF must begin."""
FAILURES_IN_A_ROW = 50
OCR_PIXELS = 25_000_000
LONGEST_PROPERTY = 1_000


class DocumentReading:
    """One document; `frames()` yields where it is, the facts, then the pages. Raises an Unreadable."""

    def __init__(self, file: mmap.mmap, request: ReadRequest, tesseract: Tesseract) -> None:
        self._file = file
        self._request = request
        self._engines: list[Engine] = []
        self._found: dict[int, PageText] = {}
        self._readers: list[str] = []
        self._pages_total = 0
        self._pages_done = 0
        self._characters = 0
        self._has_run_out_of_memory = False
        self._recognised_pages = 0
        self._tesseract = tesseract

    def frames(self) -> Iterator[Frame]:
        if b"%PDF" not in self._file[: MARK_WITHIN + 3]:
            raise NotAPDF
        names = list(self._request.engines)
        engine = yield from self._opened_by_one_of(names)
        self._pages_total = engine.pages_total
        yield from self._read(engine, range(1, self._pages_total + 1))
        yield from self._read_missing(names)
        if not self._found:
            raise OutOfMemory if self._has_run_out_of_memory else Corrupted
        readable = self._readable()
        yield facts_to_frame(self._facts(engine, readable))
        yield from self._pages(readable)

    def _opened_by_one_of(self, names: list[str]) -> Generator[Frame, None, Engine]:
        """The first engine that opens the document; takes the names it has tried from the list."""
        verdicts: list[Unreadable] = []
        while names:
            name = names.pop(0)
            yield self._at(name)
            try:
                engine = self._open(name)
                if engine.pages_total == 0:
                    raise NoPages
                if engine.pages_total > self._request.max_pages:
                    raise TooManyPages
            except TooManyPages:
                raise
            except Unreadable as verdict:
                verdicts.append(verdict)
            else:
                return engine
        telling = (verdict for verdict in verdicts if isinstance(verdict, Encrypted | UnsupportedEncryption))
        raise next(telling, verdicts[0] if verdicts else Corrupted())

    def _at(self, reader: str, page: int = 0) -> Frame:
        return at_to_frame(At(reader, page, self._pages_done, self._pages_total))

    def _open(self, name: str) -> Engine:
        """Without a password first: a wrong one fails where only the owner's is set."""
        engine_class = engine_called(name)
        try:
            engine = engine_class(self._file, None)
        except Encrypted:
            if self._request.password is None:
                raise
            engine = engine_class(self._file, self._request.password)
        self._engines.append(engine)
        return engine

    def _facts(self, engine: Engine, readable: dict[int, list[Line]]) -> DocumentFacts:
        properties = engine.properties()
        outline = list(self._outline(engine.outline()))
        return DocumentFacts(
            engine="+".join(self._readers),
            pages_total=engine.pages_total,
            title=_property(properties.title),
            author=_property(properties.author),
            outline=tuple(outline or self._outline(headings(list(readable.items())))),
            created_at=properties.created_at,
            modified_at=properties.modified_at,
            page_labels=self._page_labels(engine),
        )

    def _outline(self, entries: Iterable[OutlineEntry]) -> Iterator[OutlineEntry]:
        for entry in entries:
            title = _property(entry.title)
            if title and 1 <= entry.page <= self._pages_total:
                yield replace(entry, title=title)

    def _page_labels(self, engine: Engine) -> tuple[str, ...]:
        numbers = [str(number) for number in range(1, engine.pages_total + 1)]
        labels = [clean(engine.page_label(number))[:50] for number in range(1, engine.pages_total + 1)]
        return () if labels == numbers or not any(labels) else tuple(labels)

    def _read(self, engine: Engine, numbers: Iterable[int]) -> Iterator[Frame]:
        failures = 0
        for number in numbers:
            if number in self._request.skipped.get(engine.name, ()):
                continue
            yield self._at(engine.name, number)
            try:
                page = engine.read_page(number)
                if number in self._found and not page.lines:
                    raise PageError  # nothing that was not known
            except (PageError, MemoryError) as error:
                self._has_run_out_of_memory |= isinstance(error, MemoryError)
                failures += 1
                if failures == FAILURES_IN_A_ROW:
                    return
                continue
            failures = 0
            self._count(page)
            known = self._found.get(number)
            self._pages_done += not page.is_scan and (known is None or known.is_scan)
            self._found[number] = page
            if engine.name not in self._readers:
                self._readers.append(engine.name)

    def _read_missing(self, names: list[str]) -> Iterator[Frame]:
        """What the first engine could not read, by the others."""
        while names and (missing := self._missing()):
            name = names.pop(0)
            yield self._at(name)
            try:
                engine = self._open(name)
            except Unreadable:
                continue
            if engine.pages_total == self._pages_total:  # else its page 3 is not the other's
                yield from self._read(engine, missing)

    def _missing(self) -> list[int]:
        """Pages not read yet; of a document without any text, those too in which there may be some."""
        numbers = range(1, self._pages_total + 1)
        if any(page.lines for page in self._found.values()):
            return [number for number in numbers if number not in self._found]
        pages = ((number, self._found.get(number)) for number in numbers)
        return [number for number, page in pages if page is None or page.is_doubtful]

    def _count(self, page: PageText) -> None:
        self._characters += sum(len(line.text) for line in page.lines)
        if self._characters > self._request.max_characters:
            raise TooMuchText

    def _readable(self) -> dict[int, list[Line]]:
        """The lines of the pages that need no OCR, without running heads."""
        own_text = {number: page.lines for number, page in self._found.items() if not page.is_scan}
        heads = RunningHeads(own_text.items())
        return {number: heads.without(number, lines) for number, lines in own_text.items()}

    def _pages(self, readable: dict[int, list[Line]]) -> Iterator[Frame]:
        hyphens = Hyphens(line for lines in readable.values() for line in lines)
        has_text = False
        for number in range(1, self._pages_total + 1):
            page = self._found.get(number)
            if page is None:
                yield page_to_frame(Page(number, error="No engine could read this page."))
                continue
            if page.is_scan:
                yield self._at(Tesseract.name, number)
                lines = self._recognised(number) or page.lines
                self._pages_done += 1
            else:
                lines = readable[number]
            cleaned = _cleaned(hyphens.joined(lines))
            has_text |= bool(cleaned)
            yield page_to_frame(Page(number, cleaned))
        if not has_text:
            raise NoText(self._why_no_text())

    def _recognised(self, number: int) -> list[Line]:
        """The lines of a scanned page, none when it cannot be recognised."""
        is_over = self._recognised_pages >= self._request.ocr_pages
        if is_over or self._why_no_ocr() or number in self._request.skipped.get(Tesseract.name, ()):
            return []
        self._recognised_pages += 1
        renderer = next(engine for engine in self._engines if isinstance(engine, Renderer))
        try:
            return self._tesseract.read(lambda scale: renderer.render(number, scale, OCR_PIXELS))
        except (OCRError, PageError, MemoryError):
            return []

    def _why_no_ocr(self) -> str | None:
        if not any(isinstance(engine, Renderer) for engine in self._engines):
            return "only pdfium can render its pages for OCR, and cannot open it"
        return self._tesseract.why_not()

    def _why_no_text(self) -> str | None:
        """For a scan, what is missing; None leaves the verdict its own sentence."""
        if not any(page.is_scan for page in self._found.values()):
            return None
        why = self._why_no_ocr() or "OCR found no text on its pages (are the right OCR_LANGUAGES set?)"
        return f"The PDF is scanned, without text of its own; {why}."


def _property(text: str) -> str | None:
    return " ".join(clean(text[:LONGEST_PROPERTY]).split()) or None


def _cleaned(lines: Iterable[Line]) -> tuple[Line, ...]:
    texts = ((line, clean(line.text).strip()) for line in lines)
    return tuple([line if text == line.text else replace(line, text=text) for line, text in texts if text])
