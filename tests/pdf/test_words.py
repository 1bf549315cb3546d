"""Words that are whole to the eye, however their letters were put on the page."""

import pytest

from app.pdf.reader import PDFReader
from app.pdf.sandbox.extraction import lines_in
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, placed, shown, stream, unicode_font


async def lines_of(reader: PDFReader, path_of: Write, content: bytes) -> list[str]:
    async with reader.open(path_of(content)) as reading:
        (page,) = [page async for page in reading]
    return [line.text for line in page.lines]


@pytest.mark.parametrize("tracking", [2, 3, 5])
async def test_letters_that_are_spaced_out_are_words(reader: PDFReader, write: Write, tracking: int) -> None:
    spaced = b"%d Tc " % tracking + shown("Minutes of the harbour board", "INTRODUCTION")
    read = await lines_of(reader, write, one_page(stream(spaced)))
    assert [line.split() for line in read] == [["Minutes", "of", "the", "harbour", "board"], ["INTRODUCTION"]]


async def test_letters_with_a_space_between_them_are_words(reader: PDFReader, write: Write) -> None:
    """As old programs for scans wrote what they recognised."""
    content = one_page(stream(shown("T h e  m a y o r  s i g n e d")))
    (line,) = await lines_of(reader, write, content)
    assert line.split() == ["The", "mayor", "signed"]


@pytest.mark.parametrize("text", ["a b c d e f", "1 2 3 4 5 6 7", "x = y + z - 1 or so"])
async def test_short_words_and_numbers_stay_apart(reader: PDFReader, write: Write, text: str) -> None:
    assert await lines_of(reader, write, one_page(stream(shown(text)))) == [text]


async def test_a_line_in_a_fixed_pitch_is_no_row_of_a_table(reader: PDFReader, write: Write) -> None:
    lines = ["12  Q. Where were you at night?", "13  A. I was at it.", "TOTAL      9"]
    content = one_page(stream(shown(*lines))).replace(b"/Helvetica", b"/Courier")
    assert await lines_of(reader, write, content) == [
        "12 Q. Where were you at night?",
        "13 A. I was at it.",
        "TOTAL\t9",
    ]


async def test_latin_words_within_hebrew_keep_their_order(reader: PDFReader, write: Write) -> None:
    characters = {code: chr(code) for code in range(32, 127)} | dict(enumerate("שלוםתקן", 0x80))
    font, character_map = unicode_font(characters)
    seen = b"".join(b"BT /F 10 Tf %d 700 Td <83828180> Tj ET " % left for left in range(230, 400, 20))
    seen += b"BT /F 10 Tf 70 700 Td <868584> Tj ET "
    content = stream(seen + placed(".2024", 92, 700) + placed("Airbus A320 ISO 9001", 120, 700))
    document = one_page(content, fonts=b"/F 7 0 R", more=[character_map, font])
    words = " ".join(await lines_of(reader, write, document)).split()
    assert words[:5] == ["Airbus", "A320", "ISO", "9001", "2024."]


async def test_a_word_whose_letters_each_say_what_they_are_is_not_turned_round(
    reader: PDFReader, write: Write
) -> None:
    """As Chrome draws Arabic: from the left, glyph by glyph, each with its own text."""
    words = ["تغادر", "في", "الساعة", "العاشرة"]
    codes = {letter: code for code, letter in enumerate(sorted(set("".join(words))), 0x41)}
    font, character_map = unicode_font({code: letter for letter, code in codes.items()})
    drawn = b"".join(
        b"/Span<</ActualText<FEFF%b>>>BDC <%02X> Tj EMC "
        % (letter.encode("utf-16-be").hex().encode(), codes[letter])
        if letter != " "
        else b"<20> Tj "
        for letter in " ".join(words)[::-1]
    )
    document = one_page(
        stream(b"BT /F 12 Tf 72 700 Td " + drawn + b"ET"), fonts=b"/F 7 0 R", more=[character_map, font]
    )
    assert " ".join(await lines_of(reader, write, document)).split() == words


def over(accent: str, letter: float, bottom: float = 700) -> bytes:
    """An accent above a letter of 5.6 points that begins there."""
    return placed(accent, letter + 1.1, bottom)


async def test_accents_that_are_drawn_apart_belong_to_their_letters(reader: PDFReader, write: Write) -> None:
    """As TeX draws them, before the letter; others do it after."""
    before = placed("Schr", 72, 700) + over("\u00a8", 92.6) + placed("odinger", 92.6, 700)
    after = (
        placed("Caf", 150, 700) + placed("e", 165.6, 700) + over("\u00b4", 165.6) + placed("in", 174.3, 700)
    )
    read = await lines_of(reader, write, one_page(stream(before + after)))
    assert " ".join(read).split() == ["Schrödinger", "Café", "in"]


async def test_accents_of_capitals_leave_the_words_beside_them_whole(reader: PDFReader, write: Write) -> None:
    """Their place is above the line, and in the text behind a word that is not theirs."""
    drawn = placed("E anche il pe", 72, 700) + placed("`", 74.1, 702) + placed("rmesso", 129.9, 700)
    read = await lines_of(reader, write, one_page(stream(drawn)))
    assert " ".join(read).split() == ["È", "anche", "il", "permesso"]


async def test_an_accent_makes_a_dotless_letter_the_usual_one(reader: PDFReader, write: Write) -> None:
    font, character_map = unicode_font({code: chr(code) for code in range(32, 127)} | {ord("!"): "ı"})
    drawn = (
        placed("cos", 72, 700) + placed("`", 87.7, 700) + placed("!", 87.6, 700) + placed("lontano", 93, 700)
    )
    document = one_page(stream(drawn), fonts=b"/F 7 0 R", more=[character_map, font])
    assert " ".join(await lines_of(reader, write, document)).split() == ["così", "lontano"]


@pytest.mark.parametrize("text", ["run `make` in ~/src", "a^b, ^c and x~y", "´ alone", "`"])
async def test_signs_that_stand_beside_letters_stay(reader: PDFReader, write: Write, text: str) -> None:
    assert await lines_of(reader, write, one_page(stream(shown(text)))) == [text]


def in_pictures(shown_text: bytes) -> bytes:
    """A page in a Type 3 font as TeX wrote it: each glyph is a box of half an em, and the space too."""
    places = [b"/p%d" % place for place in range(32)] + [b"/space"]
    letters = [b"/%c" % letter for letter in b"abcdefghijklmnopqrstuvwxyz"]
    font = (
        b"<</Type/Font/Subtype/Type3/FontMatrix[.001 0 0 .001 0 0]/FontBBox[0 0 500 700]/CharProcs<<%b>>"
        b"/Encoding<</Differences[0%b 53/five 97%b]>>/FirstChar 0/LastChar 255/Widths[%b]>>"
        % (
            b" 6 0 R".join([*places, b"/five", *letters, b""]),
            b"".join(places),
            b"".join(letters),
            b" 500" * 256,
        )
    )
    glyph = stream(b"500 0 0 0 500 700 d1 0 0 490 700 re f")
    return one_page(stream(b"BT /F 10 Tf %b ET" % shown_text), fonts=b"/F 7 0 R", more=[glyph, font])


async def test_ligatures_of_fonts_that_are_pictures_are_letters(reader: PDFReader, write: Write) -> None:
    """Of both encodings that TeX's fonts had."""
    document = in_pictures(b"72 700 Td (di\\016cult) Tj 80 0 Td (h\\344u\\034g) Tj 80 0 Td (o\\033er) Tj")
    assert " ".join(await lines_of(reader, write, document)).split() == ["difficult", "häufig", "offer"]


async def test_ligatures_with_names_of_their_own_are_letters(reader: PDFReader, write: Write) -> None:
    """As pdfTeX writes fonts that were made for other programs."""
    names = b"<</Type/Encoding/Differences[27/f_f/f_i/f_l/f_f_i/f_f_l]>>"
    drawn = b"BT /F 10 Tf 72 700 Td (di\\036cult o\\033er \\034nd \\035ow a\\037uent) Tj ET"
    document = one_page(stream(drawn)).replace(b"/WinAnsiEncoding", names)
    assert await lines_of(reader, write, document) == ["difficult offer find flow affluent"]


async def test_ligatures_that_macos_misnames_are_letters(reader: PDFReader, write: Write) -> None:
    font, character_map = unicode_font(
        {ord("A"): "\u21b5", ord("B"): "\x00", **{c: chr(c) for c in range(97, 123)}}
    )
    drawn = (
        b"BT /F 10 Tf 72 700 Td (diAerent) Tj 80 0 Td (eBcient) Tj 80 0 Td (aBuent) Tj 80 0 Td (enterA) Tj ET"
    )
    document = one_page(stream(drawn), fonts=b"/F 7 0 R", more=[character_map, font])
    (line,) = await lines_of(reader, write, document)
    assert line.split() == ["different", "efficient", "affluent", "enter\u21b5"]


def test_lines_begin_with_what_is_seen() -> None:
    """In fonts whose space has a place, `salinity5` and ` was measured` in the same row became one word."""
    text = "salinity\r\n5\r\n was measured \r\n \r\nand inter\u0002\r\npolated"
    assert lines_in(text) == [
        ("salinity", 0),
        ("5", 10),
        ("was measured ", 14),
        ("and inter\u0002", 32),
        ("polated", 44),
    ]


def test_beside_a_right_to_left_line_others_begin_with_what_is_seen() -> None:
    text = "edge1\r\n of the pond\r\n \u05e9\u05dc"
    assert lines_in(text) == [("edge1", 0), ("of the pond", 8), (" \u05e9\u05dc", 21)]
