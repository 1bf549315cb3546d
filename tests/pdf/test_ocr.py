import os
import subprocess
from collections.abc import Callable
from contextlib import closing

import pypdfium2
import pytest

from app.pdf.sandbox.ocr import DISCOURAGING, ROUGH_SCALE, SCALE, Tesseract, command
from app.pdf.sandbox.pictures import Picture, render
from tests.pdfs.builder import one_page, shown, stream
from tests.pdfs.hostile import LARGE_PROSE, PROSE

pytestmark = pytest.mark.program("tesseract")

Render = Callable[[float], Picture]

MOST_PIXELS = 25_000_000


def page_of(content: bytes) -> Render:
    def rendered(scale: float) -> Picture:
        with pypdfium2.PdfDocument(one_page(stream(content))) as document, closing(document[0]) as page:
            return render(page, scale, MOST_PIXELS)

    return rendered


class Counted:
    """The program itself, unconfined, and how often it was run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, picture: bytes, dpi: int) -> str:
        self.runs += 1
        environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        done = subprocess.run(
            command("eng", dpi), input=picture, capture_output=True, env=environment, check=True
        )
        return done.stdout.decode()


def test_the_same_picture_is_read_once() -> None:
    recognise = Counted()
    tesseract = Tesseract("eng", recognise)
    first, again = (tesseract.read(page_of(LARGE_PROSE)) for _ in range(2))
    assert [line.text for line in first] == list(PROSE)
    assert again == first
    assert recognise.runs == 1


def test_after_pages_without_a_word_a_rough_look_comes_first() -> None:
    """And what it finds is then read as well as ever."""
    recognise = Counted()
    tesseract = Tesseract("eng", recognise)
    scales: list[float] = []

    def read(content: bytes) -> list[str]:
        rendered = page_of(content)
        return [line.text for line in tesseract.read(lambda scale: scales.append(scale) or rendered(scale))]

    bare = b"0 0 %d 9 re f"
    assert [read(bare % width) for width in range(20, 24)] == [[], [], [], []]
    assert scales == [*[SCALE] * DISCOURAGING, ROUGH_SCALE]
    assert recognise.runs == 4
    assert read(LARGE_PROSE) == list(PROSE)
    assert read(shown("Another page", size=30)) == ["Another page"]
    assert scales[4:] == [ROUGH_SCALE, SCALE, SCALE]
