"""What a reading process may say, and how often: its owner believes it nothing.

A hostile file may have taken the process over. What arrives has the right types already (`wire`); here it
is held against the request and against what was said before, and text is cleaned again.
"""

from dataclasses import replace

from app.errors import TooMuchText
from app.pdf.pages import Box, DocumentFacts, Line, OutlineEntry, Page
from app.pdf.text import clean
from app.pdf.wire import OCR, At, FrameError, News, ReadRequest

# Characters of a title, a heading or an error.
LONGEST_NOTE = 1_000
LONGEST_OUTLINE = 5_000
# Points, 3.5 km: pages of a billion points exist, lines so far out are on no picture.
FARTHEST = 1e7


class Conversation:
    """One process, from its first place to its last page. `earlier`: the facts another one has told."""

    def __init__(self, request: ReadRequest, earlier: DocumentFacts | None) -> None:
        self._request = request
        self._earlier = earlier
        self._facts: DocumentFacts | None = None
        self._places_left = (request.max_pages + 1) * (len(request.engines) + 1)
        self._recognitions_left = request.ocr_pages
        self._headings_left = LONGEST_OUTLINE
        self._pages = 0
        self._characters = 0
        self.is_recognising = False
        """Whether it may take OCR's time for what it is at."""

    def heard(self, news: News) -> News:
        """The news, clean. Raises FrameError when it cannot be, and TooMuchText."""
        if isinstance(news, At):
            return self._place(news)
        return self._told(news) if isinstance(news, DocumentFacts) else self._page(news)

    def _place(self, at: At) -> At:
        self._places_left -= 1
        is_possible = 0 <= at.page <= self._request.max_pages
        is_possible &= 0 <= at.pages_done <= at.pages_total <= self._request.max_pages
        if self._places_left < 0 or not is_possible or at.reader not in (*self._request.engines, OCR):
            raise FrameError("a place that cannot be")
        is_ocr = at.reader == OCR
        self._recognitions_left -= is_ocr
        self.is_recognising = is_ocr and self._recognitions_left >= 0
        return at

    def _told(self, facts: DocumentFacts) -> DocumentFacts:
        known = self._earlier.pages_total if self._earlier else facts.pages_total
        is_possible = self._facts is None and facts.pages_total == known
        is_possible &= 1 <= facts.pages_total <= self._request.max_pages
        is_possible &= facts.engine in self._request.engines
        is_possible &= len(facts.outline) <= LONGEST_OUTLINE
        if not is_possible:
            raise FrameError("facts that cannot be")
        self._facts = replace(
            facts,
            title=_note(facts.title),
            outline=tuple(self._entry(entry, facts.pages_total) for entry in facts.outline),
        )
        return self._facts

    def _entry(self, entry: OutlineEntry, pages_total: int) -> OutlineEntry:
        title = _note(entry.title)
        if not title or not 1 <= entry.page <= pages_total:
            raise FrameError("an outline that cannot be")
        return replace(entry, title=title)

    def _page(self, page: Page) -> Page:
        self._pages += 1
        if self._facts is None or page.number != self._pages or page.number > self._facts.pages_total:
            raise FrameError("a page that cannot come now")
        if page.engine not in (None, *self._request.engines):
            raise FrameError("a page of an engine that cannot be")
        self._headings_left -= len(page.headings)
        if self._headings_left < 0:
            raise FrameError("more headings than can be")
        lines = tuple(line for line in map(_line, page.lines) if line.text)
        self._characters += sum(len(line.text) for line in lines)
        if self._characters > self._request.max_characters:
            raise TooMuchText
        headings = tuple(title for title in map(_note, page.headings) if title)
        return Page(page.number, lines, _note(page.error), page.engine, headings)


def _line(line: Line) -> Line:
    text = clean(line.text).strip()
    box = line.box if line.box and _is_on_a_page(line.box) else None
    return line if text == line.text and box == line.box else Line(text, box, line.is_hidden)


def _is_on_a_page(box: Box) -> bool:
    left, top, right, bottom = box
    return -FARTHEST <= left <= right <= FARTHEST and -FARTHEST <= top <= bottom <= FARTHEST


def _note(text: str | None) -> str | None:
    return None if text is None else " ".join(clean(text[:LONGEST_NOTE]).split()) or None
