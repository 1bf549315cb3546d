"""The parts of the benchmarks that compute something."""

import subprocess
import sys
from pathlib import Path

import pypdfium2
import pytest

from benchmarks.__main__ import PAGE, SUBJECTS
from benchmarks.ingest import cost_a_page
from benchmarks.pdfs import documents_of, specimens, write_report
from benchmarks.plain_script import CHARACTERS, split
from benchmarks.processes import Use
from benchmarks.run import Run


def run_in(folder: Path, pdfs: Path | None = None) -> Run:
    return Run(folder=folder, say=print, is_quick=True, pdfs=pdfs)


def test_made_up_reports_have_pages_of_different_text_that_pdfium_reads(tmp_path: Path) -> None:
    report = write_report(tmp_path / "a.pdf", 6, seed=3)
    with pypdfium2.PdfDocument(report.path) as document:
        texts = [page.get_textpage().get_text_bounded() for page in document]
    assert len(set(texts)) == report.pages == 6
    assert all(2_000 < len(text) < 8_000 for text in texts)
    assert "Page 4" in texts[3]
    assert write_report(tmp_path / "b.pdf", 6, seed=3).path.read_bytes() == report.path.read_bytes()


def test_of_a_folder_only_pdfs_with_text_are_measured(tmp_path: Path) -> None:
    write_report(tmp_path / "good.pdf", 3, seed=1)
    (tmp_path / "damaged.pdf").write_bytes(b"%PDF-1.7 and nothing else")
    with pypdfium2.PdfDocument.new() as scan:
        scan.new_page(200, 200)
        scan.save(tmp_path / "empty.pdf")
    found = specimens(run_in(tmp_path, tmp_path))
    assert [(one.path.name, one.pages) for one in found] == [("good.pdf", 3)]


def test_long_documents_go_through_the_folder_again_and_again(tmp_path: Path) -> None:
    folder, made = tmp_path / "pdfs", tmp_path / "made"
    folder.mkdir()
    made.mkdir()
    for seed in (1, 2):
        write_report(folder / f"{seed}.pdf", 2, seed)
    texts = []
    for one in documents_of(run_in(made, folder), pages=3, count=2):
        with pypdfium2.PdfDocument(one.path) as document:
            texts += [page.get_textpage().get_text_bounded() for page in document]
    assert len(texts) == 6
    assert len(set(texts)) == 4
    assert texts[:2] == texts[4:]


def test_what_people_write_splits_by_characters_and_loses_none() -> None:
    words = [f"word{number}" for number in range(2_000)]
    chunks = split("\n\n".join(" ".join(words[start : start + 50]) for start in range(0, 2_000, 50)))
    assert all(len(chunk) <= CHARACTERS * 1.3 for chunk in chunks)
    assert set(words) <= set(" ".join(chunks).split())


def test_the_sum_of_a_page_is_of_our_processes_only() -> None:
    use = {name: Use(0.5, 10, 5) for name in ("api", "worker", "reader", "embedder")}
    assert cost_a_page(use, 100) == {
        "api": 5, "worker": 5, "reader": 5, "postgres": 0, "valkey": 0, "sum": 15, "embedding server": 5,
    }  # fmt: skip


def test_the_page_of_numbers_has_a_place_for_the_usual_subjects() -> None:
    text = PAGE.read_text()
    assert all(f"<!-- {name} -->\n" in text for name in (*SUBJECTS, "machine"))


@pytest.mark.parametrize("arguments", [["--help"], ["nothing"]])
def test_the_command_tells_its_subjects(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "app.local.cli", "bench", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "growth" in told.stdout + told.stderr
    assert (told.returncode == 0) == (arguments == ["--help"])
