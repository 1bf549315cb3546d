"""An end for a file that has lost its own, and nothing else.

pdfium finds the objects of such a file by itself, but not the catalog, which its trailer names; and those in
encrypted streams by the cross-references only. pypdf finds both.
"""

import io
import mmap
import re
from contextlib import suppress
from itertools import chain, islice

import pypdf
from pypdf.errors import PdfReadError
from pypdf.generic import DictionaryObject, IndirectObject, NameObject

# Whatever was begun is ended first.
_END = b"\nendstream\nendobj\ntrailer\n%b\nstartxref\n%d\n%%%%EOF\n"
# Of which pypdf reads each, in 0.05 ms.
MOST_OBJECTS = 50_000
_KEPT = ("/Root", "/Encrypt", "/ID", "/Info")


def mended(file: mmap.mmap, password: str | None) -> bytearray | None:
    """The file with another end, if pypdf finds its catalog and no object was cut: half a page is none."""
    rest = file[max(file.rfind(b"endobj"), 0) :]
    if re.search(rb"\sobj\b", rest) and b"/XRef" not in rest:
        return None
    if sum(1 for _ in islice(re.finditer(rb"\sobj\b", file), MOST_OBJECTS + 1)) > MOST_OBJECTS:
        return None
    content = bytearray(file)
    content += _END % (b"<<>>", 0)
    try:
        reader = pypdf.PdfReader(io.BytesIO(content), password=password)
        trailer = _trailer(reader)
    except Exception:  # noqa: BLE001 - a parser in pure Python fails in every way there is
        return None
    del content[len(file) :]
    content += _END % (trailer, _begin_of_references(file, reader))
    return content


def _begin_of_references(file: mmap.mmap, reader: pypdf.PdfReader) -> int:
    """Where a stream of cross-references is that names the one before it; 0 when there is none.

    Mostly it is the last one, the first in a file made for the web that has not been changed since.
    """
    first, last = file.find(b"/XRef"), file.rfind(b"/XRef")
    is_unchanged = file.rfind(b"/XRef", 0, max(last, 0)) == first
    named = first if is_unchanged and file.find(b"/Linearized", 0, first) >= 0 else last
    places = (place for places in reader.xref.values() for place in places.values() if place < named)
    return max(places, default=0)


def _trailer(reader: pypdf.PdfReader) -> bytes:
    found = reader.trailer
    trailer = DictionaryObject({NameObject(key): found.raw_get(key) for key in _KEPT if key in found})
    if "/Encrypt" not in found:
        trailer[NameObject("/Root")] = _catalog(reader)
    written = io.BytesIO()
    trailer.write_to_stream(written)
    return written.getvalue()


def _catalog(reader: pypdf.PdfReader) -> IndirectObject:
    """Among the objects that were found: pypdf itself would look through the whole file for each number."""
    found = [number for numbers in reader.xref.values() for number in numbers]
    for number in chain(found, reader.xref_objStm):
        with suppress(Exception):  # it may be the damaged one
            one = reader.get_object(number)
            if isinstance(one, DictionaryObject) and one.get("/Type") == "/Catalog":
                return IndirectObject(number, 0, reader)
    raise PdfReadError("there is no catalog")
