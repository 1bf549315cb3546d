"""What a benchmark has found, in a terminal, as JSON, on a page and as a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks.report import Curves, Report, Table, latencies, put_into_page, shown

REPORT = Report(
    subject="ingest",
    command="pdf-ingest bench ingest",
    began="2026-11-27",
    seconds=12.3,
    machine={"processor": "one", "load before": "load of the machine before: 0.1"},
    tables=[
        Table("Speed", [{"what": "ours", "pages/s": 151.26}, {"what": "theirs", "pages/s": None}], "A note.")
    ],
    curves=[
        Curves("Cost", "pages", "ms", {"reader": [(10, 3.5), (5_000, 4.25)], "<b>": [(10, 0), (100, 4.2)]})
    ],
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("x", "x"),
        (3, "3"),
        (12_345, "12,345"),
        (0.123, "0.12"),
        (45.67, "45.7"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_the_digits_that_can_be_trusted(value: str | float | None, text: str) -> None:
    assert shown(value) == text


def test_percentiles_are_values_that_were_measured() -> None:
    assert latencies([float(value) for value in range(1, 201)]) == {
        "p50 ms": 100,
        "p95 ms": 190,
        "p99 ms": 198,
    }


def test_a_report_is_kept_whole_as_json(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    kept = json.loads((tmp_path / "ingest.json").read_text())
    assert kept == json.loads(json.dumps(asdict(REPORT)))
    assert kept["tables"][0]["rows"][0] == {"what": "ours", "pages/s": 151.26}


def test_a_picture_has_a_line_and_a_name_for_each_curve(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    picture = ElementTree.parse(tmp_path / "ingest-1.svg").getroot()
    names = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert names >= {"Cost", "reader", "<b>", "5,000"}
    (first, second) = picture.iter("{http://www.w3.org/2000/svg}polyline")
    assert len(first.get("points", "").split()) == len(second.get("points", "").split()) == 2


def test_a_page_keeps_what_people_have_written(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("Before.\n<!-- ingest -->\nold\n<!-- end of ingest -->\nAfter.\n")
    for _ in range(2):
        put_into_page(page, "ingest", REPORT.markdown("performance"))
    text = page.read_text()
    assert text.startswith("Before.\n<!-- ingest -->\n`pdf-ingest bench ingest`, 2026-11-27, 12 s")
    assert "| ours | 151 |\n| theirs |  |\n\nA note.\n\n![Cost](performance/ingest-1.svg)" in text
    assert text.endswith("<!-- end of ingest -->\nAfter.\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="no place for search"):
        put_into_page(page, "search", "")


def test_a_terminal_shows_every_row() -> None:
    console = Console(width=100, record=True)
    REPORT.show(console)
    text = console.export_text()
    assert all(word in text for word in ("Speed", "ours", "151", "theirs", "A note."))
