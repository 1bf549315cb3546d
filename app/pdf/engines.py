"""The two engines that read PDFs, behind one protocol. Used in reading processes only."""

import ctypes
import io
import mmap
from collections.abc import Iterator
from typing import Protocol

import pypdfium2.raw as pdfium

from app.errors import Corrupted, Encrypted, NotAPDF, Unreadable, UnsupportedEncryption
from app.pdf.pages import Box, Line, OutlineEntry

File = mmap.mmap | bytes


class PageError(Exception):
    """This engine cannot read this page."""


class Engine(Protocol):
    """One open document. Pages count from 1."""

    name: str
    pages_total: int

    def __init__(self, file: File, password: str | None) -> None:
        """Raises an Unreadable when the file cannot be opened."""

    def properties(self) -> dict[str, str]: ...

    def outline(self) -> Iterator[OutlineEntry]: ...

    def read_page(self, number: int) -> list[Line]: ...


_PDFIUM_ERRORS: dict[int, type[Unreadable]] = {
    pdfium.FPDF_ERR_PASSWORD: Encrypted,
    pdfium.FPDF_ERR_SECURITY: UnsupportedEncryption,
}


class Pdfium:
    """Google's engine: fast, and it aborts the process when memory runs out."""

    name = "pdfium"

    def __init__(self, file: File, password: str | None) -> None:
        self._file = file
        buffer = (ctypes.c_char * len(file)).from_buffer(file) if isinstance(file, mmap.mmap) else file
        secret = password.encode() if password is not None else None
        self._document = pdfium.FPDF_LoadMemDocument64(buffer, len(file), secret)
        self._buffer = buffer
        if not self._document:
            error = pdfium.FPDF_GetLastError()
            if error == pdfium.FPDF_ERR_FORMAT and b"%PDF" not in file[:1024]:
                raise NotAPDF
            raise _PDFIUM_ERRORS.get(error, Corrupted)
        self.pages_total = pdfium.FPDF_GetPageCount(self._document)

    def properties(self) -> dict[str, str]:
        return {key: self._property(key) for key in ("Title", "Author")}

    def _property(self, key: str) -> str:
        size = pdfium.FPDF_GetMetaText(self._document, key.encode(), None, 0)
        buffer = ctypes.create_string_buffer(size)
        pdfium.FPDF_GetMetaText(self._document, key.encode(), buffer, size)
        return buffer.raw[: size - 2].decode("utf-16-le", "surrogatepass")

    def outline(self) -> Iterator[OutlineEntry]:
        return iter(())

    def read_page(self, number: int) -> list[Line]:
        page = pdfium.FPDF_LoadPage(self._document, number - 1)
        if not page:
            raise PageError
        text_page = pdfium.FPDFText_LoadPage(page)
        if not text_page:
            raise PageError
        height = pdfium.FPDF_GetPageHeightF(page)
        count = pdfium.FPDFText_CountChars(text_page)
        buffer = (ctypes.c_ushort * (count + 1))()
        length = pdfium.FPDFText_GetText(text_page, 0, count, buffer)
        text = bytes(buffer)[: 2 * (length - 1)].decode("utf-16-le", "surrogatepass")
        lines = []
        start = 0
        for line in text.split("\r\n"):
            if line.strip():
                lines.append(Line(line, _box(text_page, start, len(line), height)))
            start += len(line) + 2
        pdfium.FPDFText_ClosePage(text_page)
        pdfium.FPDF_ClosePage(page)
        return lines


def _box(text_page: object, start: int, count: int, height: float) -> Box | None:
    left, top, right, bottom = (ctypes.c_double() for _ in range(4))
    boxes = []
    for index in range(pdfium.FPDFText_CountRects(text_page, start, count)):
        pdfium.FPDFText_GetRect(text_page, index, left, top, right, bottom)
        boxes.append((left.value, height - top.value, right.value, height - bottom.value))
    if not boxes:
        return None
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


class PyPDF:
    """The second chance: slow and patient, pure Python."""

    name = "pypdf"

    def __init__(self, file: File, password: str | None) -> None:
        import pypdf  # slow to import, seldom needed
        from pypdf.errors import PyPdfError

        try:
            self._reader = pypdf.PdfReader(io.BytesIO(file), password=password)
            self.pages_total = len(self._reader.pages)
        except pypdf.errors.FileNotDecryptedError as error:
            raise Encrypted from error
        except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Corrupted from error

    def properties(self) -> dict[str, str]:
        found: dict[str, object] = self._reader.metadata or {}
        return {key: str(found.get(f"/{key}") or "") for key in ("Title", "Author")}

    def outline(self) -> Iterator[OutlineEntry]:
        return iter(())

    def read_page(self, number: int) -> list[Line]:
        try:
            text = self._reader.pages[number - 1].extract_text()
        except Exception as error:  # a pure Python parser fails in every way there is
            raise PageError from error
        return [Line(line) for line in text.split("\n") if line.strip()]


ENGINES: dict[str, type[Engine]] = {"pdfium": Pdfium, "pypdf": PyPDF}
