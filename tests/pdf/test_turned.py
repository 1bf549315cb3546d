"""Pages whose text lies on its side or upside down, as that of wide tables does."""

from io import BytesIO

import pytest
from PIL import Image

from app.pdf.reader import PDFReader
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, placed, shown, stream

ROWS = [("Orchard", "Apples", "Pears"), ("Northern slope", "1,204", "887"), ("Valley floor", "980", "432")]
# Turn what is drawn from the lower left corner of a page of 612 by 792 about the page.
TURNS = {
    "upright": b"1 0 0 1 0 0 cm ",
    "left": b"0 1 -1 0 612 0 cm ",
    "over": b"-1 0 0 -1 612 792 cm ",
    "right": b"0 -1 1 0 0 792 cm ",
}
TABLE = placed("Harvest of the orchards by year", 72, 560) + b"".join(
    placed(cell, left, 520 - 20 * place)
    for place, row in enumerate(ROWS)
    for cell, left in zip(row, (72, 250, 400), strict=True)
)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("turn", TURNS)
async def test_a_table_is_read_row_by_row_however_it_lies(
    reader: PDFReader, write: Write, turn: str, rotation: int
) -> None:
    content = one_page(stream(TURNS[turn] + TABLE), entries=b"/Rotate %d" % rotation)
    async with reader.open(write(content)) as reading:
        (page,) = [page async for page in reading]
    assert [line.text for line in page.lines] == ["Harvest of the orchards by year", *map("\t".join, ROWS)]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("turn", TURNS)
async def test_its_lines_are_where_the_page_shows_them(
    reader: PDFReader, write: Write, turn: str, rotation: int
) -> None:
    path = write(one_page(stream(TURNS[turn] + TABLE), entries=b"/Rotate %d" % rotation))
    async with reader.open(path) as reading:
        (page,) = [page async for page in reading]
    width = 612 if rotation % 180 == 0 else 792
    picture = Image.open(BytesIO(await reader.render(path, 1, max_width=width))).convert("L")
    boxes = [line.box for line in page.lines if line.box]
    assert len(boxes) == 1 + len(ROWS)
    for left, top, right, bottom in boxes:
        around = (int(left) - 1, int(top) - 1, int(right) + 2, int(bottom) + 2)
        assert ink(picture.crop(around)) > 20
        picture.paste(255, around)
    assert ink(picture) == 0


def ink(picture: Image.Image) -> int:
    """Dark pixels."""
    return sum(picture.histogram()[:128])


async def test_a_note_on_the_margin_does_not_turn_the_page(reader: PDFReader, write: Write) -> None:
    note = b"q " + TURNS["left"] + placed("arXiv:1234.5678v1 1 Jan 2020", 300, 580) + b"Q "
    lines = ["A page about bridges", "and about those who build them"]
    async with reader.open(write(one_page(stream(note + shown(*lines))))) as reading:
        (page,) = [page async for page in reading]
    assert [line.text for line in page.lines] == [*lines, "arXiv:1234.5678v1 1 Jan 2020"]
