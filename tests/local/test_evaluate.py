"""Asking questions with known pages: how answers are scored, and the command against a whole service."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.local.evaluate import (
    Case,
    Difference,
    Evaluation,
    NotEvaluable,
    Outcome,
    Question,
    Score,
    cases_of,
    compare,
    outcome_of,
    ranked_pages,
    read_names,
    read_questions,
)
from tests.stacks import Up, pdf_ingest

LINE = '{"id": "1", "question": "What?", "documents": ["a.pdf"], "pages": {"a.pdf": [3]}}\n'


def hit(filename: str, first: int, last: int | None = None) -> dict[str, Any]:
    return {"filename": filename, "page_start": first, "page_end": last or first}


def outcome(number: int, rank: int | None, document_rank: int | None = 1) -> Outcome:
    return Outcome(
        id=str(number),
        document=None,
        question="What?",
        pages={"a.pdf": [3]},
        found=[],
        rank=rank,
        document_rank=document_rank,
        seconds=number / 1000,
    )


def evaluation(*ranks: int | None, k: int = 10, within: bool = False) -> Evaluation:
    outcomes = [outcome(number, rank) for number, rank in enumerate(ranks, start=1)]
    return Evaluation(mode="hybrid", k=k, collection=None, within=within, left_out=[], outcomes=outcomes)


def test_every_page_of_a_hit_counts_once_in_the_order_of_the_hits() -> None:
    hits = [hit("a.pdf", 2, 3), hit("b.pdf", 3), hit("a.pdf", 3), hit("a.pdf", 1, 2)]
    assert ranked_pages(hits) == [("a.pdf", 2), ("a.pdf", 3), ("b.pdf", 3), ("a.pdf", 1)]


def test_any_page_of_any_document_that_answers_is_right_and_the_first_one_gives_the_rank() -> None:
    case = Case("1", "What?", {"a.pdf": [9], "b.pdf": [3, 4]})
    found = outcome_of(
        case, [hit("c.pdf", 9), hit("a.pdf", 3), hit("b.pdf", 1, 4), hit("a.pdf", 9)], k=4, seconds=0.1
    )
    assert (found.rank, found.document_rank) == (5, 2)
    assert found.found == [("c.pdf", 9), ("a.pdf", 3), ("b.pdf", 1), ("b.pdf", 2)]


def test_what_is_not_among_the_hits_has_no_rank() -> None:
    found = outcome_of(Case("1", "What?", {"a.pdf": [9]}), [hit("b.pdf", 9)], k=10, seconds=0.1)
    assert (found.rank, found.document_rank) == (None, None)


def test_scores_are_means_over_the_questions() -> None:
    scores = evaluation(1, 4, 11, None).scores
    assert {name: round(score.value, 4) for name, score in scores.items()} == {
        "page hit@1": 0.25,
        "page hit@10": 0.5,
        "page MRR@10": 0.3125,
        "document hit@5": 1.0,
    }
    assert [found.id for found in evaluation(1, 4, 11, None).missed] == ["3", "4"]


def test_within_documents_there_is_no_score_for_finding_the_document() -> None:
    assert list(evaluation(1, within=True).scores) == ["page hit@1", "page hit@10", "page MRR@10"]


def test_the_interval_of_a_rate_is_wilsons() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        score = Score.of_hits([True] * hits + [False] * (count - hits))
        assert (round(score.low, 4), round(score.high, 4)) == (low, high)


def test_the_interval_of_a_mean_shrinks_with_the_root_of_the_questions() -> None:
    few, many = Score.of_values([0, 1] * 10), Score.of_values([0, 1] * 1000)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(10, rel=0.05)
    assert Score.of_values([0.5]) == Score(value=0.5, low=0, high=1)


def test_the_time_of_a_search_is_told_as_median_and_95th_percentile() -> None:
    assert evaluation(*[1] * 100).seconds == {"median": 0.0505, "p95": 0.095}


def test_a_comparison_counts_the_questions_that_both_results_have() -> None:
    hits, ranks = compare(evaluation(1, 11, 4, None), evaluation(2, 10, 4, 12, 1))
    assert (hits.better, hits.worse, hits.equal) == (0, 1, 3)
    assert (ranks.better, ranks.worse, ranks.equal) == (1, 2, 1)


def test_the_test_of_a_comparison_is_the_exact_binomial_one() -> None:
    assert Difference(better=9, worse=1, equal=50).p == pytest.approx(22 / 1024)
    assert Difference(better=1, worse=9, equal=0).p == pytest.approx(22 / 1024)
    assert Difference(better=3, worse=3, equal=0).p == 1
    assert Difference(better=0, worse=0, equal=7).p == 1


@pytest.mark.parametrize("then", [evaluation(1, k=5), evaluation(1, within=True)])
def test_results_of_different_measures_are_not_compared(then: Evaluation) -> None:
    with pytest.raises(NotEvaluable, match="another --k or --within"):
        compare(evaluation(1), then)


def test_a_question_is_asked_of_the_documents_that_are_there_under_the_names_they_have_there() -> None:
    question = Question(id="1", question="What?", pages={"a.pdf": [1], "b.pdf": [2], "c.pdf": [3]})
    names, held = {"a.pdf": "document-1.pdf", "b.pdf": "document-2.pdf"}, {"document-1.pdf", "b.pdf", "c.pdf"}
    assert cases_of(question, names, held, within=False) == [
        Case("1", "What?", {"document-1.pdf": [1], "c.pdf": [3]})
    ]
    assert cases_of(question, names, held, within=True) == [
        Case("1", "What?", {"document-1.pdf": [1]}, document="a.pdf"),
        Case("1", "What?", {"c.pdf": [3]}, document="c.pdf"),
    ]
    assert cases_of(question, names, set(), within=False) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "Invalid JSON"),
        ('{"id": "2", "question": "What?"}', "pages: Field required"),
        ('{"id": "2", "question": "What?", "pages": {}}', "pages: "),
        ('{"id": "2", "question": "What?", "pages": {"a.pdf": [0]}}', r"pages\.a\.pdf\.0: .* greater than 0"),
        (LINE, "the id 1 was used before"),
    ],
)
def test_a_line_that_is_no_question_is_named_with_its_number(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(LINE + "\n" + line)
    with pytest.raises(NotEvaluable, match=rf"questions\.jsonl, line 3: {fault}"):
        read_questions(path)


def test_a_question_may_have_separators_of_unicode_in_it(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(LINE.replace("What?", "What\u2028now?"), encoding="utf-8")
    assert [one.question for one in read_questions(tmp_path / "questions.jsonl")] == ["What\u2028now?"]


def test_files_that_are_missing_or_empty_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(NotEvaluable, match="has no questions"):
        read_questions(tmp_path / "empty.jsonl")
    with pytest.raises(NotEvaluable, match="cannot be read"):
        read_questions(tmp_path / "missing.jsonl")


def test_one_name_for_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"a.pdf": "document.pdf", "b.pdf": "document.pdf"}')
    with pytest.raises(NotEvaluable, match="one name to several files"):
        read_names(tmp_path / "names.json")


@pytest.mark.heavy
def test_the_command_measures_a_service_and_compares_with_an_earlier_result(up: Up, tmp_path: Path) -> None:
    for sample in ("annual-report.pdf", "wildbienen.pdf"):
        up.ingest(sample, collection="evaluated")
    questions, names = tmp_path / "questions.jsonl", tmp_path / "names.json"
    asked = (
        {"id": "eagles", "question": "camera stops turbines for eagles", "pages": {"r.pdf": [5]}},
        {"id": "never", "question": "camera stops turbines for eagles", "pages": {"wildbienen.pdf": [99]}},
        {"id": "absent", "question": "anything", "pages": {"absent.pdf": [1]}},
    )
    questions.write_text("\n".join(map(json.dumps, asked)))
    names.write_text('{"r.pdf": "annual-report.pdf"}')
    command = ("evaluate", questions, "--collection", "evaluated", "--names", names)
    first = pdf_ingest(*command, "--out", tmp_path / "first.json", url=up.url)
    assert first.returncode == 0, first.stderr
    assert "missed never (rank of page none, document " in first.stdout
    assert "1 questions left out" in first.stdout
    result = json.loads((tmp_path / "first.json").read_text())
    assert result["left_out"] == ["absent"]
    assert result["scores"]["page hit@10"]["value"] == 0.5
    assert result["outcomes"][0]["rank"] <= 3
    again = pdf_ingest(*command, "--against", tmp_path / "first.json", url=up.url)
    assert "hits against the earlier result: 0 better, 0 worse, 2 equal (p = 1.000)" in again.stdout
    within = pdf_ingest(*command, "--within", "--out", tmp_path / "within.json", url=up.url)
    assert within.returncode == 0, within.stderr
    outcomes = json.loads((tmp_path / "within.json").read_text())["outcomes"]
    assert [(one["id"], one["document"]) for one in outcomes] == [
        ("eagles", "r.pdf"),
        ("never", "wildbienen.pdf"),
    ]
    assert {name for one in outcomes[1:] for name, _page in one["found"]} == {"wildbienen.pdf"}


def test_a_service_without_the_documents_says_how_to_name_them(up: Up, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(LINE)
    finished = pdf_ingest("evaluate", tmp_path / "questions.jsonl", "--collection", "nothing", url=up.url)
    assert finished.returncode == 1
    assert finished.stderr.startswith("The service has none of the documents that the questions name.")
