import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text as sql

from app.pdf.text import LONGEST_RUN, clean, spelling
from app.storage.database import Database

any_text = st.text(st.characters(codec=None))  # lone surrogates too
awkward_text = (
    st.text(
        st.sampled_from(
            "a\x00\ud83d\ude00\udc00\ufffe\uffff\u00ad\u0301\u0323\u0345ﬁẛſ²½´\u0958각ᄀ \r\n\x85"
        )
    )
    | st.text(st.sampled_from("a.…‥·・ \t\n\x00\ufffe\u0338"))
    | any_text
)


@given(awkward_text)
@settings(max_examples=500)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@given(awkward_text)
@settings(max_examples=500)
def test_clean_text_is_encodable_and_without_controls(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not any(ord(character) < 32 and character not in "\t\n" for character in cleaned)
    assert not any(ord(character) & 0xFFFE == 0xFFFE for character in cleaned)


async def test_postgres_accepts_whatever_went_in(database: Database) -> None:
    awkward = [
        "a\x00b",
        "\ud83d",
        "\ude00\ud83d",
        "\ufffe\uffff",
        "\x01\x1f\x7f",
        "😀",
        "x" * 5_000,
        "\U0010ffff",
    ]
    awkward += ["".join(map(chr, range(start, start + 4096))) for start in range(0, 0x11000, 4096)]
    async with database.transaction() as connection:
        for text in awkward:
            statement = sql("SELECT CAST(:cleaned AS text), to_tsvector('simple', :cleaned)")
            stored = (await connection.execute(statement, {"cleaned": clean(text)})).one()
            assert stored[0] == clean(text)


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("o\ufb03ce", "office"),
        ("ﬀ ﬁ ﬂ ﬆ", "ff fi fl st"),
        ("Ａｂｃ１", "Abc1"),
        ("e\u0301", "é"),
        ("x² and ½", "x² and ½"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("no\u00a0break", "no break"),
        ("soft\u00adhyphen", "softhyphen"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("\ud83d\ude00 \ud83d", "😀 "),
        ("cells\tstay", "cells\tstay"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("Salt marshes ............ 5", "Salt marshes ... 5"),
        ("1.2\tCreeks . . . . . . . . .\t6", "1.2\tCreeks ...\t6"),
        ("Herons…………12", "Herons...12"),
        ("盐沼·········3", "盐沼···3"),
        ("Wait... what....", "Wait... what...."),
        ("the Celtic Sea. . . . Norway", "the Celtic Sea. . . . Norway"),
        (".\t.\t.\t.\t.\t.", ".\t.\t.\t.\t.\t."),
    ],
)
def test_what_is_cleaned(dirty: str, cleaned: str) -> None:
    assert clean(dirty) == cleaned


@pytest.mark.parametrize(
    ("letters", "spelled"),
    [
        ("لا", "لا"),
        ("ال", "لا"),
        ("أل", "لأ"),
        ("اب", "با"),
        ("مح", "حم"),
        ("هللا", "الله"),
        ("الله", "الله"),
    ],
)
def test_letters_of_one_glyph_are_spelled_in_reading_order(letters: str, spelled: str) -> None:
    assert spelling(letters) == spelled


def test_a_run_without_white_space_is_split() -> None:
    pieces = clean("a" * 5_000_000).split(" ")
    assert {len(piece) for piece in pieces} == {LONGEST_RUN}


def test_a_million_spaces_between_dots_take_no_minutes() -> None:
    started = time.monotonic()
    nearly_leaders = (". . . ." + " " * 1_000 + "x") * 1_000
    assert clean(nearly_leaders) == nearly_leaders
    assert clean(nearly_leaders.replace("x", "")).rstrip() == "..."
    assert time.monotonic() - started < 20


def test_a_million_marks_on_one_letter_take_no_minutes() -> None:
    started = time.monotonic()
    clean("a" + "\u0301\u0323" * 500_000)
    assert time.monotonic() - started < 20
