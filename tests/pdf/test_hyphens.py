import pytest

from app.pdf.pages import Line
from app.pdf.sandbox.hyphens import Hyphens
from app.pdf.sandbox.layout import HYPHEN


def joined(*texts: str, elsewhere: str = "") -> list[str]:
    lines = [Line(text) for text in texts]
    hyphens = Hyphens()
    hyphens.add([*lines, *(Line(text) for text in elsewhere.splitlines())])
    return [line.text for line in hyphens.joined(lines)]


@pytest.mark.parametrize("mark", [HYPHEN, "-", "\u2010", "\u00ad"])
def test_a_broken_word_is_whole_on_the_line_where_it_begins(mark: str) -> None:
    assert joined(f"we read pas{mark}", "sages, then more") == ["we read passages,", "then more"]


def test_a_word_that_the_document_hyphenates_keeps_its_hyphen() -> None:
    assert joined("an open-", "domain question", elsewhere="open-domain and open-domain") == [
        "an open-domain",
        "question",
    ]


def test_a_word_that_the_document_writes_as_one_is_one() -> None:
    assert joined("the data-", "base is", elsewhere="a database of data at the base") == [
        "the database",
        "is",
    ]


def test_two_words_the_document_knows_alone_keep_the_hyphen_between_them() -> None:
    assert joined("a long-", "term plan", elsewhere="a long term") == ["a long-term", "plan"]


def test_a_capital_after_the_hyphen_keeps_it() -> None:
    assert joined(f"strong Lucene{HYPHEN}", "BM25 system") == ["strong Lucene-BM25", "system"]


def test_a_number_after_the_hyphen_is_not_joined() -> None:
    assert joined(f"form 10{HYPHEN}", "2016 edition", "page 3-", "4") == [
        "form 10-",
        "2016 edition",
        "page 3-",
        "4",
    ]


def test_a_line_that_is_only_the_end_of_a_word_goes_away() -> None:
    assert joined(f"infor{HYPHEN}", f"ma{HYPHEN}", "tion at last") == ["information", "at last"]


def test_a_mark_that_joins_nothing_becomes_a_hyphen() -> None:
    assert joined(f"the end{HYPHEN}") == ["the end-"]


def test_hidden_text_does_not_end_the_words_of_what_is_seen() -> None:
    lines = [Line(f"exam{HYPHEN}"), Line("ple", is_hidden=True)]
    assert [line.text for line in Hyphens().joined(lines)] == ["exam-", "ple"]
