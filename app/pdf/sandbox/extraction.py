"""The text of a page with its places, as pdfium finds it.

pdfium is asked character by character, and each question costs half a microsecond and more: there are as few
as possible, and their answers go straight into one array for all that is asked of a page.
"""

import ctypes
import re
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby, islice, pairwise, repeat, zip_longest
from math import tau
from statistics import median
from string import ascii_lowercase
from typing import Any, NamedTuple

import pypdfium2
from pypdfium2 import raw

from app.errors import TooMuchText
from app.pdf.pages import Box, Line
from app.pdf.sandbox.accents import with_accents
from app.pdf.sandbox.engine import GARBLED, ILLEGIBLE, MOST_CHARACTERS_A_PAGE, PageText, garbage_share
from app.pdf.sandbox.forms import CHECKED, Fields, comments_of, texts_of_fields
from app.pdf.sandbox.layout import CELL_GAP, HYPHEN, RTL_LETTER, Span, around, lines_of, turning_back
from app.pdf.sandbox.ligatures import OF_CORK, OF_TEX, misnamed_in, places_in
from app.pdf.sandbox.pictures import Picture, render
from app.pdf.text import spelling

# Fewer characters on a page of pictures are a page number, not its text.
SCARCE = 10
PICTURES_OF_A_SCAN = 0.25
# Lines and curves, together: the letters of ten words that are drawn as outlines, without a font, have more.
STROKES_OF_WORDS = 500
# Invisible text over so much picture is what OCR found in it; elsewhere it is hidden.
PICTURES_UNDER_OCR = 0.5
# Text of lighter colours, of 255, is looked at on the rendered page: is it there for the eye?
PALE = 200
# Of the line's height, on average; wider lines hold gaps.
WIDEST_CHARACTER = 0.75
LONGEST_FONT_NAME = 200
# What marks the content of a layer, in UTF-16 with its end.
_LAYER = "OC\0".encode("utf-16-le")
# Characters of a page whose angles tell which way it is written: 15 us of the 5,000 that a page takes.
ANGLES_ASKED = 16
# Of a line, in points, where only the box around a note is known.
NOTE_HEIGHT = 12.0
ARRAY_STEP = 1_024
MOST_OBJECTS_SEARCHED = 1_000
MOST_OBJECTS_RENDERED = 20_000
PICTURE_PIXELS = 2_000_000

_LINE = re.compile(f"[^\r\n{HYPHEN}]+{HYPHEN}?")
_WORD = re.compile(r"\S+")
# Letters each of which stands alone, as pdfium finds them where they are spaced out.
_SPACED_OUT = re.compile(r"(?<!\S)[^\W\d_](?: [^\W\d_]){4,}(?=[.,:;!?]?(?!\S))")
# Of the middle gap between letters that are spaced out: a wider one is between words.
GAP_OF_WORDS = 1.5
# The last two are those of TeX's fonts.
_BOLD_NAME = re.compile(rb"bold|black|heavy|demi|cmbx|medi$", re.IGNORECASE)
_FIXED_NAME = re.compile(
    rb"courier|mono(?!t)|consol|typewriter|cmtt|letter ?gothic|menlo|ocr-?[ab]", re.IGNORECASE
)
_RTL_RUN = re.compile(f"{RTL_LETTER}{{2,}}")
_RTL_LINE = re.compile(f"[^\r\n]*{RTL_LETTER}[^\r\n]*")
# Words without right-to-left letters, up to the last Latin one.
_LATIN_RUN = re.compile(
    "(?<!\\S)[A-Za-z0-9](?:OTHER*[A-Za-z][A-Za-z0-9]*)?".replace("OTHER", f"[^\r\n{RTL_LETTER[1:]}")
)
_LATIN = re.compile("[A-Za-z]")
# A number and the end of its sentence.
_POINT_AND_NUMBER = re.compile(r"(?<!\S)[.,:;][0-9]+(?!\S)")
_MARK = re.compile("[\u0002\ufffe]")

# Left, top, right, bottom as the PDF counts: y upwards, origin anywhere.
Edges = tuple[float, float, float, float]
_DOUBLE, _FLOAT = 8, 4


def _direct(function: Any, answers: type, *arguments: type) -> Callable[..., Any]:
    """A function of pdfium that takes addresses as numbers; half as dear as one that checks pointers."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    return ctypes.PYFUNCTYPE(answers, *arguments)(address or 0)


_int, _pointer = ctypes.c_int, ctypes.c_void_p
_count_rectangles = _direct(raw.FPDFText_CountRects, _int, _pointer, _int, _int)
_get_rectangle = _direct(raw.FPDFText_GetRect, _int, _pointer, _int, *4 * (_pointer,))
_get_character_box = _direct(raw.FPDFText_GetCharBox, _int, _pointer, _int, *4 * (_pointer,))
_character_angle = _direct(raw.FPDFText_GetCharAngle, ctypes.c_float, _pointer, _int)
_get_loose_box = _direct(raw.FPDFText_GetLooseCharBox, _int, _pointer, _int, _pointer)
_text_object = _direct(raw.FPDFText_GetTextObject, _pointer, _pointer, _int)
_count_marks = _direct(raw.FPDFPageObj_CountMarks, _int, _pointer)
_get_mark = _direct(raw.FPDFPageObj_GetMark, _pointer, _pointer, ctypes.c_ulong)
_mark_name = _direct(raw.FPDFPageObjMark_GetName, _int, _pointer, _pointer, ctypes.c_ulong, _pointer)
_render_mode = _direct(raw.FPDFTextObj_GetTextRenderMode, _int, _pointer)
_fill_colour = _direct(raw.FPDFPageObj_GetFillColor, _int, *5 * (_pointer,))
_font = _direct(raw.FPDFTextObj_GetFont, _pointer, _pointer)
_font_name = _direct(raw.FPDFFont_GetBaseFontName, ctypes.c_size_t, _pointer, _pointer, ctypes.c_size_t)


def _run(calls: Iterable[int]) -> None:
    """Makes calls whose answers are elsewhere; no loop in Python is as fast."""
    deque(calls, maxlen=0)


def _array(kind: Any, length: int) -> Any:
    """So long, or longer: for each other length ctypes makes a type, in 15 us."""
    return (kind * (length // ARRAY_STEP * ARRAY_STEP + ARRAY_STEP))()


def text_of(page: pypdfium2.PdfPage, fields: Fields | None = None, *, has_layers: bool = False) -> PageText:
    """`fields` when they were drawn into the page. Raises TooMuchText."""
    shown_at = page.get_rotation()
    with closing(page.get_textpage()) as text_page:
        upright_at = _upright_rotation(text_page)
        if upright_at in (None, shown_at):
            return _Extraction(page, text_page, fields, has_layers).page_text()
    page.set_rotation(upright_at)
    try:
        with closing(page.get_textpage()) as text_page:
            found = _Extraction(page, text_page, fields, has_layers).page_text()
        back = turning_back((upright_at - shown_at) % 360, *page.get_size())
    finally:
        page.set_rotation(shown_at)
    found.lines = [replace(line, box=back(*line.box)) if line.box else line for line in found.lines]
    return found


def comment_lines(page: pypdfium2.PdfPage, lines: Sequence[Line]) -> list[Line]:
    """Comments that say more than the words of the page which they mark."""
    comments = comments_of(page)
    if not comments:
        return []
    marked = " ".join([line.text for line in lines])
    boxes = _placing(page)(place for _, place in comments)
    return [Line(text, box) for (text, _), box in zip(comments, boxes, strict=True) if text not in marked]


def _upright_rotation(text_page: pypdfium2.PdfTextPage) -> int | None:
    """How the page must be turned for most of its text to be upright; None when it all is askew."""
    count = text_page.count_chars()
    step = count // ANGLES_ASKED + 1
    address = ctypes.cast(text_page.raw, _pointer).value
    angles = list(map(_character_angle, repeat(address), range(0, count, step)))
    angle, most = Counter(angles).most_common(1)[0] if angles else (0.0, 0)
    turn = round(-4 * angle / tau, 1) % 4
    return int(90 * turn) if 2 * most > len(angles) and turn.is_integer() else None


class _Look(NamedTuple):
    """`appearance` is "shown", "field" (shown, if inside a field), "layer" (shown, if the layer is),
    "pale" or "invisible".
    """

    appearance: str
    is_bold: bool
    is_fixed: bool = False
    """All its letters are as wide as its spaces."""

    def is_like(self, other: "_Look") -> bool:
        """Words of a fixed pitch stand in lines of others."""
        return self[:2] == other[:2]


# Of a text object: its render mode, its colour, its font, and whether it is of a field, or of a layer.
_Kind = tuple[int, bytes, int | None, bool, bool]


class _Piece(NamedTuple):
    """Text drawn in one look without a wide gap; `start` is pdfium's number of its first character."""

    text: str
    box: Box
    look: _Look
    start: int


class _Line(NamedTuple):
    """Of pdfium's text, and where it begins there."""

    text: str
    start: int


def lines_in(text: str) -> list[_Line]:
    """Those of pdfium's text that are not blank.

    They begin with what is seen: pdfium counts spaces in, and a word after a raised number would seem to be
    one with it. A space at the end stays: it holds the parts of a formula together, which are no columns. So
    do both in right-to-left lines, which pdfium has turned round.
    """
    lines, is_turned = [], _RTL_RUN.search(text) is not None
    for found in _LINE.finditer(text):
        line = found[0] if is_turned and _RTL_LINE.match(found[0]) else found[0].lstrip()
        if line and not line.isspace():
            lines.append(_Line(line, found.end() - len(line)))
    return lines


class _Extraction:
    """Of one page."""

    def __init__(
        self,
        page: pypdfium2.PdfPage,
        text_page: pypdfium2.PdfTextPage,
        fields: Fields | None,
        has_layers: bool,
    ) -> None:
        self._page = page
        self._text_page = text_page
        self._raw = text_page.raw
        self._address = ctypes.cast(text_page.raw, ctypes.c_void_p).value
        self._width, self._height = page.get_size()
        self._place = _placing(page)
        self._has_layers = has_layers
        self._looks: dict[int | None, _Look] = {None: _Look("shown", False)}
        self._looks_of_kinds: dict[_Kind, _Look] = {}
        self._colour = (ctypes.c_uint * 4)()
        colour = ctypes.addressof(self._colour)
        self._colour_addresses = tuple(range(colour, colour + 16, 4))
        self._at: Sequence[int] = range(0)
        self._fields = self._place(fields.places) if fields else []
        self._checked = self._place(fields.checked) if fields else []
        self._notes = self._place(fields.notes) if fields else []
        self._note_texts = fields.note_texts if fields else []
        self._field_texts = texts_of_fields(page) if fields else set()

    def page_text(self) -> PageText:
        text = self._text()
        garbage = garbage_share(text)
        pieces = self._pieces(text)
        sizes = self._sizes([piece.start for piece in pieces])
        spans = [
            Span(text, *box, False, size, look.is_bold)
            for (text, box, look, _), size in zip(pieces, sizes, strict=True)
        ]
        appearances = [piece.look.appearance for piece in pieces]
        for box in self._checked:  # whatever its mark is made of
            if not any(_is_inside(span, box) for span in spans):
                spans.append(Span(CHECKED, *box))
                appearances.append("shown")
        for place, note in zip(self._notes, self._note_texts, strict=True):
            spans.append(_note_span(note, place))
            appearances.append("shown")
        is_scarce = len(spans) < SCARCE and sum(len(span.text) for span in spans) < SCARCE
        looks_at_pictures = is_scarce or "invisible" in appearances
        share = picture_share(self._page) if looks_at_pictures else 0.0
        shown = self._marked(spans, appearances, is_ocr_layer=share > PICTURES_UNDER_OCR)
        is_scan = is_scarce and share > PICTURES_OF_A_SCAN
        lines = [] if is_scan or garbage > ILLEGIBLE else lines_of(shown)
        is_scan |= is_scarce and strokes_of(self._page) > STROKES_OF_WORDS
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
        units = _array(ctypes.c_ushort, count + 1)
        length = raw.FPDFText_GetText(self._raw, first, last - first + 1, units) - 1
        text = bytes(units)[: 2 * length].decode("utf-16-le", "surrogatepass")
        if len(text) != length:
            text = "".join(map(chr, units[:length]))
        self._at = range(length)
        if length != count:
            self._at = [raw.FPDFText_GetCharIndexFromTextIndex(self._raw, index) for index in self._at]
        text = self._with_ligatures(_MARK.sub(self._resolve_mark, text))
        text = self._drawn_together(self._with_accents(text))
        if text.isascii() or not _RTL_RUN.search(text):
            return text
        return self._with_latin_onwards(_RTL_RUN.sub(self._resolve_ligatures, text))

    def _resolve_mark(self, mark: re.Match[str]) -> str:
        is_hyphen = raw.FPDFText_IsHyphen(self._raw, self._at[mark.start()]) == 1
        return HYPHEN if is_hyphen else "\x00"

    def _changed(self, characters: Sequence[tuple[str, int]]) -> str:
        """The text of other characters; what belongs to the places where they come from goes along."""
        self._at = [self._at[place] for _, place in characters]
        return "".join([character for character, _ in characters])

    def _with_ligatures(self, text: str) -> str:
        ligatures = misnamed_in(text)
        ligatures |= {
            place: OF_TEX[text[place]] for place in places_in(text) if self._is_ligature(text, place)
        }
        if not ligatures:
            return text
        return self._changed(
            [(one, place) for place, old in enumerate(text) for one in ligatures.get(place, old)]
        )

    def _is_ligature(self, text: str, place: int) -> bool:
        """Is it of no known character, in a Type 3 font, or of the newer encoding in its neighbour's font?

        A sign of another font is none: that of the copyright has the place of `fl`.
        """
        if raw.FPDFText_HasUnicodeMapError(self._raw, self._at[place]) != 1:
            return False
        font, *fonts = [
            _font(_text_object(self._address, self._at[one]))
            for one in (place, place - 1, place + 1)
            if 0 <= one < len(text) and (one == place or text[one].isalpha())
        ]
        return font is not None and (not _name_of(font) or (text[place] in OF_CORK and font in fonts))

    def _with_accents(self, text: str) -> str:
        whole = with_accents(
            text, lambda places: self._character_boxes([self._at[place] for place in places])
        )
        return self._changed(whole) if whole else text

    def _drawn_together(self, text: str) -> str:
        """With whole words where letters are spaced out."""
        spaces = {space for run in _SPACED_OUT.finditer(text) for space in self._spaces_in_words(run)}
        if not spaces:
            return text
        return self._changed([(one, place) for place, one in enumerate(text) if place not in spaces])

    def _spaces_in_words(self, run: re.Match[str]) -> Iterator[int]:
        if run[0][::2].lower() in ascii_lowercase:  # choices to mark
            return
        boxes = self._character_boxes(self._at[run.start() : run.end() : 2])
        gaps = [max(other[0] - one[2], one[0] - other[2]) for one, other in pairwise(boxes)]
        widest = GAP_OF_WORDS * median(gaps)
        for number, gap in enumerate(gaps):
            if gap < widest:
                yield run.start() + 2 * number + 1

    def _resolve_ligatures(self, run: re.Match[str]) -> str:
        """pdfium turns right-to-left lines round, and with them what one glyph stands for.

        Letters of one glyph have one place. A word in pieces may be left as it is drawn, from the left.
        """
        places = self._character_boxes(self._at[run.start() : run.end()])
        groups = groupby(zip(places, run[0], strict=True), lambda placed: placed[0])
        glyphs = [(box, "".join(letter for _, letter in glyph)) for box, glyph in groups]
        if _is_from_the_left(glyphs):
            return "".join(letters for _, letters in reversed(glyphs))
        return "".join(spelling(letters) for _, letters in glyphs)

    def _with_latin_onwards(self, text: str) -> str:
        """pdfium turns lines round by the word, Latin ones too, letters apart from digits: `320A Airbus`."""
        order = list(range(len(text)))
        for line in _RTL_LINE.finditer(text):
            for run in _LATIN_RUN.finditer(text, *line.span()):
                if _LATIN.search(run[0]):
                    order[slice(*run.span())] = self._onwards(run)
            for number in _POINT_AND_NUMBER.finditer(text, *line.span()):
                order[slice(*number.span())] = [*range(number.start() + 1, number.end()), number.start()]
        return self._changed([(text[place], place) for place in order])

    def _onwards(self, run: re.Match[str]) -> Iterator[int]:
        """Places in the text: its words from left to right, and so the letters of each."""
        words = [
            range(run.start() + word.start(), run.start() + word.end()) for word in _WORD.finditer(run[0])
        ]
        lefts = [[box[0] for box in self._character_boxes([self._at[one] for one in word])] for word in words]
        placed = sorted(sorted(zip(*word, strict=True)) for word in zip(lefts, words, strict=True))
        spaces = [range(one.stop, other.start) for one, other in pairwise(words)]
        for word, space in zip_longest(placed, spaces, fillvalue=()):
            yield from (place for _, place in word)
            yield from space

    def _pieces(self, text: str) -> list[_Piece]:
        """A line without wide gaps, of one look, is one piece; else its words are joined up to them."""
        lines = lines_in(text)
        pieces = self._whole_lines(lines)
        joined = self._joined_lines([line for line, piece in zip(lines, pieces, strict=True) if not piece])
        return [one for piece in pieces for one in ((piece,) if piece else next(joined))]

    def _whole_lines(self, lines: Sequence[_Line]) -> list[_Piece | None]:
        """Those that are one piece, by pdfium's rectangles, one for each run of a font; None for others."""
        pieces: list[_Piece | None] = []
        for line, places in zip(lines, self._rectangles(lines), strict=True):
            piece, text = None, " ".join(line.text.split())
            if places and (box := _solid(places, len(text))):
                starts = self._starts(line, is_first_enough=len(places) == 1)
                look, *others = self._looks_at(starts)
                if all(look.is_like(other) for other in others):
                    piece = _Piece(text, box, look, starts[0])
            pieces.append(piece)
        return pieces

    def _starts(self, line: _Line, *, is_first_enough: bool) -> list[int]:
        at, (text, start) = self._at, line
        if is_first_enough:
            return [at[start + len(text) - len(text.lstrip())]]
        return [at[start + word.start()] for word in _WORD.finditer(text)]

    def _rectangles(self, lines: Sequence[_Line]) -> Iterator[list[Box]]:
        edges = _array(ctypes.c_double, 4 * sum([len(line.text) for line in lines]))
        address, slot, at = self._address, ctypes.addressof(edges), self._at
        counts = []
        for text, start in lines:
            first, last = at[start], at[start + len(text) - 1]
            count = min(_count_rectangles(address, first, last - first + 1), len(text))
            for index in range(count):
                _get_rectangle(address, index, slot, slot + 8, slot + 16, slot + 24)
                slot += 4 * _DOUBLE
            counts.append(count)
        places = iter(self._placed(edges[: 4 * sum(counts)]))
        return (list(islice(places, count)) for count in counts)

    def _joined_lines(self, lines: Sequence[_Line]) -> Iterator[Iterable[_Piece]]:
        at, words, starts, ends = self._at, [], [], []
        for text, start in lines:
            words.append(text.split())
            for word in _WORD.finditer(text):
                starts.append(at[start + word.start()])
                ends.append(at[start + word.end() - 1])
        boxes = map(_around_both, self._character_boxes(starts), self._character_boxes(ends))
        shown = zip(starts, boxes, self._looks_at(starts), strict=True)
        return (_joined(zip(line, islice(shown, len(line)), strict=True)) for line in words)

    def _character_boxes(self, indices: Sequence[int]) -> list[Box]:
        edges = _array(ctypes.c_double, 4 * len(indices))
        begin = ctypes.addressof(edges)
        end = begin + ctypes.sizeof(edges)
        lefts, tops, rights, bottoms = (range(begin + _DOUBLE * edge, end, 4 * _DOUBLE) for edge in range(4))
        _run(map(_get_character_box, repeat(self._address), indices, lefts, rights, bottoms, tops))
        return self._placed(edges[: 4 * len(indices)])

    def _sizes(self, starts: Sequence[int]) -> list[float]:
        """Of the letters, rounded to half a point: the height the font gives to all of them."""
        edges = _array(ctypes.c_float, 4 * len(starts))
        begin = ctypes.addressof(edges)
        slots = range(begin, begin + ctypes.sizeof(edges), 4 * _FLOAT)
        _run(map(_get_loose_box, repeat(self._address), starts, slots))
        places = self._placed(edges[: 4 * len(starts)])
        return [(2 * (bottom - top) + 0.5) // 1 / 2 for _, top, _, bottom in places]

    def _placed(self, edges: list[float]) -> list[Box]:
        return self._place(zip(*[iter(edges)] * 4, strict=True))

    def _looks_at(self, indices: Iterable[int]) -> list[_Look]:
        known = self._looks
        drawn = map(_text_object, repeat(self._address), indices)
        return [known.get(drawn_by) or self._look_of(drawn_by) for drawn_by in drawn]

    def _look_of(self, drawn_by: int) -> _Look:
        has_colour = _fill_colour(drawn_by, *self._colour_addresses)
        colour = bytes(self._colour) if has_colour else b""
        is_of_layer = self._has_layers and _is_of_layer(drawn_by)
        is_of_field = drawn_by in self._field_texts
        kind = (_render_mode(drawn_by), colour, _font(drawn_by), is_of_field, is_of_layer)
        look = self._looks_of_kinds.get(kind)
        if look is None:
            look = self._looks_of_kinds[kind] = _look_of_kind(*kind)
        self._looks[drawn_by] = look
        return look

    def _marked(self, spans: list[Span], appearances: list[str], is_ocr_layer: bool) -> list[Span]:
        """The spans, those marked that nobody sees: invisible, blank, outside the page or of their field."""
        picture: Picture | None = None
        is_asked = "pale" in appearances or "layer" in appearances
        if is_asked and raw.FPDFPage_CountObjects(self._page.raw) <= MOST_OBJECTS_RENDERED:
            picture = render(self._page, 2.0, PICTURE_PIXELS)
        marked = []
        for span, appearance in zip(spans, appearances, strict=True):
            _, left, top, right, bottom, *_ = span
            is_hidden = right < 0 or bottom < 0 or left > self._width or top > self._height
            if appearance == "pale":
                is_hidden |= picture is None or picture.is_blank(span[1:5])
            elif appearance == "layer":
                is_hidden |= picture is not None and picture.is_blank(span[1:5])
            elif appearance == "invisible":
                is_hidden |= not is_ocr_layer
            elif appearance == "field":
                is_hidden |= not any(_is_inside(span, box) for box in self._fields)
            marked.append(span._replace(is_hidden=True) if is_hidden else span)
        return marked


def _is_from_the_left(glyphs: Sequence[tuple[Box, str]]) -> bool:
    """Does a right-to-left word begin with its leftmost letter?

    Marks stand anywhere, tails of letters reach below others; numbers do begin from the left.
    """
    boxes = [box for box, letters in glyphs if letters.isalpha()]
    if len(boxes) < 2 or any(map(str.isdigit, "".join([letters for _, letters in glyphs]))):
        return False
    (left, top, right, bottom), last = boxes[0], boxes[-1]
    # Sideways, or as it should be.
    if last[0] + last[2] - left - right <= abs(last[1] + last[3] - top - bottom):
        return False
    onwards = sum(one[0] < other[0] and one[2] < other[2] for one, other in pairwise(boxes))
    return onwards > sum(one[0] > other[0] and one[2] > other[2] for one, other in pairwise(boxes))


def _look_of_kind(mode: int, colour: bytes, font: int | None, is_of_field: bool, is_of_layer: bool) -> _Look:
    appearance = "field" if is_of_field else "layer" if is_of_layer else "shown"
    if mode == raw.FPDF_TEXTRENDERMODE_INVISIBLE:
        appearance = "invisible"
    elif mode == raw.FPDF_TEXTRENDERMODE_CLIP:  # a colour gradient is drawn through it, or nothing
        appearance = "pale"
    elif colour:
        *rgb, alpha = struct.unpack("4I", colour)
        if min(rgb) >= PALE or alpha < 255 - PALE:
            appearance = "pale"
    name = b"" if font is None else _name_of(font)
    return _Look(appearance, _BOLD_NAME.search(name) is not None, _FIXED_NAME.search(name) is not None)


def _is_of_layer(drawn: int) -> bool:
    name, length = ctypes.create_string_buffer(len(_LAYER)), ctypes.c_ulong()
    for number in range(_count_marks(drawn)):
        written = _mark_name(
            _get_mark(drawn, number), ctypes.addressof(name), len(_LAYER), ctypes.addressof(length)
        )
        if written and length.value == len(_LAYER) and name.raw == _LAYER:
            return True
    return False


def _name_of(font: int) -> bytes:
    name = ctypes.create_string_buffer(LONGEST_FONT_NAME)
    _font_name(font, ctypes.addressof(name), LONGEST_FONT_NAME)
    return name.value


def _solid(places: list[Box], characters: int) -> Box | None:
    """The box around the pieces, if one follows the other without a wide gap, between them or inside."""
    box = around(places) if len(places) > 1 else places[0]
    left, top, right, bottom = box
    if right - left > WIDEST_CHARACTER * (bottom - top) * characters:
        return None
    return box if all(_is_near(one, other) for one, other in pairwise(places)) else None


def _around_both(one: Box, other: Box) -> Box:
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = one, other
    return (
        left if left < other_left else other_left,
        top if top < other_top else other_top,
        right if right > other_right else other_right,
        bottom if bottom > other_bottom else other_bottom,
    )


def _joined(words: Iterable[tuple[str, tuple[int, Box, _Look]]]) -> Iterator[_Piece]:
    """Words of one look that follow each other without a wide gap."""
    text, around_all, shown_as, first = "", (0.0, 0.0, 0.0, 0.0), None, 0
    for word, (start, box, look) in words:
        if shown_as is None:
            text, around_all, shown_as, first = word, box, look, start
        elif look.is_like(shown_as) and _is_near(
            around_all, box, 2 if look.is_fixed and shown_as.is_fixed else 1
        ):
            text, around_all, shown_as = f"{text} {word}", _around_both(around_all, box), look
        else:
            yield _Piece(text, around_all, shown_as, first)
            text, around_all, shown_as, first = f" {word}", box, look, start
    if shown_as is not None:
        yield _Piece(text, around_all, shown_as, first)


def _is_near(one: Box, other: Box, times: int = 1) -> bool:
    left, top, right, bottom = one
    other_left, other_top, other_right, other_bottom = other
    if other_top >= bottom or top >= other_bottom:
        return False
    reach = times * CELL_GAP * max(bottom - top, other_bottom - other_top)
    return other_left - right < reach and left - other_right < reach


def _is_inside(span: Span, box: Box) -> bool:
    middle, half_way = (span.left + span.right) / 2, (span.top + span.bottom) / 2
    return box[0] <= middle <= box[2] and box[1] <= half_way <= box[3]


def _note_span(text: str, box: Box) -> Span:
    left, top, right, bottom = box
    return Span(text, left, top, right, min(bottom, top + NOTE_HEIGHT))


def _placing(page: pypdfium2.PdfPage) -> Callable[[Iterable[Edges]], list[Box]]:
    """From a PDF's own places to those on the page as it is shown."""
    x0, y0, x1, y1 = page.get_bbox()
    match page.get_rotation():
        case 90:
            return lambda places: [
                (bottom - y0, left - x0, top - y0, right - x0) for left, top, right, bottom in places
            ]
        case 180:
            return lambda places: [
                (x1 - right, bottom - y0, x1 - left, top - y0) for left, top, right, bottom in places
            ]
        case 270:
            return lambda places: [
                (y1 - top, x1 - right, y1 - bottom, x1 - left) for left, top, right, bottom in places
            ]
    return lambda places: [
        (left - x0, y1 - top, right - x0, y1 - bottom) for left, top, right, bottom in places
    ]


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


def strokes_of(page: pypdfium2.PdfPage) -> int:
    """Of how many lines and curves the drawings of the page are made."""
    drawn = islice(page.get_objects([raw.FPDF_PAGEOBJ_PATH], max_depth=4), MOST_OBJECTS_SEARCHED)
    return sum(raw.FPDFPath_CountSegments(path.raw) for path in drawn)


def _holds_picture(page: pypdfium2.PdfPage, form: pypdfium2.PdfObject) -> bool:
    return any(page.get_objects([raw.FPDF_PAGEOBJ_IMAGE], max_depth=4, form=form))
