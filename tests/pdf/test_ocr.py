import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pypdfium2
import pytest

from app.pdf.ocr import DISCOURAGING, ROUGH_SCALE, SCALE, Tesseract
from app.pdf.pictures import Picture, render
from tests.pdf.conftest import needs_tesseract
from tests.pdfs.builder import one_page, shown, stream
from tests.pdfs.hostile import LARGE_PROSE, PROSE

pytestmark = needs_tesseract

Render = Callable[[float], Picture]

MOST_PIXELS = 25_000_000


def page_of(content: bytes) -> Render:
    def rendered(scale: float) -> Picture:
        with pypdfium2.PdfDocument(one_page(stream(content))) as document, closing(document[0]) as page:
            return render(page, scale, MOST_PIXELS)

    return rendered


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often tesseract was run."""
    count = tmp_path / "count"
    count.touch()
    program = tmp_path / "tesseract"
    program.write_text(f'#!/bin/sh\necho >> "{count}"\nexec {shutil.which("tesseract")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    return lambda: len(count.read_text().splitlines())


def test_the_same_picture_is_read_once(runs: Callable[[], int]) -> None:
    tesseract = Tesseract("eng", 30)
    first, again = (tesseract.read(page_of(LARGE_PROSE)) for _ in range(2))
    assert [line.text for line in first] == list(PROSE)
    assert again == first
    assert runs() == 1


def test_after_pages_without_a_word_a_rough_look_comes_first(runs: Callable[[], int]) -> None:
    """And what it finds is then read as well as ever."""
    tesseract = Tesseract("eng", 30)
    scales: list[float] = []

    def read(content: bytes) -> list[str]:
        rendered = page_of(content)
        return [line.text for line in tesseract.read(lambda scale: scales.append(scale) or rendered(scale))]

    bare = b"0 0 %d 9 re f"
    assert [read(bare % width) for width in range(20, 24)] == [[], [], [], []]
    assert scales == [*[SCALE] * DISCOURAGING, ROUGH_SCALE]
    assert runs() == 4
    assert read(LARGE_PROSE) == list(PROSE)
    assert read(shown("Another page", size=30)) == ["Another page"]
    assert scales[4:] == [ROUGH_SCALE, SCALE, SCALE]
