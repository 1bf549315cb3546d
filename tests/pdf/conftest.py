import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.pdf.reader import PDFReader

Write = Callable[[bytes], Path]

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="the program tesseract is not installed"
)


@pytest.fixture(autouse=True)
def programs_that_are_named_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what needs tesseract and does not say so passes here, and fails where it is not installed."""
    if needs_tesseract.mark not in request.node.iter_markers():
        monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
async def reader() -> AsyncIterator[PDFReader]:
    opened = PDFReader()
    yield opened
    await opened.close()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file, for a reader that takes a path."""

    def write_file(content: bytes) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.pdf"
        path.write_bytes(content)
        return path

    return write_file
