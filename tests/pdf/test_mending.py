"""Files that have lost their end, or of whose objects some are gone."""

from io import BytesIO
from itertools import accumulate

import pytest
from pypdf import PdfReader
from pypdf._encryption import EncryptAlgorithm, Encryption
from pypdf.generic import StreamObject

from app.errors import Corrupted, UnsupportedEncryption
from app.pdf.reader import PDFReader
from tests.pdf.conftest import Write
from tests.pdf.test_verdicts import read, verdict_of
from tests.pdfs.builder import one_page, pages, shown, stream

FIRST, SECOND = "The tide comes in twice a day.", "Herons wait for eels."
BOTH = [shown(FIRST), shown(SECOND)]


@pytest.mark.parametrize("end", [b"startxref", b"trailer", b"xref\n0"], ids=["place", "trailer", "table"])
async def test_a_file_that_has_lost_its_end_alone_is_read(
    end: bytes, reader: PDFReader, write: Write
) -> None:
    whole = pages(BOTH)
    found = await read(reader, write(whole[: whole.rindex(end)]))
    assert [[line.text for line in page.lines] for page in found] == [[FIRST], [SECOND]]


@pytest.mark.parametrize("end", [b"7 0 obj", b"endstream"], ids=["without", "within"])
async def test_a_file_that_has_lost_some_of_its_text_is_not_read(
    end: bytes, reader: PDFReader, write: Write
) -> None:
    whole = pages(BOTH)
    assert isinstance(await verdict_of(reader, write(whole[: whole.rindex(end)])), Corrupted)


async def test_a_page_whose_content_is_gone_has_failed(reader: PDFReader, write: Write) -> None:
    gone = pages(BOTH).replace(b"7 0 obj", b"8 0 obj").replace(b"startxref\n", b"startxref\n9")
    first, second = await read(reader, write(gone))
    assert (first.error, len(first.lines)) == (None, 1)
    assert second.error


async def test_a_blank_page_of_a_damaged_file_has_not_failed(reader: PDFReader, write: Write) -> None:
    damaged = pages([*BOTH, b""]).replace(b"startxref\n", b"startxref\n9")
    assert [page.error for page in await read(reader, write(damaged))] == [None] * 3


async def test_a_filter_that_no_engine_knows_is_no_encryption(reader: PDFReader, write: Write) -> None:
    (page,) = await read(reader, write(in_streams()))
    assert [line.text for line in page.lines] == [FIRST]
    assert isinstance(await verdict_of(reader, write(in_streams(is_filtered=True))), Corrupted)


@pytest.mark.parametrize("rules", [b"/Filter/Unheard", b"/Filter/Adobe.PubSec/SubFilter/adbe.pkcs7.s5/V 4"])
async def test_an_encryption_that_no_engine_knows_says_so(
    rules: bytes, reader: PDFReader, write: Write
) -> None:
    locked = one_page(stream(shown(FIRST)), more=[b"<<%b>>" % rules], trailer=b"/Encrypt 6 0 R")
    assert isinstance(await verdict_of(reader, write(locked)), UnsupportedEncryption)


async def test_encrypted_streams_of_objects_are_found_without_the_place_of_their_references(
    reader: PDFReader, write: Write
) -> None:
    encryption = Encryption.make(EncryptAlgorithm.AES_128, -4, b"")
    whole = in_streams(encryption=encryption)
    assert PdfReader(BytesIO(whole)).is_encrypted
    for damaged in (whole, whole[: whole.rindex(b"startxref")], whole[:-9] + b"9\n%%EOF\n"):
        (page,) = await read(reader, write(damaged))
        assert [line.text for line in page.lines] == [FIRST]


def in_streams(*, is_filtered: bool = False, encryption: Encryption | None = None) -> bytes:
    """One page; all of it but its content is in a stream of objects. If encrypted, anybody may open it."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources<</Font<</F 4 0 R>>>>>>",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    ]
    places = accumulate((len(one) + 1 for one in objects), initial=0)
    head = b" ".join(b"%d %d" % placed for placed in zip(range(1, 5), places, strict=False)) + b"\n"
    packed = head + b"\n".join(objects)
    entries = b"/Type/ObjStm/N 4/First %d" % len(head)
    if is_filtered:
        packed, entries = packed[::-1], entries + b"/Filter/Reversed"
    rules = _rules(encryption)  # which makes its key
    whole, starts = bytearray(b"%PDF-1.7\n"), []
    for number, content in (
        (5, _locked(encryption, 5, shown(FIRST), b"")),
        (6, _locked(encryption, 6, packed, entries)),
        (7, rules),
    ):
        starts.append(len(whole))
        whole += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    rows = [(0, 0, 0), *((2, 6, place) for place in range(4)), *((1, start, 0) for start in starts)]
    table = b"".join(bytes([kind]) + place.to_bytes(2, "big") + bytes([last]) for kind, place, last in rows)
    trailer = b"/Type/XRef/W[1 2 1]/Size 8/Root 1 0 R/ID[<><>]" + b"/Encrypt 7 0 R" * bool(encryption)
    last = b"8 0 obj\n%b\nendobj\nstartxref\n%d\n%%%%EOF\n" % (stream(table, trailer), len(whole))
    return bytes(whole) + last


def _rules(encryption: Encryption | None) -> bytes:
    written = BytesIO()
    if encryption:
        encryption.write_entry("", "owner").write_to_stream(written)
    return written.getvalue() or b"null"


def _locked(encryption: Encryption | None, number: int, content: bytes, entries: bytes) -> bytes:
    plain = StreamObject()
    plain.set_data(content)
    return stream(encryption.encrypt_object(plain, number, 0)._data if encryption else content, entries)
