"""Reads PDFs without ever parsing one in the calling process."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from app.errors import ParserCrashed, PDFIngestError, error_for_code
from app.pdf.pages import DocumentFacts, Page
from app.pdf.wire import Frame, facts_from_frame, packed, page_from_frame, receive_frame


class Reading:
    """A document being read: what is known before its first page, then its pages in order."""

    def __init__(self, facts: DocumentFacts, frames: AsyncIterator[Frame]) -> None:
        self.facts = facts
        self._frames = frames

    def __aiter__(self) -> AsyncIterator[Page]:
        return self._pages()

    async def _pages(self) -> AsyncIterator[Page]:
        async for frame in self._frames:
            yield page_from_frame(frame)


class PDFReader:
    """Reads any number of documents at once, each in a process of its own."""

    fingerprint = "1"

    def __init__(self, max_pages: int = 5_000) -> None:
        self._max_pages = max_pages

    @asynccontextmanager
    async def open(self, path: Path, password: str | None = None) -> AsyncIterator[Reading]:
        """Starts reading. Raises an Unreadable here or while pages are read; leaving ends the process."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.pdf.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        try:
            request: Frame = {"path": str(path), "password": password, "max_pages": self._max_pages}
            process.stdin.write(packed(request))
            process.stdin.close()
            frames = _frames(process)
            yield Reading(facts_from_frame(await anext(frames)), frames)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def close(self) -> None:
        """Ends every process of this reader."""


async def _frames(process: asyncio.subprocess.Process) -> AsyncIterator[Frame]:
    assert process.stdout is not None
    while (frame := await receive_frame(process.stdout)) is not None:
        if "verdict" in frame:
            raise _verdict(frame)
        yield frame
    if await process.wait() != 0:
        raise ParserCrashed


def _verdict(frame: Frame) -> PDFIngestError:
    return error_for_code(str(frame["verdict"]))
