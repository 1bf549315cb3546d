"""What is filled into a form: pdfium keeps it apart from the page; here it becomes part of it.

Only the copy in memory changes, and no script runs: pdfium is used only where it has no JavaScript.
"""

import ctypes
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pypdfium2
from pypdfium2 import raw

MOST_ANNOTATIONS = 10_000
"""Of a page, that are looked at; most are links."""
DEEPEST_FORM = 8
CHECKED = "☒"
_FILLED_IN = (raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT)
_BOXES = (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON)

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom, as the PDF counts: y upwards."""


@dataclass(slots=True)
class Fields:
    """Where the fields and typed notes of a page are, and which of them are checked boxes."""

    places: list[Rectangle] = field(default_factory=list)
    checked: list[Rectangle] = field(default_factory=list)


def is_filled_in(page: pypdfium2.PdfPage) -> bool:
    """Has the page fields of a form, or text typed onto it?"""
    return any(raw.FPDFAnnot_GetSubtype(annotation) in _FILLED_IN for annotation in _annotations(page))


def draw_fields(document: pypdfium2.PdfDocument, number: int) -> Fields:
    """Makes fields and typed notes part of page `number`, for when it is next loaded."""
    if "V8" not in pypdfium2.PDFIUM_INFO.flags:
        document.init_forms()  # with it pdfium draws values whose looks the file does not hold
    with closing(document[number - 1]) as page:
        fields = Fields()
        for annotation in _annotations(page):
            if raw.FPDFAnnot_GetSubtype(annotation) in _FILLED_IN:
                fields.places.append(_rectangle(annotation))
                if _is_checked(page, annotation):
                    fields.checked.append(_rectangle(annotation))
        raw.FPDFPage_Flatten(page.raw, raw.FLAT_NORMALDISPLAY)
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
    for index in range(min(raw.FPDFPage_GetAnnotCount(page.raw), MOST_ANNOTATIONS)):
        annotation = raw.FPDFPage_GetAnnot(page.raw, index)
        if annotation:
            try:
                yield annotation
            finally:
                raw.FPDFPage_CloseAnnot(annotation)


def _is_checked(page: pypdfium2.PdfPage, annotation: object) -> bool:
    form = page.formenv
    return (
        form is not None
        and raw.FPDFAnnot_GetFormFieldType(form.raw, annotation) in _BOXES
        and raw.FPDFAnnot_IsChecked(form.raw, annotation) == 1
    )


def _rectangle(annotation: object) -> Rectangle:
    found = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(annotation, ctypes.byref(found))
    return found.left, found.top, found.right, found.bottom
