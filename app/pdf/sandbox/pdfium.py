"""The first engine, Google's pdfium: fast; out of memory it aborts its whole process.

Only for reading processes with a single thread: pdfium in two threads crashes.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import closing

import pypdfium2
from pypdfium2 import raw

from app.errors import Corrupted, Encrypted, NoPages, NotAPDF, UnsupportedEncryption
from app.pdf.pages import OutlineEntry
from app.pdf.sandbox.engine import (
    PageError,
    PageText,
)
from app.pdf.sandbox.extraction import comment_lines, text_of
from app.pdf.sandbox.forms import Forms, is_filled_in, utf16
from app.pdf.sandbox.mending import mended
from app.pdf.sandbox.pictures import Picture, render
from app.pdf.sandbox.stand_ins import refuse_stand_in

DEEPEST_OUTLINE = 8
LONGEST_OUTLINE = 5_000
# pdfium keeps every object that it has parsed, 25 KB a page of a report, until the document is closed.
PAGES_OF_A_LOADING = 400
PAGES_OF_A_MAPPING = 25


class Pdfium:
    name = "pdfium"

    def __init__(self, file: mmap.mmap, password: str | None) -> None:
        self._file: mmap.mmap | bytearray = file
        self._password = password
        try:
            self._load()
        except Corrupted:
            self._file = mended(file, password) or file
            self._load()
        self.is_mended = self._file is not file
        self.pages_total = len(self._document)
        refuse_stand_in(self._document, self._file, password)

    def _load(self) -> None:
        buffer = (ctypes.c_char * len(self._file)).from_buffer(self._file)
        try:
            self._document = pypdfium2.PdfDocument(buffer, password=self._password)
        except pypdfium2.PdfiumError as error:
            raise _verdict(error.err_code, self._file) from error
        self._is_repaired = not raw.FPDF_DocumentHasValidCrossReferenceTable(self._document.raw)
        self._forms = Forms(self._document)
        # Where it is compressed, all layers are read as if they were on.
        self._has_layers = self._file.find(b"/OCProperties") >= 0
        self._pages_left = PAGES_OF_A_LOADING

    def _forget(self) -> None:
        """From time to time what pages have left in memory: pdfium's objects, and parts of the file."""
        self._pages_left -= 1
        if self._pages_left < 0:
            self._forms.close()
            self._document.close()
            self._load()
        elif (
            self._pages_left % PAGES_OF_A_MAPPING == 0
            and hasattr(mmap, "MADV_DONTNEED")
            and isinstance(self._file, mmap.mmap)
        ):
            self._file.madvise(mmap.MADV_DONTNEED)

    def title(self) -> str:
        return utf16(raw.FPDF_GetMetaText, self._document.raw, b"Title")

    def outline(self) -> Iterator[OutlineEntry]:
        for count, bookmark in enumerate(self._document.get_toc(max_depth=DEEPEST_OUTLINE)):
            if count == LONGEST_OUTLINE:
                return
            target = bookmark.get_dest()
            page = target.get_index() if target else None
            if page is not None:
                title = utf16(raw.FPDFBookmark_GetTitle, bookmark.raw)
                yield OutlineEntry(title, page + 1)

    def read_page(self, number: int) -> PageText:
        try:
            self._forget()
            with closing(self._document[number - 1]) as page:
                found = text_of(page, has_layers=self._has_layers)
                if not found.lines and self._is_repaired and raw.FPDFPage_CountObjects(page.raw) == 0:
                    raise PageError  # blank, or what was drawn on it is gone: pypdf can tell
                comments = comment_lines(page, found.lines)
                if not is_filled_in(page):
                    found.lines += comments
                    return found
            fields = self._forms.draw(number)
            with closing(self._document[number - 1]) as page:
                filled_in = text_of(page, fields, has_layers=self._has_layers)
        except pypdfium2.PdfiumError as error:
            raise PageError from error
        # A scan that was filled in stays one: its fields alone are not what is printed on it.
        filled_in.is_scan |= found.is_scan
        filled_in.lines += comments
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


def _verdict(code: int | None, file: mmap.mmap | bytearray) -> Exception:
    """pdfium's error code, as a verdict. Only in a fresh process is the code the last call's own."""
    match code:
        case raw.FPDF_ERR_SUCCESS:
            return NoPages()
        case raw.FPDF_ERR_PASSWORD:
            return Encrypted()
        case raw.FPDF_ERR_SECURITY:
            return UnsupportedEncryption()
    return Corrupted() if b"%PDF" in file[:1024] else NotAPDF()
