from collections.abc import Iterable

import pytest

from app.pdf.sandbox.layout import HYPHEN, Span, lines_of

LETTER_WIDTH = 5.0


def span(text: str, left: float, top: float, *, height: float = 9, is_hidden: bool = False) -> Span:
    return Span(text, left, top, left + LETTER_WIDTH * len(text), top + height, is_hidden)


def texts(spans: Iterable[Span]) -> list[str]:
    return [line.text for line in lines_of(list(spans))]


def prose(side: str, row: int) -> str:
    return f"{side} column line {row} is full of words"


def test_no_spans_are_no_lines() -> None:
    assert lines_of([]) == []


def test_lines_come_from_top_to_bottom_in_whatever_order_they_were_drawn() -> None:
    assert texts([span("third", 50, 130), span("first", 50, 100), span("second", 50, 115)]) == [
        "first",
        "second",
        "third",
    ]


def test_two_columns_drawn_row_by_row_are_read_one_after_the_other() -> None:
    rows = range(8)
    drawn = [
        span(prose(side, row), left, 100 + 12 * row) for row in rows for side, left in (("L", 50), ("R", 320))
    ]
    assert texts(drawn) == [prose("L", row) for row in rows] + [prose("R", row) for row in rows]


def test_columns_with_shifted_base_lines_are_still_columns() -> None:
    left = [span(prose("L", row), 50, 100 + 12 * row) for row in range(8)]
    right = [span(prose("R", row), 320, 106 + 12 * row) for row in range(8)]
    assert texts([*right, *left]) == [prose("L", row) for row in range(8)] + [
        prose("R", row) for row in range(8)
    ]


def test_a_title_over_two_columns_comes_first_and_a_foot_last() -> None:
    title = span("A title that reaches over both of the columns of the page below it", 80, 60)
    foot = span("and a foot that does the same at the lower end of the page as well", 80, 700)
    columns = [
        span(prose(side, row), left, 100 + 12 * row)
        for side, left in (("L", 50), ("R", 320))
        for row in range(6)
    ]
    read = texts([*columns, foot, title])
    assert read[0] == title.text
    assert read[-1] == foot.text
    assert read[1:7] == [prose("L", row) for row in range(6)]


def test_three_columns_are_read_one_after_the_other() -> None:
    places = {"A": 50, "B": 230, "C": 410}
    drawn = [
        span(f"{name} narrow column line {row}", left, 100 + 12 * row)
        for row in range(8)
        for name, left in places.items()
    ]
    assert [text[0] for text in texts(drawn)] == ["A"] * 8 + ["B"] * 8 + ["C"] * 8


def test_rows_of_a_table_stay_rows_with_tabs_between_cells() -> None:
    rows = [
        ("Net product sales", "70,080", "79,268"),
        ("Net service sales", "18,908", "27,738"),
        ("Total", "1", "2"),
    ]
    drawn = [
        span(cell, left, 100 + 14 * place)
        for place, row in enumerate(rows)
        for cell, left in zip(row, (50, 300, 400), strict=True)
    ]
    assert texts(drawn) == ["\t".join(row) for row in rows]


def test_a_table_drawn_column_by_column_is_read_row_by_row() -> None:
    labels = [span(f"Sales of year {year}", 50, 100 + 14 * year) for year in range(5)]
    numbers = [span(f"{year},000", 300, 100 + 14 * year) for year in range(5)]
    assert texts([*labels, *numbers])[0] == "Sales of year 0\t0,000"


def test_a_table_with_words_in_every_cell_is_no_prose() -> None:
    rows = [("Heron", "creek"), ("Eel", "ditch"), ("Bee", "meadow"), ("Owl", "barn"), ("Otter", "river")]
    drawn = [
        span(cell, left, 100 + 14 * n)
        for n, row in enumerate(rows)
        for cell, left in zip(row, (50, 300), strict=True)
    ]
    assert texts(drawn) == ["\t".join(row) for row in rows]


def test_signs_in_a_column_of_their_own_belong_to_their_number() -> None:
    row = [span("Net loss", 50, 100), span("$", 200, 100), span("(241", 230, 100), span(")", 270, 100)]
    more = [span("up", 320, 100), span("12", 360, 100), span("%", 400, 100)]
    assert texts([*row, *more]) == ["Net loss\t$(241)\tup\t12%"]


def test_a_superscript_belongs_to_its_line() -> None:
    word = span("practice", 50, 100)
    mark = Span("2", word.right, 97, word.right + 3, 103)
    after = Span("and theory", word.right + 8, 100, word.right + 58, 109)
    assert texts([word, mark, after, span("next line", 50, 113)]) == ["practice2 and theory", "next line"]


@pytest.mark.parametrize("bottom", [122, 134])
def test_a_drop_cap_is_the_first_letter_of_the_first_line_beside_it(bottom: int) -> None:
    cap = Span("T", 50, 100, 70, bottom)
    lines = [span(f"he line {row} beside the cap", 75, 100 + 12 * row) for row in range(4)]
    read = ["The line 0 beside the cap", *[line.text for line in lines[1:]]]
    assert texts([cap, *lines]) == texts([*lines, cap]) == read


def test_a_large_letter_above_a_list_is_no_drop_cap() -> None:
    cap, *entries = Span("A", 50, 100, 70, 120), span("adder", 75, 125), span("agate", 75, 137)
    assert texts([cap, *entries]) == ["A", "adder", "agate"]


def test_right_to_left_cells_are_read_from_the_right() -> None:
    assert texts([span("שם", 300, 100), span("גיל", 50, 100)]) == ["שם\tגיל"]


def test_hidden_text_comes_last_and_is_marked() -> None:
    lines = lines_of([span("ignore the rest", 50, 100, is_hidden=True), span("shown", 50, 100)])
    assert [(line.text, line.is_hidden) for line in lines] == [("shown", False), ("ignore the rest", True)]


def test_sideways_text_comes_after_the_upright() -> None:
    assert (
        texts([Span("arXiv:2004.04906", 18, 200, 30, 500), span("upright", 50, 100)])[-1]
        == "arXiv:2004.04906"
    )


def test_a_line_knows_its_place() -> None:
    (line,) = lines_of([span("one", 50, 100), span("cell", 300, 101)])
    assert line.box == (50, 100, 320, 110)


def test_the_mark_of_a_broken_word_stays_for_who_joins_it() -> None:
    assert texts([span(f"exam{HYPHEN}", 50, 100), span("ple", 50, 115)]) == [f"exam{HYPHEN}", "ple"]
