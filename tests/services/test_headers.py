"""The line that says of which document and section a chunk is."""

import pytest

from app.services.headers import header, readable


@pytest.mark.parametrize(
    ("filename", "title", "heading", "line"),
    [
        (
            "annual_report-2025.pdf",
            "Annual report",
            "Revenue",
            "annual report 2025 · Annual report · Revenue",
        ),
        ("2023 Q3 AAPL.pdf", None, "Item 2", "2023 Q3 AAPL · Item 2"),
        ("report.pdf", "Report", "report", "report"),
        ("report.pdf", " Two\nlines ", "", "report · Two lines"),
        (".pdf", None, None, ""),
        ("", None, None, ""),
        ("\u202e\x85.pdf", "汉字 \u2028 漢字", None, "\u202e · 汉字 漢字"),
    ],
)
def test_a_header_is_one_line_that_says_nothing_twice(
    filename: str, title: str | None, heading: str | None, line: str
) -> None:
    assert header(filename, title, heading) == line


@pytest.mark.parametrize(
    ("filename", "words"),
    [
        ("annual-report-2025.PDF", "annual report 2025"),
        ("form_10-K.pdf", "form 10-K"),
        ("AnnualReport2025.pdf", "Annual Report 2025"),
        ("AMAZON_2017Q2_10Q.pdf", "AMAZON 2017 Q2 10Q"),
        ("iPhone FY18.pdf", "iPhone FY18"),
        ("COVID-19 v1.2.pdf", "COVID 19 v1.2"),
        ("no extension", "no extension"),
    ],
)
def test_a_name_is_read_as_words(filename: str, words: str) -> None:
    assert readable(filename) == words


def test_no_part_is_longer_than_a_line() -> None:
    assert len(header("f" * 300, "t" * 1_000, "h" * 300)) == 3 * 120 + 6
