"""Reading one document from its first byte to its last page, inside a reading process.

Pages are given out as they are read, each after some more have been read: which lines are repeated heads,
which are headings and how broken words are spelled, the pages around and before it tell. Memory is that of
these pages, however many there are, and the same document always gives the same pages.
"""

import mmap
from collections import deque
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
from app.pdf.sandbox.headings import Headings
from app.pdf.sandbox.hyphens import Hyphens
from app.pdf.sandbox.ocr import OCRError, Tesseract
from app.pdf.sandbox.running_heads import RunningHeads
from app.pdf.text import clean
from app.pdf.wire import At, Frame, ReadRequest, at_to_frame, facts_to_frame, page_to_frame

# Bytes from the start in which the mark %PDF must begin.
MARK_WITHIN = 1_024
# Read before one is given out: 0.1 s on a page of text each.
PAGES_AHEAD = 16
FAILURES_IN_A_ROW = 50
OCR_PIXELS = 25_000_000
LONGEST_PROPERTY = 1_000
DOTS_OF_AN_ELLIPSIS = 4

# A page's number and what was found on it; None: no engine could read it.
Found = tuple[int, PageText | None]


class DocumentReading:
    """One document; `frames()` yields where it is, the facts, then the pages. Raises an Unreadable."""

    def __init__(self, file: mmap.mmap, request: ReadRequest, tesseract: Tesseract) -> None:
        self._file = file
        self._request = request
        self._names = list(request.engines)
        self._engines: list[Engine] = []
        self._failures: dict[str, int] = {}
        self._pages_total = 0
        self._pages_done = 0
        self._characters = 0
        self._is_read = self._has_lines = self._has_text = self._has_scans = False
        self._has_run_out_of_memory = False
        self._recognised_pages = 0
        self._tesseract = tesseract
        self._heads = RunningHeads()
        self._hyphens = Hyphens()
        self._headings: Headings | None = None

    def frames(self) -> Iterator[Frame]:
        if b"%PDF" not in self._file[: MARK_WITHIN + 3]:
            raise NotAPDF
        engine = yield from self._opened_by_one_of(self._names)
        self._pages_total = engine.pages_total
        facts = self._facts(engine)
        yield facts_to_frame(facts)
        if not facts.outline:
            self._headings = Headings()
        waiting: deque[Found] = deque()
        for found in self._settled():
            if isinstance(found, dict):
                yield found
                continue
            self._learn(*found)
            waiting.append(found)
            if len(waiting) > PAGES_AHEAD:
                yield from self._given(*waiting.popleft())
        for found in waiting:
            yield from self._given(*found)
        if not self._is_read:
            raise OutOfMemory if self._has_run_out_of_memory else Corrupted
        if not self._has_text:
            raise NoText(self._why_no_text())

    def _settled(self) -> Iterator[Frame | Found]:
        """The pages in order. As long as none has text, those that may have some are held back for a while:
        if none comes, the other engines are asked for them.
        """
        held: list[Found] = []
        for number in range(1, self._pages_total + 1):
            page = yield from self._read(number)
            held.append((number, page))
            if self._has_lines or len(held) > PAGES_AHEAD or number == self._pages_total:
                for one, known in held:
                    yield one, (yield from self._doubted(one, known))
                held.clear()

    def _doubted(self, number: int, known: PageText | None) -> Generator[Frame, None, PageText | None]:
        if self._has_lines or known is None or not known.is_doubtful:
            return known
        better = yield from self._read(number, known)
        return better or known

    def _read(self, number: int, known: PageText | None = None) -> Generator[Frame, None, PageText | None]:
        """The page by the first engine that can, but for the one that `known` is of."""
        engines = iter(self._engines)
        while engine := next(engines, None) or (yield from self._next_engine()):
            if (known and engine.name == known.engine) or not self._may_read(engine, number):
                continue
            yield self._at(engine.name, number)
            try:
                page = engine.read_page(number)
                if known and not page.lines:
                    raise PageError  # nothing that was not known
            except (PageError, MemoryError) as error:
                self._has_run_out_of_memory |= isinstance(error, MemoryError)
                self._failures[engine.name] += 1
                continue
            self._failures[engine.name] = 0
            page.engine = engine.name
            self._count(page)
            return page
        return None

    def _may_read(self, engine: Engine, number: int) -> bool:
        is_sane = self._failures[engine.name] < FAILURES_IN_A_ROW
        return is_sane and number not in self._request.skipped.get(engine.name, ())

    def _next_engine(self) -> Generator[Frame, None, Engine | None]:
        """One that was not tried yet and finds as many pages: else its page 3 is not the others'."""
        while self._names:
            name = self._names.pop(0)
            yield self._at(name)
            try:
                engine = self._open(name)
            except Unreadable:
                continue
            if engine.pages_total == self._pages_total:
                return engine
            self._failures[name] = FAILURES_IN_A_ROW
        return None

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
            except (TooManyPages, NoText):
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
        self._failures[name] = 0
        return engine

    def _facts(self, engine: Engine) -> DocumentFacts:
        return DocumentFacts(
            engine=engine.name,
            pages_total=engine.pages_total,
            title=_property(engine.title()),
            outline=tuple(self._outline(engine.outline())),
        )

    def _outline(self, entries: Iterable[OutlineEntry]) -> Iterator[OutlineEntry]:
        for entry in entries:
            title = _property(entry.title)
            if title and 1 <= entry.page <= self._pages_total:
                yield replace(entry, title=title)

    def _count(self, page: PageText) -> None:
        self._is_read = True
        self._has_lines |= bool(page.lines)
        self._characters += sum(len(line.text) for line in page.lines)
        if self._characters > self._request.max_characters:
            raise TooMuchText

    def _learn(self, number: int, page: PageText | None) -> None:
        """What a page tells about those around it. Of a scan's own text nothing is believed."""
        if page is None or page.is_scan:
            return
        self._heads.add(number, page.lines)
        self._hyphens.add(page.lines)
        if self._headings:
            self._headings.add(page.lines)

    def _given(self, number: int, page: PageText | None) -> Iterator[Frame]:
        if page is None:
            if any(engine.is_mended for engine in self._engines):
                raise Corrupted
            self._pages_done += 1
            yield page_to_frame(Page(number, error="No engine could read this page."))
            return
        headings: list[str] = []
        if page.is_scan:
            self._has_scans = True
            yield self._at(Tesseract.name, number)
            lines = self._recognised(number) or page.lines
        else:
            lines = self._heads.without(number, page.lines)
            headings = self._headings.of(lines) if self._headings else []
        cleaned = _cleaned(self._hyphens.joined(lines))
        self._has_text |= bool(cleaned)
        self._pages_done += 1
        titles = tuple(title for title in map(_property, headings) if title)
        yield page_to_frame(Page(number, cleaned, engine=page.engine, headings=titles))

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
        if not self._has_scans:
            return None
        why = self._why_no_ocr() or "OCR found no text on its pages (are the right OCR_LANGUAGES set?)"
        return f"The pages of the PDF are pictures, without text of their own; {why}."


def _property(text: str) -> str | None:
    return " ".join(clean(text[:LONGEST_PROPERTY]).split()) or None


def _is_leader(text: str) -> bool:
    """Dots alone, as they lead from a heading to its page, so low that they are a line of their own."""
    return text.count(".") > DOTS_OF_AN_ELLIPSIS and not text.strip(". \t")


def _cleaned(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Of what JSON cannot hold and the eye cannot see. Whoever owns the process cleans all of it."""
    texts = ((line, _visible(line.text).strip()) for line in lines)
    kept = (one for one in texts if one[1] and not (one[1][0] == "." and _is_leader(one[1])))
    return tuple([line if text == line.text else replace(line, text=text) for line, text in kept])


def _visible(text: str) -> str:
    return text if text.replace("\t", "").isprintable() else clean(text)
