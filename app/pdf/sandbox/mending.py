"""An end for a file that has lost its own, as what was not sent to the end has.

pdfium finds the objects of such a file by itself, but not the catalog, which its trailer names; and those in
encrypted streams by the cross-references only. pypdf finds both.
"""

import io
import mmap

import pypdf
from pypdf.generic import DictionaryObject, NameObject

# Whatever was begun is ended first.
_END = b"\nendstream\nendobj\ntrailer\n%b\nstartxref\n%d\n%%%%EOF\n"
# Among which the catalog is looked for, in 0.1 s.
MOST_OBJECTS = 10_000
_KEPT = ("/Root", "/Encrypt", "/ID", "/Info")


def mended(file: mmap.mmap, password: str | None) -> bytearray | None:
    """The file with another end, if pypdf finds its catalog."""
    content = bytearray(file)
    content += _END % (b"<</Size %d>>" % MOST_OBJECTS, 0)
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
        trailer[NameObject("/Root")] = reader.root_object.indirect_reference
    written = io.BytesIO()
    trailer.write_to_stream(written)
    return written.getvalue()
