"""The second engine, pypdf: pure Python, slow, and it opens some files that pdfium does not."""

import io
import mmap
import re
from collections.abc import Iterator
from typing import Any

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

from app.errors import (
    Corrupted,
    Encrypted,
    OutOfMemory,
    PDFIngestError,
    TooMuchText,
    UnsupportedEncryption,
)
from app.pdf.pages import Line, OutlineEntry
from app.pdf.sandbox.engine import (
    GARBLED,
    ILLEGIBLE,
    MOST_CHARACTERS_A_PAGE,
    PageError,
    PageText,
    garbage_share,
)

DEEPEST_OUTLINE = 8
LONGEST_OUTLINE = 5_000
# pypdf gives the name of a glyph where a font does not say what character it is.
_GLYPH_NAME = re.compile(r"/[A-Za-z]{1,5}\d+")


class PyPDF:
    name = "pypdf"
    is_mended = False

    def __init__(self, file: mmap.mmap, password: str | None) -> None:
        try:
            self._reader = _reader(file, password)
            self.pages_total = len(self._reader.pages)
        except PDFIngestError:
            raise
        except MemoryError as error:
            raise OutOfMemory from error
        except Exception as error:  # a parser in pure Python fails in every way there is
            raise Corrupted from error

    def title(self) -> str:
        try:
            found = self._reader.metadata
            return str((found and found.title) or "")
        except Exception:  # noqa: BLE001 - a document without a title is as good
            return ""

    def outline(self) -> Iterator[OutlineEntry]:
        try:
            yield from self._entries(self._reader.outline, 0)
        except Exception:  # noqa: BLE001 - a document without an outline is as good
            return

    def _entries(self, nodes: list[Any], level: int) -> Iterator[OutlineEntry]:
        for node in nodes[:LONGEST_OUTLINE]:
            if isinstance(node, list):
                if level < DEEPEST_OUTLINE:
                    yield from self._entries(node, level + 1)
                continue
            page = self._reader.get_destination_page_number(node)
            if page is not None and page >= 0:
                yield OutlineEntry(str(node.title), page + 1)

    def read_page(self, number: int) -> PageText:
        try:
            page = self._reader.pages[number - 1]
            if "/Contents" in page and page.get_contents() is None:
                raise PageError  # what was drawn on it is gone
            text = page.extract_text()
        except MemoryError:
            raise
        except Exception as error:  # a parser in pure Python fails in every way there is
            raise PageError from error
        if len(text) > MOST_CHARACTERS_A_PAGE:
            raise TooMuchText
        garbage = garbage_share(_GLYPH_NAME.sub("\ufffd", text))
        lines = [Line(line) for line in text.split("\n") if line.strip()]
        is_garbled = garbage > GARBLED
        return PageText(lines if garbage <= ILLEGIBLE else [], is_scan=is_garbled, is_doubtful=is_garbled)


def _reader(file: mmap.mmap, password: str | None) -> pypdf.PdfReader:
    """Raises whatever pypdf does, but for encryption."""
    try:
        return pypdf.PdfReader(io.BytesIO(file), password=password)
    except (FileNotDecryptedError, WrongPasswordError) as error:
        raise Encrypted from error
    except (DependencyError, NotImplementedError) as error:  # of a filter that it does not know, too
        raise UnsupportedEncryption if file.find(b"/Encrypt") >= 0 else Corrupted from error
