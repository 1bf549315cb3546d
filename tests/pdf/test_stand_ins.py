"""A page that only stands in for what its file holds does not make a document of it."""

import pytest

from app.errors import NoText
from app.pdf.reader import PDFReader
from tests.pdf.conftest import Write
from tests.pdfs.builder import compressed, one_page, shown, stream
from tests.pdfs.hostile import PROSE

COVER = ("For the best experience, open this PDF portfolio in", "Acrobat X or Adobe Reader X, or later.")
WAIT = ("Please wait...", "Get the newest program at http://www.adobe.com/go/reader_download.")
XFA = b"/AcroForm<</Fields[]/XFA 6 0 R>>"
WIDGET = b"<</Type/Annot/Subtype/Widget/FT/Tx/T(name)/F 4/Rect[150 500 350 520]>>"


async def lines_of(reader: PDFReader, path_of: Write, content: bytes) -> list[str]:
    async with reader.open(path_of(content)) as reading:
        (page,) = [page async for page in reading]
    return [line.text for line in page.lines]


def with_files(*lines: str, view: bytes, files: int = 2, about: bytes = b"") -> bytes:
    names = b"".join(b"(letter-%d.pdf)7 0 R" % number for number in range(files))
    return one_page(
        stream(shown(*lines)),
        catalog=b"/Names<</EmbeddedFiles<</Names[%b]>>>>%b" % (names, view),
        more=[
            compressed(b"%PDF-1.7", b"/Type/EmbeddedFile"),
            b"<</Type/Filespec/F(letter.pdf)/EF<</F 6 0 R>>%b>>" % about,
        ],
    )


@pytest.mark.parametrize(("files", "counted"), [(1, "the cover of a file,"), (12, "the cover of 12 files,")])
async def test_the_cover_of_a_portfolio_is_no_document(
    reader: PDFReader, write: Write, files: int, counted: str
) -> None:
    portfolio = with_files(*COVER, view=b"/Collection<</Type/Collection/View/D>>", files=files)
    with pytest.raises(NoText, match=counted):
        await lines_of(reader, write, portfolio)


@pytest.mark.parametrize("view", [b"", b"/Collection<</Type/Collection/View/H>>"], ids=["none", "hidden"])
async def test_a_page_with_files_attached_is_read(reader: PDFReader, write: Write, view: bytes) -> None:
    assert await lines_of(reader, write, with_files(*PROSE, view=view)) == list(PROSE)


async def test_a_letter_that_shows_its_files_first_is_read(reader: PDFReader, write: Write) -> None:
    letter = 8 * PROSE
    read = await lines_of(reader, write, with_files(*letter, view=b"/Collection<</Type/Collection>>"))
    assert len(read) == len(letter)


async def test_the_wrapper_of_an_encrypted_document_says_so(reader: PDFReader, write: Write) -> None:
    """As programs that protect the files of a company make it (PDF 2.0, 7.6.7)."""
    payload = b"/AFRelationship/EncryptedPayload/EP<</Type/EncryptedPayload/Subtype/Rights>>"
    wrapper = with_files(
        "This document is protected.", view=b"/Collection<</View/H/D(letter-0.pdf)>>", files=1, about=payload
    )
    with pytest.raises(NoText, match="encrypted file inside it"):
        await lines_of(reader, write, wrapper)


@pytest.mark.parametrize("catalog", [XFA, b"/NeedsRendering true" + XFA], ids=["silent", "told"])
async def test_a_form_that_only_its_maker_s_program_draws_has_no_text(
    reader: PDFReader, write: Write, catalog: bytes
) -> None:
    form = one_page(stream(shown(*WAIT)), catalog=catalog, more=[stream(b"<xdp:xdp/>")])
    with pytest.raises(NoText, match="dynamic XFA form"):
        await lines_of(reader, write, form)


async def test_a_form_that_is_drawn_is_read(reader: PDFReader, write: Write) -> None:
    words = ("Fill in with a program of www.adobe.com, please.",)
    with_field = one_page(
        stream(shown(*words)), entries=b"/Annots[7 0 R]", catalog=XFA, more=[stream(b"<xdp:xdp/>"), WIDGET]
    )
    assert await lines_of(reader, write, with_field) == list(words)
    without = one_page(stream(shown(*PROSE)), catalog=XFA, more=[stream(b"<xdp:xdp/>")])
    assert await lines_of(reader, write, without) == list(PROSE)
