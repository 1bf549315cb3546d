"""PDFs written by hand, object by object: what a PDF library would refuse to write."""

import zlib
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 612, 792


def pdf(objects: Sequence[bytes], *, root: int = 1, trailer: bytes = b"") -> bytes:
    """A file of these objects, numbered from 1, with a correct cross-reference table."""
    written = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
    written += b"trailer\n<</Size %d/Root %d 0 R%b>>\n" % (len(objects) + 1, root, trailer)
    written += b"startxref\n%d\n%%%%EOF\n" % start
    return bytes(written)


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d%b>>\nstream\n%b\nendstream" % (len(content), entries, content)


def compressed(content: bytes, entries: bytes = b"") -> bytes:
    return stream(zlib.compress(content, 9), b"/Filter/FlateDecode" + entries)


def one_page(
    content: bytes,
    *,
    box: bytes = b"0 0 612 792",
    entries: bytes = b"",
    fonts: bytes = b"/F 5 0 R",
    resources: bytes = b"",
    more: Sequence[bytes] = (),
    catalog: bytes = b"",
    trailer: bytes = b"",
) -> bytes:
    """Catalog 1, page tree 2, page 3, its content stream 4, Helvetica 5, then `more` from 6."""
    return pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R%b>>" % catalog,
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[%b]/Contents 4 0 R%b/Resources<</Font<<%b>>%b>>>>"
            % (box, entries, fonts, resources),
            content,
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
            *more,
        ],
        trailer=trailer,
    )


def pages(contents: Sequence[bytes], *, trailer: bytes = b"", more: Sequence[bytes] = ()) -> bytes:
    """A page for each content stream's operators; Helvetica is /F. `more` objects come after all."""
    first = 4
    kids = b" ".join(b"%d 0 R" % (first + 2 * place) for place in range(len(contents)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%b]/Count %d/MediaBox[0 0 612 792]>>" % (kids, len(contents)),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    for place, content in enumerate(contents):
        own_content = first + 2 * place + 1
        objects.append(
            b"<</Type/Page/Parent 2 0 R/Contents %d 0 R/Resources<</Font<</F 3 0 R>>>>>>" % own_content
        )
        objects.append(stream(content))
    return pdf([*objects, *more], trailer=trailer)


def shown(*lines: str, left: float = 72, top: float = 720, size: float = 12, leading: float = 16) -> bytes:
    """Operators that show lines of Latin text, one below the other."""
    parts = [b"BT /F %g Tf %g TL %g %g Td" % (size, leading, left, top)]
    parts += [b"(%b) Tj T*" % _escaped(line) for line in lines]
    return b"\n".join([*parts, b"ET\n"])


def placed(text: str, left: float, bottom: float, size: float = 10) -> bytes:
    return b"BT /F %g Tf %g %g Td (%b) Tj ET\n" % (size, left, bottom, _escaped(text))


def _escaped(text: str) -> bytes:
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return escaped.encode("cp1252")


def unicode_font(characters: Mapping[int, str]) -> tuple[bytes, bytes]:
    """A font whose codes stand for any characters (even half of one), and the map it refers to as 6 0 R."""
    entries = b"".join(
        b"<%02X> <%b>\n" % (code, text.encode("utf-16-be", "surrogatepass").hex().upper().encode())
        for code, text in characters.items()
    )
    character_map = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def "
        b"1 begincodespacerange <00> <FF> endcodespacerange\n"
        b"%d beginbfchar\n%bendbfchar endcmap end end" % (len(characters), entries)
    )
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode 6 0 R>>"
    return font, stream(character_map)
