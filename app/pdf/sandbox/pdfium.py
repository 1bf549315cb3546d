"""The first engine, Google's pdfium: fast; out of memory it aborts its whole process.

Only for reading processes with a single thread: pdfium in two threads crashes.
"""

import ctypes
import mmap
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import groupby, islice, pairwise
from operator import itemgetter
from typing import NamedTuple

import pypdfium2
from pypdfium2 import raw

from app.errors import Corrupted, Encrypted, NoPages, NotAPDF, TooMuchText, UnsupportedEncryption
from app.pdf.pages import Box, OutlineEntry
from app.pdf.sandbox.engine import (
    GARBLED,
    ILLEGIBLE,
    MOST_CHARACTERS_A_PAGE,
    PageError,
    PageText,
    Properties,
    garbage_share,
)
from app.pdf.sandbox.forms import CHECKED, Fields, Forms, is_filled_in, texts_of_fields
from app.pdf.sandbox.layout import CELL_GAP, HYPHEN, RTL_LETTER, Span, around, lines_of
from app.pdf.sandbox.pictures import Picture, render
from app.pdf.text import spelling

DEEPEST_OUTLINE = 8
LONGEST_OUTLINE = 5_000
SCARCE = 10
"""Fewer characters on a page of pictures are a page number, not its text."""
PICTURES_OF_A_SCAN = 0.25
PICTURES_UNDER_OCR = 0.5
"""Invisible text over so much picture is what OCR found in it; elsewhere it is hidden."""
PALE = 200
"""Text of lighter colours, of 255, is looked at on the rendered page: is it there for the eye?"""
WIDEST_CHARACTER = 0.75
"""Of the line's height, on average; wider lines hold gaps."""
LONGEST_FONT_NAME = 200
MOST_OBJECTS_SEARCHED = 1_000
MOST_OBJECTS_RENDERED = 20_000
PICTURE_PIXELS = 2_000_000

_LINE = re.compile(f"[^\r\n{HYPHEN}]+{HYPHEN}?")
_WORD = re.compile(r"\S+")
_DATE = re.compile(r"D?:?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:Z|([+-]\d\d)'?(\d\d)?)?")
_BOLD_NAME = re.compile(rb"bold|black|heavy|demi|cmbx|medi$", re.IGNORECASE)
"""The last two are those of TeX's fonts."""
_UNSEEN_MODES = (raw.FPDF_TEXTRENDERMODE_INVISIBLE, raw.FPDF_TEXTRENDERMODE_CLIP)
_RTL_RUN = re.compile(f"{RTL_LETTER}{{2,}}")
_MARK = re.compile("[\u0002\ufffe]")


class Pdfium:
    name = "pdfium"

    def __init__(self, file: mmap.mmap, password: str | None) -> None:
        buffer = (ctypes.c_char * len(file)).from_buffer(file)
        try:
            self._document = pypdfium2.PdfDocument(buffer, password=password)
        except pypdfium2.PdfiumError as error:
            raise _verdict(error.err_code, file) from error
        self.pages_total = len(self._document)
        self._forms = Forms(self._document)

    def properties(self) -> Properties:
        title, author, created, modified = (
            _utf16(raw.FPDF_GetMetaText, self._document.raw, key)
            for key in (b"Title", b"Author", b"CreationDate", b"ModDate")
        )
        return Properties(title, author, pdf_date(created), pdf_date(modified))

    def outline(self) -> Iterator[OutlineEntry]:
        for count, bookmark in enumerate(self._document.get_toc(max_depth=DEEPEST_OUTLINE)):
            if count == LONGEST_OUTLINE:
                return
            target = bookmark.get_dest()
            page = target.get_index() if target else None
            if page is not None:
                title = _utf16(raw.FPDFBookmark_GetTitle, bookmark.raw)
                yield OutlineEntry(title, page + 1, bookmark.level)

    def page_label(self, number: int) -> str:
        return _utf16(raw.FPDF_GetPageLabel, self._document.raw, number - 1)

    def read_page(self, number: int) -> PageText:
        try:
            with closing(self._document[number - 1]) as page:
                found = _text_of(page)
                if not is_filled_in(page):
                    return found
            fields = self._forms.draw(number)
            with closing(self._document[number - 1]) as page:
                filled_in = _text_of(page, fields)
        except pypdfium2.PdfiumError as error:
            raise PageError from error
        # A scan that was filled in stays one: its fields alone are not what is printed on it.
        filled_in.is_scan |= found.is_scan
        return filled_in

    def page_width(self, number: int) -> float:
        """In points. Raises PageError."""
        try:
            return float(self._document.get_page_size(number - 1)[0])
        except pypdfium2.PdfiumError as error:
            raise PageError from error

    def render(self, number: int, scale: float, most_pixels: int, is_gray: bool = True) -> Picture:
        try:
            with closing(self._document[number - 1]) as page:
                if not is_filled_in(page):
                    return render(page, scale, most_pixels, is_gray)
            self._forms.draw(number)
            with closing(self._document[number - 1]) as page:
                return render(page, scale, most_pixels, is_gray)
        except pypdfium2.PdfiumError as error:
            raise PageError from error


def _text_of(page: pypdfium2.PdfPage, fields: Fields | None = None) -> PageText:
    """`fields` when they were drawn into the page."""
    with closing(page.get_textpage()) as text_page:
        return _Extraction(page, text_page, fields).page_text()


def _verdict(code: int | None, file: mmap.mmap) -> Exception:
    """pdfium's error code, as a verdict. Only in a fresh process is the code the last call's own."""
    match code:
        case raw.FPDF_ERR_SUCCESS:
            return NoPages()
        case raw.FPDF_ERR_PASSWORD:
            return Encrypted()
        case raw.FPDF_ERR_SECURITY:
            return UnsupportedEncryption()
    return Corrupted() if b"%PDF" in file[:1024] else NotAPDF()


def _utf16(function: Callable[..., int], *arguments: object) -> str:
    """What a function of pdfium writes, which first says how many bytes that will be."""
    size = function(*arguments, None, 0)
    buffer = ctypes.create_string_buffer(size)
    function(*arguments, buffer, size)
    return buffer.raw[: max(size - 2, 0)].decode("utf-16-le", "surrogatepass")


def pdf_date(text: str) -> datetime | None:
    """A date as PDF writes it, `D:20260131093000+01'00'`, of which all after the year may be missing."""
    found = _DATE.match(text.strip())
    if not found:
        return None
    year, month, day, hour, minute, second, zone_hours, zone_minutes = found.groups()
    zone = f"{zone_hours}:{zone_minutes or '00'}" if zone_hours else "+00:00"
    try:
        return datetime.fromisoformat(
            f"{year}-{month or '01'}-{day or '01'}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone}"
        )
    except ValueError:
        return None


class Look(NamedTuple):
    """`appearance` is "shown", "field" (shown, if inside a field), "pale" or "invisible"."""

    appearance: str
    is_bold: bool


class _Extraction:
    """The text of one page with its places, in as few calls as possible: each costs a microsecond."""

    def __init__(
        self, page: pypdfium2.PdfPage, text_page: pypdfium2.PdfTextPage, fields: Fields | None
    ) -> None:
        self._page = page
        self._text_page = text_page
        self._raw = text_page.raw
        self._width, self._height = page.get_size()
        self._place = _placing(page)
        self._looks: dict[int, Look] = {}
        self._bold_fonts: dict[int, bool] = {}
        self._loose = raw.FS_RECTF()
        self._corners = tuple(ctypes.c_double() for _ in range(4))
        self._at: Callable[[int], int] = int
        self._fields = [self._place(*place) for place in fields.places] if fields else []
        self._checked = [self._place(*place) for place in fields.checked] if fields else []
        self._field_texts = texts_of_fields(page) if fields else set()

    def page_text(self) -> PageText:
        text = self._text()
        garbage = garbage_share(text)
        spans: list[Span] = []
        appearances: list[str] = []
        for line in _LINE.finditer(text):
            for span, appearance in self._spans(line):
                spans.append(span)
                appearances.append(appearance)
        for box in self._checked:  # whatever its mark is made of
            if not any(_is_inside(span, box) for span in spans):
                spans.append(Span(CHECKED, *box))
                appearances.append("shown")
        is_scarce = len(spans) < SCARCE and sum(len(span.text) for span in spans) < SCARCE
        looks_at_pictures = is_scarce or "invisible" in appearances
        share = picture_share(self._page) if looks_at_pictures else 0.0
        shown = self._marked(spans, appearances, is_ocr_layer=share > PICTURES_UNDER_OCR)
        is_scan = is_scarce and share > PICTURES_OF_A_SCAN
        lines = [] if is_scan or garbage > ILLEGIBLE else lines_of(shown)
        is_garbled = garbage > GARBLED
        is_doubtful = is_garbled or (not spans and self._may_hold_text())
        return PageText(lines, is_scan=is_scan or is_garbled, is_doubtful=is_doubtful)

    def _may_hold_text(self) -> bool:
        """Is there text that gave no characters, or nothing at all where there should be something?"""
        drawn = islice(self._page.get_objects(max_depth=4), MOST_OBJECTS_SEARCHED)
        kinds = {one.type for one in drawn}
        return not kinds or raw.FPDF_PAGEOBJ_TEXT in kinds

    def _text(self) -> str:
        """One character for each UTF-16 unit, as pdfium counts; HYPHEN where a line breaks a word."""
        count = self._text_page.count_chars()
        if count > MOST_CHARACTERS_A_PAGE:
            raise TooMuchText
        first = 0
        while first < count and raw.FPDFText_GetTextIndexFromCharIndex(self._raw, first) < 0:
            first += 1
        last = count - 1
        while last > first and raw.FPDFText_GetTextIndexFromCharIndex(self._raw, last) < 0:
            last -= 1
        if first >= count:
            return ""
        units = (ctypes.c_ushort * (count + 1))()
        length = raw.FPDFText_GetText(self._raw, first, last - first + 1, units) - 1
        text = bytes(units)[: 2 * length].decode("utf-16-le", "surrogatepass")
        if len(text) != length:
            text = "".join(map(chr, units[:length]))
        if length != count:
            self._at = lambda index: int(raw.FPDFText_GetCharIndexFromTextIndex(self._raw, index))
        return _RTL_RUN.sub(self._resolve_ligatures, _MARK.sub(self._resolve_mark, text))

    def _resolve_mark(self, mark: re.Match[str]) -> str:
        is_hyphen = raw.FPDFText_IsHyphen(self._raw, self._at(mark.start())) == 1
        return HYPHEN if is_hyphen else "\x00"

    def _resolve_ligatures(self, run: re.Match[str]) -> str:
        """pdfium turns right-to-left lines round, and with them what one glyph stands for.

        Letters of one glyph have one place.
        """
        places = (
            (self._character(self._at(run.start() + offset)), run[0][offset]) for offset in range(len(run[0]))
        )
        glyphs = ("".join(letter for _, letter in glyph) for _, glyph in groupby(places, itemgetter(0)))
        return "".join(map(spelling, glyphs))

    def _spans(self, line: re.Match[str]) -> Iterator[tuple[Span, str]]:
        """A line without wide gaps, of one appearance, is one span; else its words are joined up to them."""
        text = " ".join(line[0].split())
        if not text:
            return
        start = self._at(line.start())
        drawn = raw.FPDFText_CountRects(self._raw, start, self._at(line.end() - 1) - start + 1)
        places = [self._place(*self._rectangle(index)) for index in range(drawn)]
        if places and _is_solid(places, len(text)):
            words = _WORD.finditer(line[0]) if drawn > 1 else [_WORD.search(line[0])]
            starts = [line.start() + word.start() for word in words if word]
            looks = {self._look(start) for start in starts}
            if len(looks) == 1:
                (look,) = looks
                span = Span(text, *around(places), size=self._size(starts[0]), is_bold=look.is_bold)
                yield span, look.appearance
                return
        yield from self._joined(line)

    def _joined(self, line: re.Match[str]) -> Iterator[tuple[Span, str]]:
        span: Span | None = None
        shown_as = Look("", False)
        for word in _WORD.finditer(line[0]):
            start, end = line.start() + word.start(), line.start() + word.end() - 1
            box, look = self._word_box(start, end), self._look(start)
            if span is not None and look == shown_as and _is_near(span[1:5], box):
                left, top, right, bottom = around((span[1:5], box))
                span = span._replace(
                    text=f"{span.text} {word[0]}", left=left, top=top, right=right, bottom=bottom
                )
                continue
            if span is not None:
                yield span, shown_as.appearance
            text = word[0] if span is None else " " + word[0]
            span, shown_as = Span(text, *box, size=self._size(start), is_bold=look.is_bold), look
        if span is not None:
            yield span, shown_as.appearance

    def _word_box(self, first: int, last: int) -> Box:
        one = self._place(*self._character(self._at(first)))
        if first == last:
            return one
        return around((one, self._place(*self._character(self._at(last)))))

    def _character(self, index: int) -> tuple[float, float, float, float]:
        left, right, bottom, top = self._corners
        raw.FPDFText_GetCharBox(self._raw, index, left, right, bottom, top)
        return left.value, top.value, right.value, bottom.value

    def _rectangle(self, index: int) -> tuple[float, float, float, float]:
        left, top, right, bottom = self._corners
        raw.FPDFText_GetRect(self._raw, index, left, top, right, bottom)
        return left.value, top.value, right.value, bottom.value

    def _look(self, index: int) -> Look:
        drawn_by = raw.FPDFText_GetTextObject(self._raw, self._at(index))
        if not drawn_by:
            return Look("shown", False)
        address = ctypes.addressof(drawn_by.contents)
        found = self._looks.get(address)
        if found is None:
            appearance = _appearance(drawn_by)
            if appearance == "shown" and address in self._field_texts:
                appearance = "field"
            found = self._looks[address] = Look(appearance, self._is_bold(drawn_by))
        return found

    def _is_bold(self, drawn_by: object) -> bool:
        font = raw.FPDFTextObj_GetFont(drawn_by)
        if not font:
            return False
        address = ctypes.addressof(font.contents)
        found = self._bold_fonts.get(address)
        if found is None:
            name = ctypes.create_string_buffer(LONGEST_FONT_NAME)
            raw.FPDFFont_GetBaseFontName(font, name, LONGEST_FONT_NAME)
            found = self._bold_fonts[address] = _BOLD_NAME.search(name.value) is not None
        return found

    def _size(self, index: int) -> float:
        """Of the letters, rounded to half a point: the height the font gives to all of them."""
        raw.FPDFText_GetLooseCharBox(self._raw, self._at(index), self._loose)
        box = self._loose
        _, top, _, bottom = self._place(box.left, box.top, box.right, box.bottom)
        return round(2 * (bottom - top)) / 2

    def _marked(self, spans: list[Span], appearances: list[str], is_ocr_layer: bool) -> list[Span]:
        """The spans, those marked that nobody sees: invisible, blank, outside the page or of their field."""
        picture: Picture | None = None
        if "pale" in appearances and raw.FPDFPage_CountObjects(self._page.raw) <= MOST_OBJECTS_RENDERED:
            picture = render(self._page, 2.0, PICTURE_PIXELS)
        marked = []
        for span, appearance in zip(spans, appearances, strict=True):
            is_blank = appearance == "pale" and (picture is None or picture.is_blank(span[1:5]))
            is_invisible = appearance == "invisible" and not is_ocr_layer
            is_outside = (
                span.right < 0 or span.bottom < 0 or span.left > self._width or span.top > self._height
            )
            is_cut_off = appearance == "field" and not any(_is_inside(span, box) for box in self._fields)
            is_hidden = is_blank or is_invisible or is_outside or is_cut_off
            marked.append(span._replace(is_hidden=True) if is_hidden else span)
        return marked


def _appearance(drawn_by: object) -> str:
    if raw.FPDFTextObj_GetTextRenderMode(drawn_by) in _UNSEEN_MODES:
        return "invisible"
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not raw.FPDFPageObj_GetFillColor(drawn_by, red, green, blue, alpha):
        return "shown"
    is_pale = min(red.value, green.value, blue.value) >= PALE or alpha.value < 255 - PALE
    return "pale" if is_pale else "shown"


def _is_solid(places: list[Box], characters: int) -> bool:
    """Does one piece follow the other without a wide gap, between them or inside?"""
    left, top, right, bottom = around(places)
    has_room_inside = right - left > WIDEST_CHARACTER * (bottom - top) * characters
    return not has_room_inside and all(_is_near(one, other) for one, other in pairwise(places))


def _is_near(one: Box, other: Box) -> bool:
    gap = max(other[0] - one[2], one[0] - other[2])
    height = max(one[3] - one[1], other[3] - other[1])
    is_beside = min(other[3], one[3]) > max(other[1], one[1])
    return is_beside and gap < CELL_GAP * height


def _is_inside(span: Span, box: Box) -> bool:
    middle, half_way = (span.left + span.right) / 2, (span.top + span.bottom) / 2
    return box[0] <= middle <= box[2] and box[1] <= half_way <= box[3]


def _placing(page: pypdfium2.PdfPage) -> Callable[[float, float, float, float], Box]:
    """From a PDF's left, top, right, bottom (origin anywhere, y upwards) to the page as it is shown."""
    page_left, page_bottom, page_right, page_top = page.get_bbox()
    match page.get_rotation():
        case 90:
            return lambda left, top, right, bottom: (
                bottom - page_bottom,
                left - page_left,
                top - page_bottom,
                right - page_left,
            )
        case 180:
            return lambda left, top, right, bottom: (
                page_right - right,
                bottom - page_bottom,
                page_right - left,
                top - page_bottom,
            )
        case 270:
            return lambda left, top, right, bottom: (
                page_top - top,
                page_right - right,
                page_top - bottom,
                page_right - left,
            )
    return lambda left, top, right, bottom: (
        left - page_left,
        page_top - top,
        right - page_left,
        page_top - bottom,
    )


def picture_share(page: pypdfium2.PdfPage) -> float:
    """How much of the page its pictures cover, from 0 to 1; pictures that overlap count twice."""
    page_left, page_bottom, page_right, page_top = page.get_bbox()
    covered: float = 0.0
    for drawn in page.get_objects(max_depth=1):
        is_picture = drawn.type == raw.FPDF_PAGEOBJ_IMAGE
        if is_picture or (drawn.type == raw.FPDF_PAGEOBJ_FORM and _holds_picture(page, drawn)):
            left, bottom, right, top = drawn.get_bounds()
            width = max(min(right, page_right) - max(left, page_left), 0)
            height = max(min(top, page_top) - max(bottom, page_bottom), 0)
            covered += width * height
    area = (page_right - page_left) * (page_top - page_bottom)
    return float(min(covered / max(area, 1), 1.0))


def _holds_picture(page: pypdfium2.PdfPage, form: pypdfium2.PdfObject) -> bool:
    return any(page.get_objects([raw.FPDF_PAGEOBJ_IMAGE], max_depth=4, form=form))
