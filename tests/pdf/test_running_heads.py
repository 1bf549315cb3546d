from collections.abc import Sequence

from app.pdf.pages import Line
from app.pdf.sandbox.document import PAGES_AHEAD
from app.pdf.sandbox.running_heads import PAGES_AROUND, RunningHeads

BODY = [f"sentence {letter} of the body" for letter in "abcdefghijkl"]


def page(number: int, *, head: str = "The Marsh Report", foot: str = "{}") -> list[Line]:
    body = [f"{text}, told on page {'i' * number}" for text in BODY]
    texts = [head.format(number), *body, foot.format(number)]
    return [Line(text, (50, 50.0 + 14 * place, 400, 60.0 + 14 * place)) for place, text in enumerate(texts)]


def without_heads(pages: Sequence[list[Line]]) -> list[list[str]]:
    """As they are given out, PAGES_AHEAD after they are read."""
    heads = RunningHeads()
    kept = []
    for number in range(1, len(pages) + PAGES_AHEAD + 1):
        if number <= len(pages):
            heads.add(number, pages[number - 1])
        if (given := number - PAGES_AHEAD) >= 1:
            kept.append([line.text for line in heads.without(given, pages[given - 1])])
    return kept


def test_a_repeated_head_stays_where_it_stands_first() -> None:
    kept = without_heads([page(number) for number in range(1, 6)])
    assert [texts[0] == "The Marsh Report" for texts in kept] == [True, False, False, False, False]


def test_page_numbers_stay_nowhere() -> None:
    for foot in ("{}", "- {} -", "{} / 5"):
        kept = without_heads([page(number, foot=foot) for number in range(1, 6)])
        assert all(texts[-1].startswith("sentence l") for texts in kept), foot


def test_a_foot_that_counts_pages_in_words_stays_once() -> None:
    kept = without_heads([page(number, foot="Page {} of 5") for number in range(1, 6)])
    assert [texts[-1] for texts in kept if texts[-1].startswith("Page")] == ["Page 1 of 5"]


def test_heads_that_differ_by_more_than_the_page_number_stay() -> None:
    kept = without_heads([page(number, head=f"Exhibit 2.{number * number}") for number in range(1, 6)])
    assert [texts[0] for texts in kept] == [f"Exhibit 2.{number * number}" for number in range(1, 6)]


def test_heads_of_left_and_right_pages_are_both_found() -> None:
    kept = without_heads([page(number, head="Left" if number % 2 else "Right") for number in range(1, 9)])
    assert [texts[0] for texts in kept if texts[0] in ("Left", "Right")] == ["Left", "Right"]


def test_two_pages_have_no_running_heads() -> None:
    kept = without_heads([page(1), page(2)])
    assert all(texts[0] == "The Marsh Report" for texts in kept)


def test_the_head_of_a_chapter_in_a_long_book_stays_where_it_stands_first() -> None:
    kept = without_heads([page(number, head=f"Chapter {'x' * (number // 60)}") for number in range(1, 301)])
    assert [texts[0] for texts in kept if texts[0].startswith("Chapter")] == [
        f"Chapter {'x' * chapter}" for chapter in range(6)
    ]


def test_what_a_long_document_repeats_is_forgotten_but_for_its_heads() -> None:
    heads = RunningHeads()
    for number in range(1, 1_001):
        heads.add(number, page(number, head=f"Exhibit 2.{number * number}"))
    assert len(heads._edges) == PAGES_AROUND
    assert len(heads._counts) < 10 * PAGES_AROUND


def test_the_head_of_a_table_that_goes_on_stays_on_every_page() -> None:
    kept = without_heads([page(number, head="Date\tText\tAmount\tBalance") for number in range(1, 6)])
    assert all(texts[0].startswith("Date") for texts in kept)


def test_the_same_page_again_and_again_loses_no_page() -> None:
    lines = [Line("Only this line", (50, 50, 400, 60))]
    assert without_heads([lines] * 5) == [["Only this line"]] * 5
