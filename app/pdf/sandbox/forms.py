"""What is filled into a form: pdfium keeps it apart from the page; here it becomes part of it.

Only the copy in memory changes, and no script runs: pdfium is used only where it has no JavaScript.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import pypdfium2
from pypdfium2 import raw

# On a page of more, none is looked at.
MOST_ANNOTATIONS = 10_000
MOST_FIELDS = 1_000
# On a page of more, only what the file itself draws is read: pdfium needs 10 s to draw 10,000 options.
MOST_OPTIONS = 2_000
DEEPEST_FORM = 8
CHECKED = "☒"
LONGEST_NOTE = 10_000
_FILLED_IN = (raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_STAMP)
# Their words stand in a bubble, or beside the page.
_COMMENTS = (
    raw.FPDF_ANNOT_TEXT,
    raw.FPDF_ANNOT_HIGHLIGHT,
    raw.FPDF_ANNOT_UNDERLINE,
    raw.FPDF_ANNOT_SQUIGGLY,
    raw.FPDF_ANNOT_STRIKEOUT,
    raw.FPDF_ANNOT_CARET,
)
MOST_COMMENTS = 1_000
_UNSEEN = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
# Bytes of an empty string in UTF-16, with its end.
_EMPTY = 2
_BOXES = (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON)

# Left, top, right, bottom, as the PDF counts: y upwards.
Rectangle = tuple[float, float, float, float]


@dataclass(slots=True)
class Fields:
    """Where the fields, typed notes and stamps of a page are, and which of them are checked boxes.

    `options` are there to choose from, in all lists together. `notes` are those whose looks the file does not
    hold: viewers draw them from their texts, pdfium only beside a form.
    """

    places: list[Rectangle] = field(default_factory=list)
    checked: list[Rectangle] = field(default_factory=list)
    notes: list[Rectangle] = field(default_factory=list)
    note_texts: list[str] = field(default_factory=list)
    options: int = 0


def is_filled_in(page: pypdfium2.PdfPage) -> bool:
    """Has the page fields of a form, stamps, or text typed onto it?"""
    return any(raw.FPDFAnnot_GetSubtype(annotation) in _FILLED_IN for annotation in _annotations(page))


def comments_of(page: pypdfium2.PdfPage) -> list[tuple[str, Rectangle]]:
    """What people have noted on the page, and where: sticky notes and remarks on marked words."""
    found = (
        (_contents(annotation), _rectangle(annotation))
        for annotation in _annotations(page)
        if raw.FPDFAnnot_GetSubtype(annotation) in _COMMENTS
        and not raw.FPDFAnnot_GetFlags(annotation) & raw.FPDF_ANNOT_FLAG_HIDDEN
    )
    return [comment for comment in islice(found, MOST_COMMENTS) if comment[0]]


class Forms:
    """The forms of one open document, for as long as its process lives."""

    def __init__(self, document: pypdfium2.PdfDocument) -> None:
        self._document = document
        self._config = raw.FPDF_FORMFILLINFO(version=2)
        self._environment: object = None

    def draw(self, number: int) -> Fields:
        """Makes fields and typed notes part of page `number`, for when it is next loaded."""
        with closing(self._document[number - 1]) as page:
            fields = self._fields(page)
            is_begun = fields.options <= MOST_OPTIONS and len(fields.places) <= MOST_FIELDS
            environment = self._opened() if is_begun else None
            if environment:  # with it pdfium draws values whose looks the file does not hold
                raw.FORM_OnAfterLoadPage(page.raw, environment)
                fields.checked = [
                    _rectangle(annotation)
                    for annotation in _annotations(page)
                    if _is_checked(environment, annotation)
                ]
            for annotation in _annotations(page):
                if text := _undrawn_text(annotation):
                    fields.notes.append(_rectangle(annotation))
                    fields.note_texts.append(text)
            raw.FPDFPage_Flatten(page.raw, raw.FLAT_NORMALDISPLAY)
            if environment:
                raw.FORM_OnBeforeClosePage(page.raw, environment)
        return fields

    def close(self) -> None:
        """Before the document."""
        if self._environment:
            raw.FPDFDOC_ExitFormFillEnvironment(self._environment)

    def _opened(self) -> object:
        has_form = raw.FPDF_GetFormType(self._document.raw) != raw.FORMTYPE_NONE
        if has_form and self._environment is None and "V8" not in pypdfium2.PDFIUM_INFO.flags:
            self._environment = raw.FPDFDOC_InitFormFillEnvironment(self._document.raw, self._config)
        return self._environment

    def _fields(self, page: pypdfium2.PdfPage) -> Fields:
        fields = Fields()
        environment = self._opened()
        for annotation in _annotations(page):
            if raw.FPDFAnnot_GetSubtype(annotation) not in _FILLED_IN:
                continue
            fields.places.append(_rectangle(annotation))
            if environment and len(fields.places) <= MOST_FIELDS:
                fields.options += max(raw.FPDFAnnot_GetOptionCount(environment, annotation), 0)
        return fields


def texts_of_fields(page: pypdfium2.PdfPage) -> set[int]:
    """Addresses of the text objects that were drawn as fields: what is drawn last, in a form of its own."""
    count = raw.FPDFPage_CountObjects(page.raw)
    last = raw.FPDFPage_GetObject(page.raw, count - 1) if count > 0 else None
    if not last or raw.FPDFPageObj_GetType(last) != raw.FPDF_PAGEOBJ_FORM:
        return set()
    texts = page.get_objects([raw.FPDF_PAGEOBJ_TEXT], max_depth=DEEPEST_FORM, form=last)
    return {ctypes.addressof(text.raw.contents) for text in texts}


def _annotations(page: pypdfium2.PdfPage) -> Iterator[object]:
    count = raw.FPDFPage_GetAnnotCount(page.raw)
    for index in range(count if count <= MOST_ANNOTATIONS else 0):
        annotation = raw.FPDFPage_GetAnnot(page.raw, index)
        if annotation:
            try:
                yield annotation
            finally:
                raw.FPDFPage_CloseAnnot(annotation)


def _undrawn_text(annotation: object) -> str:
    """Of a typed note that is to be seen, but whose looks are not in the file."""
    is_note = raw.FPDFAnnot_GetSubtype(annotation) == raw.FPDF_ANNOT_FREETEXT
    if not is_note or raw.FPDFAnnot_GetFlags(annotation) & _UNSEEN:
        return ""
    if raw.FPDFAnnot_GetAP(annotation, raw.FPDF_ANNOT_APPEARANCEMODE_NORMAL, None, 0) > _EMPTY:
        return ""
    return _contents(annotation)


def _contents(annotation: object) -> str:
    return " ".join(utf16(raw.FPDFAnnot_GetStringValue, annotation, b"Contents")[:LONGEST_NOTE].split())


def utf16(function: Callable[..., int], *arguments: object) -> str:
    """What a function of pdfium writes, which first says how many bytes that will be."""
    size = function(*arguments, None, 0)
    buffer = ctypes.create_string_buffer(size)
    function(*arguments, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return buffer.raw[: max(size - 2, 0)].decode("utf-16-le", "surrogatepass")


def _is_checked(environment: object, annotation: object) -> bool:
    kind = raw.FPDFAnnot_GetFormFieldType(environment, annotation)
    return kind in _BOXES and raw.FPDFAnnot_IsChecked(environment, annotation) == 1


def _rectangle(annotation: object) -> Rectangle:
    found = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(annotation, ctypes.byref(found))
    return found.left, found.top, found.right, found.bottom
