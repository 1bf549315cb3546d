from io import BytesIO

import pytest
from PIL import Image

from app.errors import Encrypted, NotAPDF, PageNotFound
from app.pdf.reader import PDFReader
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, shown, stream
from tests.pdfs.hostile import PASSWORD, PROSE, encrypted, prose

A_WHITE, A_MARKED = (255, 255, 255), (255, 255, 102)


def picture(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png)).convert("RGB")


async def test_a_page_is_rendered_at_the_width_asked_for(reader: PDFReader, write: Write) -> None:
    drawn = picture(await reader.render(write(prose(2)), 2, max_width=800))
    assert drawn.width == 800
    assert drawn.height == pytest.approx(800 * 792 / 612, abs=2)
    assert drawn.getcolors(100_000) != [(drawn.width * drawn.height, A_WHITE)]


async def test_highlights_are_marked_and_leave_the_text_readable(reader: PDFReader, write: Write) -> None:
    path = write(one_page(stream(shown(*PROSE, size=20, leading=40))))
    async with reader.open(path) as reading:
        (page,) = [page async for page in reading]
    box = page.lines[1].box
    assert box is not None
    drawn = picture(await reader.render(path, 1, highlights=[box], max_width=612))
    colours = {
        drawn.getpixel((x, round((box[1] + box[3]) / 2))) for x in range(round(box[0]) + 1, round(box[2]))
    }
    assert A_MARKED in colours
    assert A_WHITE not in colours
    assert any(max(colour) < 100 for colour in colours)
    assert drawn.getpixel((300, 700)) == A_WHITE


async def test_highlights_outside_the_page_do_no_harm(reader: PDFReader, write: Write) -> None:
    boxes = [(-1e9, -1e9, 1e9, 1e9), (5.0, 5.0, 1.0, 1.0), (1e5, 1e5, 2e5, 2e5)]
    drawn = picture(await reader.render(write(prose(1)), 1, highlights=boxes, max_width=100))
    assert drawn.getpixel((1, 1)) == A_MARKED


@pytest.mark.parametrize("number", [0, 3])
async def test_a_page_the_document_does_not_have_is_not_found(
    reader: PDFReader, write: Write, number: int
) -> None:
    path = write(prose(2))
    with pytest.raises(PageNotFound):
        await reader.render(path, number)


@pytest.mark.parametrize("box", [b"0 0 1e6 1e6", b"0 0 1e9 0.1", b"0 0 0.1 1e9"])
async def test_a_page_of_any_size_gives_a_picture_of_bounded_size(
    reader: PDFReader, write: Write, box: bytes
) -> None:
    drawn = picture(await reader.render(write(one_page(stream(b""), box=box)), 1, max_width=100_000))
    assert drawn.width * drawn.height <= 26_000_000


async def test_a_locked_page_is_rendered_with_its_password(reader: PDFReader, write: Write) -> None:
    path = write(encrypted("AES-256", PASSWORD, "owner"))
    with pytest.raises(Encrypted):
        await reader.render(path, 1)
    assert picture(await reader.render(path, 1, PASSWORD, max_width=100)).width == 100


async def test_what_is_no_pdf_has_no_picture(reader: PDFReader, write: Write) -> None:
    for content in (b"", b"Dear reader"):
        path = write(content)
        with pytest.raises(NotAPDF):
            await reader.render(path, 1)
