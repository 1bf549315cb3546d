"""What was filled into a form belongs to the text of its page, and to its picture."""

from io import BytesIO

import pytest
from PIL import Image

from app.errors import NoText
from app.pdf.pages import Line
from app.pdf.reader import PDFReader
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, placed, shown, stream
from tests.pdfs.hostile import LARGE_PROSE, PROSE, SCAN, scanned

NAME = b"/FT/Tx/T(name)/V(Grace Hopper)/Rect[150 700 350 720]"
BOX = b"[150 600 162 612]"
"""Where a check box is."""


def form(*fields: bytes, content: bytes = b"", looks: bytes = b"", entries: bytes = b"") -> bytes:
    """A page with these fields; `looks` is object 6, for fields that refer to it, and 7 draws nothing."""
    first = 8
    numbers = b" ".join(b"%d 0 R" % (first + place) for place in range(len(fields)))
    return one_page(
        stream(content),
        entries=b"/Annots[%b]" % numbers,
        catalog=b"/AcroForm<</Fields[%b]/DA(/F 12 Tf 0 g)/DR<</Font<</F 5 0 R>>>>%b>>" % (numbers, entries),
        more=[
            stream(looks, b"/Type/XObject/Subtype/Form/BBox[0 0 200 20]/Resources<</Font<</F 5 0 R>>>>"),
            stream(b"", b"/Type/XObject/Subtype/Form/BBox[0 0 12 12]"),
            *(b"<</Type/Annot/Subtype/Widget/F 4/DA(/F 12 Tf 0 g)%b>>" % field for field in fields),
        ],
    )


async def lines_of(reader: PDFReader, content: bytes, write: Write) -> list[Line]:
    async with reader.open(write(content)) as reading:
        (page,) = [page async for page in reading]
    return list(page.lines)


@pytest.mark.parametrize(
    ("field", "looks", "expected"),
    [
        (NAME + b"/AP<</N 6 0 R>>", placed("Grace Hopper", 2, 6), "Grace Hopper"),
        (NAME, b"", "Grace Hopper"),
        (b"/FT/Ch/Ff 131072/T(rank)/Opt[(Ensign)(Admiral)]/V(Admiral)/Rect[150 700 350 720]", b"", "Admiral"),
    ],
    ids=["text", "text-without-looks", "choice"],
)
async def test_what_was_filled_in_is_read_beside_its_label(
    reader: PDFReader, write: Write, field: bytes, looks: bytes, expected: str
) -> None:
    content = shown("Name", top=706) + shown("Date", top=660)
    lines = await lines_of(
        reader, form(field, content=content, looks=looks, entries=b"/NeedAppearances true"), write
    )
    assert [line.text.split("\t") for line in lines] == [["Name", expected], ["Date"]]
    assert lines[0].box is not None
    assert 150 < lines[0].box[2] < 350


async def test_a_form_of_fields_alone_is_read(reader: PDFReader, write: Write) -> None:
    (line,) = await lines_of(reader, form(NAME), write)
    assert line.text == "Grace Hopper"


@pytest.mark.parametrize(("state", "expected"), [(b"/Yes", ["☒ Married"]), (b"/Off", ["Married"])])
async def test_a_checked_box_is_told_from_an_empty_one(
    reader: PDFReader, write: Write, state: bytes, expected: list[str]
) -> None:
    looks = b"/AP<</N<</Yes 7 0 R/Off 7 0 R>>>>"
    box = b"/FT/Btn/T(married)/V%b/AS%b/Rect%b%b" % (state, state, BOX, looks)
    lines = await lines_of(reader, form(box, content=shown("Married", left=168, top=602)), write)
    assert [line.text for line in lines] == expected


async def test_a_value_that_does_not_fit_its_field_is_hidden_where_nobody_sees_it(
    reader: PDFReader, write: Write
) -> None:
    looks = placed("Grace", 2, 6) + placed("Hopper", 2, -300)
    lines = await lines_of(reader, form(NAME + b"/AP<</N 6 0 R>>", looks=looks), write)
    assert [(line.text, line.is_hidden) for line in lines] == [("Grace", False), ("Hopper", True)]


async def test_a_hidden_field_is_not_read(reader: PDFReader, write: Write) -> None:
    content = form(NAME + b"/AP<</N 6 0 R>>", content=shown(*PROSE), looks=placed("Grace", 2, 6))
    lines = await lines_of(reader, content.replace(b"/F 4/DA", b"/F 2/DA"), write)
    assert [line.text for line in lines] == list(PROSE)


async def test_a_note_typed_onto_the_page_is_read(reader: PDFReader, write: Write) -> None:
    note = b"/AP<</N 6 0 R>>/Contents(Paid)/Rect[150 700 350 720]"
    content = form(note, content=shown(*PROSE, top=600), looks=placed("Paid in full", 2, 6))
    lines = await lines_of(reader, content.replace(b"/Widget", b"/FreeText"), write)
    assert [line.text for line in lines] == ["Paid in full", *PROSE]


async def test_a_note_whose_looks_are_not_in_the_file_is_read(reader: PDFReader, write: Write) -> None:
    note = b"<</Type/Annot/Subtype/FreeText/F 4/Contents(Paid\\rin full)/Rect[150 700 350 720]>>"
    content = one_page(stream(shown(*PROSE, top=600)), entries=b"/Annots[6 0 R]", more=[note])
    lines = await lines_of(reader, content, write)
    assert [line.text for line in lines] == ["Paid in full", *PROSE]
    assert lines[0].box == (150, 72, 350, 84)
    lines = await lines_of(reader, content.replace(b"/F 4", b"/F 2"), write)
    assert [line.text for line in lines] == list(PROSE)


async def test_a_stamp_is_read(reader: PDFReader, write: Write) -> None:
    stamp = b"/AP<</N 6 0 R>>/Rect[150 700 350 720]"
    content = form(stamp, content=shown(*PROSE, top=600), looks=placed("Approved", 2, 6))
    lines = await lines_of(reader, content.replace(b"/Widget", b"/Stamp"), write)
    assert [(line.text, line.is_hidden) for line in lines] == [(text, False) for text in ("Approved", *PROSE)]


async def test_the_script_of_a_field_does_not_run(reader: PDFReader, write: Write) -> None:
    script = b"<</S/JavaScript/JS(event.value = 'Eve'; this.getField('name').value = 'Eve')>>"
    actions = b"/AA<</F %b/C %b/K %b>>" % (script, script, script)
    content = form(NAME + actions, entries=b"/NeedAppearances true/CO[8 0 R]")
    (line,) = await lines_of(reader, content, write)
    assert line.text == "Grace Hopper"


@pytest.mark.program("tesseract")
async def test_a_scanned_form_that_was_filled_in_is_still_a_scan(reader: PDFReader, write: Write) -> None:
    lines = await lines_of(reader, filled_in_scan(), write)
    text = " ".join(line.text for line in lines)
    assert PROSE[0] in text
    assert "Grace Hopper" in text


async def test_without_ocr_a_filled_in_scan_has_the_text_of_its_fields(write: Write) -> None:
    reader = PDFReader(ocr_languages=None)
    try:
        (line,) = await lines_of(reader, filled_in_scan(), write)
    finally:
        await reader.close()
    assert line.text == "Grace Hopper"


def filled_in_scan() -> bytes:
    field = b"/AP<</N 6 0 R>>/FT/Tx/T(name)/V(Grace Hopper)/Rect[72 400 472 440]"
    content = form(field, content=SCAN, looks=placed("Grace Hopper", 2, 6, size=12))
    field_number = b"8 0 R"
    picture_number = b"9 0 R"
    assert field_number in content
    resources = b"/Resources<</XObject<</S %b>>/Font" % picture_number
    return _with_object(content.replace(b"/Resources<</Font", resources, 1), scanned(LARGE_PROSE))


def _with_object(content: bytes, added: bytes) -> bytes:
    """The file with one more object in front of its table, which readers then build anew."""
    body, table = content.split(b"xref\n", 1)
    trailer = table[table.index(b"trailer") : table.index(b"startxref")]
    return body + b"9 0 obj\n%b\nendobj\n" % added + trailer + b"startxref\n0\n%%EOF\n"


@pytest.mark.parametrize("options", [10_000, 200_000])
async def test_a_list_of_very_many_options_does_not_cost_the_page(
    reader: PDFReader, write: Write, options: int
) -> None:
    """pdfium takes 10 s to draw 10,000."""
    field = b"/FT/Ch/T(rank)/Rect[150 700 350 720]/Opt[%b]" % (b"(Ensign)" * options)
    lines = await lines_of(reader, form(field, content=shown(*PROSE)), write)
    assert [line.text for line in lines] == list(PROSE)


async def test_an_empty_form_has_no_text(reader: PDFReader, write: Write) -> None:
    with pytest.raises(NoText):
        await lines_of(reader, form(b"/FT/Tx/T(name)/Rect[150 700 350 720]"), write)


async def test_the_picture_of_a_page_shows_what_was_filled_in(reader: PDFReader, write: Write) -> None:
    empty, filled_in = [
        Image.open(BytesIO(await reader.render(write(form(field)), 1, max_width=612))).convert("L")
        for field in (NAME.replace(b"/V(Grace Hopper)", b""), NAME)
    ]
    inside = (150, 72, 350, 92)
    assert ink(empty.crop(inside)) == 0
    assert ink(filled_in.crop(inside)) > 100


def ink(picture: Image.Image) -> int:
    """Dark pixels."""
    return sum(picture.histogram()[:128])


@pytest.mark.parametrize("kind", [b"Text", b"Highlight", b"StrikeOut"])
async def test_a_comment_is_read_behind_the_page(reader: PDFReader, write: Write, kind: bytes) -> None:
    comment = b"<</Type/Annot/Subtype/%b/Contents(Ask the\\rpilot)/Rect[72 600 200 612]>>" % kind
    content = one_page(stream(shown(*PROSE, top=600)), entries=b"/Annots[6 0 R]", more=[comment])
    lines = await lines_of(reader, content, write)
    assert [line.text for line in lines] == [*PROSE, "Ask the pilot"]
    assert lines[-1].box == (72, 180, 200, 192)


@pytest.mark.parametrize(
    "entry", [b"/Contents()", b"/F 2/Contents(Secret)", b"/Contents(%b)" % PROSE[0].encode()]
)
async def test_a_comment_that_says_nothing_of_its_own_is_not(
    reader: PDFReader, write: Write, entry: bytes
) -> None:
    """Nor one that is hidden; programs put the words that were marked into a comment on them."""
    comment = b"<</Type/Annot/Subtype/Highlight%b/Rect[72 600 200 612]>>" % entry
    content = one_page(stream(shown(*PROSE, top=600)), entries=b"/Annots[6 0 R]", more=[comment])
    assert [line.text for line in await lines_of(reader, content, write)] == [*PROSE]
