import os
import subprocess
from collections.abc import Callable
from contextlib import closing

import pypdfium2
import pytest

from app.pdf.sandbox.ocr import DISCOURAGING, ROUGH_SCALE, SCALE, Tesseract, command
from app.pdf.sandbox.pictures import Picture, render
from tests.pdf.test_turned import TURNS
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


@pytest.mark.parametrize("turn", [turn for turn in TURNS if turn != "upright"])
def test_a_page_that_was_scanned_the_wrong_way_up_is_read(turn: str) -> None:
    recognise = Counted()
    drawn = TURNS[turn] + shown(*PROSE, top=560, size=18, leading=30)
    rendered = page_of(drawn)
    lines = Tesseract("eng", recognise).read(rendered)
    assert [line.text for line in lines] == list(PROSE)
    assert recognise.runs == 3
    picture = rendered(1)
    assert not any(picture.is_blank(line.box) for line in lines if line.box)
    left, top, right, bottom = lines[0].box or (0, 0, 0, 0)
    assert (bottom - top > right - left) == (turn != "over")


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
