"""Documents whose one page only stands in for what they hold, which no engine here opens.

That page has words, an excuse: with them alone a document would be ready, and nothing be found in it.
"""

import io
import mmap
from contextlib import closing, suppress
from typing import Any

import pypdf
import pypdfium2
from pypdfium2 import raw

from app.errors import NoText
from app.pdf.sandbox.forms import is_filled_in

# With more the page is a letter, say, and the files are what is attached to it. That of Acrobat has 150.
LONGEST_COVER = 1_000
# In every language of the page that asks to wait: where to get the program that draws the form.
_MAKER = "adobe.com"
_DYNAMIC_FORM = (
    "The PDF is a dynamic XFA form: its one page asks to wait for a program that makes the others."
    " Print it into a PDF with Adobe's, and upload that."
)
_PORTFOLIO = (
    "The PDF is a portfolio: its one page is the cover of %s, which cannot be read inside it."
    " Save them from it, and upload each PDF."
)
_WRAPPER = (
    "The PDF is only a wrapper: the document itself is an encrypted file inside it, which no engine here can"
    " open. Save it without protection, and upload that."
)


def refuse_stand_in(
    document: pypdfium2.PdfDocument, file: mmap.mmap | bytearray, password: str | None
) -> None:
    """Raises NoText, which says what helps, if its only page is none of its own."""
    if len(document) != 1:
        return
    with suppress(pypdfium2.PdfiumError):  # a page that cannot be read is for who reads pages
        _refuse(document, file, password)


def _refuse(document: pypdfium2.PdfDocument, file: mmap.mmap | bytearray, password: str | None) -> None:
    kind = raw.FPDF_GetFormType(document.raw)
    files = raw.FPDFDoc_GetAttachmentCount(document.raw)
    if kind == raw.FORMTYPE_XFA_FULL or (kind == raw.FORMTYPE_XFA_FOREGROUND and _asks_to_wait(document)):
        raise NoText(_DYNAMIC_FORM)
    if files > 0 and len(_text(document)) <= LONGEST_COVER:
        collection, is_encrypted = _collection(file, password)
        if is_encrypted:
            raise NoText(_WRAPPER)
        if collection:
            raise NoText(_PORTFOLIO % ("a file" if files == 1 else f"{files:,} files"))


def _asks_to_wait(document: pypdfium2.PdfDocument) -> bool:
    """A form whose fields are on its page is as good as drawn."""
    with closing(document[0]) as page:
        has_fields = is_filled_in(page)
    return not has_fields and _MAKER in _text(document)


def _text(document: pypdfium2.PdfDocument) -> str:
    with closing(document[0]) as page, closing(page.get_textpage()) as text_page:
        return str(text_page.get_text_range())


def _collection(file: mmap.mmap | bytearray, password: str | None) -> tuple[bool, bool]:
    """Are its attachments what viewers show first, and are they its own content, encrypted?

    Only pypdf can tell; an invoice with its figures attached does not need it, mostly.
    """
    if file.find(b"/Collection") < 0 and file.find(b"/ObjStm") < 0:
        return False, False
    try:
        reader = pypdf.PdfReader(io.BytesIO(file), password=password)
        collection: Any = reader.root_object["/Collection"]
        kinds = [one.associated_file_relationship for one in reader.attachment_list]
        return collection.get("/View") != "/H", "/EncryptedPayload" in kinds
    except Exception:  # noqa: BLE001 - a parser in pure Python fails in every way there is
        return False, False
