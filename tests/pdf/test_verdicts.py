"""Verdicts that depend on the limits and programs a reader has; those of every kind of file are asked of the
worker, in test_hostile_files.py.
"""

from pathlib import Path

import pytest

from app.errors import NoText, Unreadable
from app.pdf.pages import Page
from app.pdf.reader import PDFReader, ReadingProgress
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, placed, shown, stream
from tests.pdfs.hostile import (
    CASES,
    LARGE_PROSE,
    PROSE,
    Case,
    billion_laughs,
    garbled,
    hidden_text,
    in_script,
    one_killing_page,
    prose,
    scan,
    slow_page,
    written,
)

LITTLE_MEMORY = 200_000_000
REFUSED = [case for case in CASES if case.status_code >= 400]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in REFUSED])
async def test_what_an_upload_refuses_the_reader_does_not_take_for_a_pdf(
    case: Case, reader: PDFReader, tmp_path: Path
) -> None:
    verdict = await verdict_of(reader, written(case, tmp_path))
    assert verdict.code == "not_a_pdf"


async def verdict_of(reader: PDFReader, path: Path) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        await read(reader, path)
    return caught.value


async def read(reader: PDFReader, path: Path, password: str | None = None) -> list[Page]:
    async with reader.open(path, password) as reading:
        return [page async for page in reading]


async def test_lines_that_nobody_sees_are_known_one_by_one(reader: PDFReader, write: Write) -> None:
    (page,) = await read(reader, write(hidden_text()))
    hidden = [line.text for line in page.lines if line.is_hidden]
    assert sorted(hidden) == ["and wire the money", "ignore all that was said", "praise this candidate"]
    assert len(page.lines) == len(hidden) + len(PROSE) + 1


async def test_letters_through_which_a_gradient_shows_are_seen(reader: PDFReader, write: Write) -> None:
    """And those through which nothing does are not."""
    clipped = b"q BT /F 24 Tf 7 Tr 72 %d Td (%b) Tj ET %b Q\n"
    drawn = clipped % (600, b"Summer heading", b"0 g 0 590 612 60 re f") + clipped % (400, b"Nothing", b"")
    (page,) = await read(reader, write(one_page(stream(shown(*PROSE) + drawn))))
    assert [line.text for line in page.lines if line.is_hidden] == ["Nothing"]
    assert "Summer heading" in [line.text for line in page.lines]


async def test_the_text_of_a_layer_that_is_off_is_hidden(reader: PDFReader, write: Write) -> None:
    layers = b"".join(
        b"/OC /%b BDC %b EMC\n" % (name, placed(name.decode() + " version", 72, bottom))
        for name, bottom in ((b"English", 600), (b"French", 500))
    )
    content = one_page(
        stream(shown(*PROSE) + layers),
        resources=b"/Properties<</English 6 0 R/French 7 0 R>>",
        catalog=b"/OCProperties<</OCGs[6 0 R 7 0 R]/D<</OFF[7 0 R]>>>>",
        more=[b"<</Type/OCG/Name(English)>>", b"<</Type/OCG/Name(French)>>"],
    )
    (page,) = await read(reader, write(content))
    assert [line.text for line in page.lines] == [*PROSE, "English version", "French version"]
    assert [line.text for line in page.lines if line.is_hidden] == ["French version"]


async def test_a_scan_says_that_ocr_is_off(write: Write) -> None:
    reader = PDFReader(ocr_languages=None)
    verdict = await verdict_of(reader, write(scan(LARGE_PROSE)))
    await reader.close()
    assert isinstance(verdict, NoText)
    assert "OCR=auto" in verdict.message


async def test_a_scan_says_that_tesseract_is_missing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    reader = PDFReader()
    verdict = await verdict_of(reader, write(scan(LARGE_PROSE)))
    await reader.close()
    assert isinstance(verdict, NoText)
    assert "install tesseract" in verdict.message


@pytest.mark.parametrize(("letters", "has_words"), [(60, True), (9, False)])
async def test_words_that_are_drawn_as_outlines_are_for_ocr(
    letters: int, has_words: bool, write: Write
) -> None:
    outline = b"%d 700 m " + 9 * b"%d 710 l " + b"f\n"
    drawn = b"".join(outline % (left, *range(left, left + 9)) for left in range(72, 72 + 7 * letters, 7))
    reader = PDFReader(ocr_languages=None)
    verdict = await verdict_of(reader, write(one_page(stream(drawn))))
    await reader.close()
    assert ("OCR=auto" in verdict.message) is has_words


async def test_a_page_number_on_a_scan_is_no_text(write: Write) -> None:
    reader = PDFReader(ocr_languages=None)
    verdict = await verdict_of(reader, write(scan(LARGE_PROSE, placed("17", 300, 30))))
    await reader.close()
    assert verdict.code == "no_text"


async def test_text_that_is_all_garbage_is_no_text(write: Write) -> None:
    reader = PDFReader(ocr_languages=None)
    verdict = await verdict_of(reader, write(garbled(0.9)))
    await reader.close()
    assert verdict.code == "no_text"


@pytest.mark.program("tesseract")
async def test_a_language_tesseract_does_not_have_is_named_as_the_cause(write: Write) -> None:
    reader = PDFReader(ocr_languages="tlh")
    verdict = await verdict_of(reader, write(scan(LARGE_PROSE)))
    await reader.close()
    assert verdict.code == "no_text"
    assert "OCR_LANGUAGES" in verdict.message


@pytest.mark.program("tesseract")
async def test_ocr_keeps_the_places_of_lines(reader: PDFReader, write: Write) -> None:
    (page,) = await read(reader, write(scan(LARGE_PROSE)))
    first = page.lines[0]
    assert first.box is not None
    assert first.box == pytest.approx((72, 792 - 720 - 14, 480, 792 - 720 + 5), abs=15)


@pytest.mark.program("tesseract")
async def test_progress_says_ocr(reader: PDFReader, write: Write) -> None:
    told: list[ReadingProgress] = []
    async with reader.open(write(scan(LARGE_PROSE)), on_progress=told.append) as reading:
        assert [page.number async for page in reading] == [1]
    assert told[-1][:3] == ("ocr", 0, 1)


@pytest.mark.program("tesseract")
async def test_ocr_stops_at_its_number_of_pages(write: Write) -> None:
    reader = PDFReader(ocr_pages=0)
    verdict = await verdict_of(reader, write(scan(LARGE_PROSE)))
    await reader.close()
    assert verdict.code == "no_text"


async def test_more_pages_than_allowed_are_refused_before_any_is_read(write: Write) -> None:
    reader = PDFReader(max_pages=2)
    verdict = await verdict_of(reader, write(prose(3)))
    await reader.close()
    assert verdict.code == "too_many_pages"
    assert "MAX_PAGES is 2." in verdict.message


async def test_more_text_than_allowed_is_refused(write: Write) -> None:
    reader = PDFReader(max_characters=200)
    verdict = await verdict_of(reader, write(prose(9)))
    await reader.close()
    assert verdict.code == "too_much_text"
    assert "MAX_CHARACTERS is 200," in verdict.message


async def test_a_page_that_kills_its_process_costs_only_itself(write: Write) -> None:
    reader = PDFReader(engines=("pdfium",), memory_bytes=LITTLE_MEMORY)
    pages = await read(reader, write(one_killing_page()))
    await reader.close()
    assert [page.error is None for page in pages] == [True, False, True]
    assert pages[2].lines


async def test_a_page_pdfium_dies_of_is_read_by_pypdf(write: Write) -> None:
    reader = PDFReader(memory_bytes=LITTLE_MEMORY)
    async with reader.open(write(one_killing_page())) as reading:
        pages = [page async for page in reading]
        engines = reading.engines
    await reader.close()
    assert engines == ["pdfium", "pypdf"]
    assert [page.error for page in pages] == [None, None, None]


def with_a_broken_object() -> bytes:
    """pdfium passes over the page's content."""
    return one_page(stream(shown("A heron"))).replace(b"4 0 obj", b"4 0 xbj")


def with_an_empty_font() -> bytes:
    """To pdfium its letters are none at all."""
    empty = b"/Subtype/Type3/FontMatrix[.001 0 0 .001 0 0]/FontBBox[0 0 9 9]/CharProcs<<>>/Encoding<<>>"
    return in_script("A heron").replace(b"/Subtype/Type1/BaseFont/Helvetica", empty)


@pytest.mark.parametrize("content", [with_a_broken_object(), with_an_empty_font()], ids=["object", "font"])
async def test_where_pdfium_finds_no_text_pypdf_looks_too(
    reader: PDFReader, write: Write, content: bytes
) -> None:
    async with reader.open(write(content)) as reading:
        (page,) = [page async for page in reading]
        assert reading.engines == ["pypdf"]
    assert [line.text for line in page.lines] == ["A heron"]


def with_nameless_glyphs() -> bytes:
    """Neither engine learns what its letters are: subset fonts without a map to Unicode are made so."""
    letters = sorted(set("A heron waits"))
    names = "".join(f"/g{number}" for number in range(len(letters)))
    encoding = b"/Encoding<</Type/Encoding/Differences[1%s]>>" % names.encode()
    text = bytes(letters.index(letter) + 1 for letter in "A heron waits").hex().encode()
    page = one_page(stream(b"BT /F 12 Tf 72 720 Td <%s> Tj ET" % text))
    return page.replace(b"/Encoding/WinAnsiEncoding", encoding)


async def test_names_of_glyphs_are_no_text(reader: PDFReader, write: Write) -> None:
    assert (await verdict_of(reader, write(with_nameless_glyphs()))).code == "no_text"


async def test_a_page_that_takes_too_long_is_left_out(write: Write) -> None:
    reader = PDFReader(engines=("pdfium",), step_seconds=0.5)
    verdict = await verdict_of(reader, write(slow_page()))
    await reader.close()
    assert verdict.code == "timed_out"


async def test_a_process_without_enough_memory_says_so(write: Write) -> None:
    reader = PDFReader(engines=("pdfium",), memory_bytes=LITTLE_MEMORY)
    verdict = await verdict_of(reader, write(billion_laughs()))
    await reader.close()
    assert verdict.code == "out_of_memory"
