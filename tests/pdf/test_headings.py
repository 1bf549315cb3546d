from app.pdf.pages import Line
from app.pdf.sandbox.headings import Headings
from app.pdf.sandbox.layout import StyledLine


def text(*lines: str, size: float = 10, is_bold: bool = False) -> list[Line]:
    return [StyledLine(line, (50, 0, 400, 10), size=size, is_bold=is_bold) for line in lines]


PROSE = text(*[f"A line of prose, number {number}, about the salt marsh" for number in range(20)])


def found(*pages: list[Line]) -> list[tuple[str, int]]:
    headings = Headings()
    for lines in pages:
        headings.add(lines)
    return [(title, number) for number, lines in enumerate(pages, 1) for title in headings.of(lines)]


def test_larger_letters_make_a_heading() -> None:
    assert found(
        text("The Marsh", size=20) + PROSE, text("Herons", size=14) + PROSE, text("Eels", size=14) + PROSE
    ) == [("The Marsh", 1), ("Herons", 2), ("Eels", 3)]


def test_bold_on_its_own_is_a_heading() -> None:
    assert found(PROSE + text("Herons", is_bold=True) + PROSE) == [("Herons", 1)]


def test_lines_of_one_style_are_one_heading() -> None:
    assert found(text("The birds and fish", "of the salt marsh", size=14) + PROSE) == [
        ("The birds and fish of the salt marsh", 1)
    ]


def test_a_number_that_stands_apart_belongs_to_its_heading() -> None:
    assert found(PROSE + text("Item 7.\tDiscussion of the marsh", is_bold=True) + PROSE) == [
        ("Item 7.\tDiscussion of the marsh", 1)
    ]


def test_a_bold_row_of_a_table_is_no_heading() -> None:
    table = text("Heron\t12", "Eel\t30") + text("Total", is_bold=True) + text("Bird\t42")
    assert found(PROSE + table + PROSE) == []


def test_a_bold_sentence_is_no_heading() -> None:
    assert found(PROSE + text("Do not enter the reserve at night.", is_bold=True) + PROSE) == []


def test_a_bold_paragraph_is_no_heading() -> None:
    paragraph = [f"Line {number} of a warning that is printed bold" for number in range(5)]
    assert found(PROSE + text(*paragraph, is_bold=True) + PROSE) == []


def test_where_everything_is_large_nothing_is_a_heading() -> None:
    assert (
        found([*text("Alpha", "Beta", size=20), *text("gamma delta epsilon zeta eta theta iota", size=10)])
        == []
    )


def test_lines_without_looks_give_no_headings() -> None:
    assert found([Line("Herons"), Line("and eels in the creek")]) == []
