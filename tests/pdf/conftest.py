from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.pdf.reader import PDFReader

Write = Callable[[bytes], Path]


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
