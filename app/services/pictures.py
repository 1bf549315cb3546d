"""Pages as pictures, so that a hit can be shown where it stands."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from app.errors import ChunkNotFound, DocumentNotFound, FileGone, FileNotFound
from app.pdf.pages import Box
from app.pdf.reader import PDFReader
from app.storage.chunks import find_boxes
from app.storage.database import Database
from app.storage.document_views import OriginalFile, find_original
from app.storage.files import FileStore

KEPT_PICTURES = 64  # of 0.1 to 1 MB each
RENDERINGS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, and a tag that is the same as long as the picture is."""

    png: bytes
    tag: str


class PagePictures:
    """Renders in a confined process, a few at a time, and keeps the last pictures."""

    def __init__(self, *, database: Database, files: FileStore, reader: PDFReader) -> None:
        self._database = database
        self._files = files
        self._reader = reader
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._turns = asyncio.Semaphore(RENDERINGS_AT_ONCE)

    async def draw(self, document_id: UUID, page: int, chunk_id: UUID | None, width: int) -> Picture:
        """A page (from 1) of the served version, `width` pixels wide, the lines of a chunk marked.

        Raises DocumentNotFound, PageNotFound, ChunkNotFound, FileGone, and the Unreadable family: a file
        that needed a password cannot be drawn, since the password is gone.
        """
        async with self._database.transaction() as connection:
            original = await find_original(connection, document_id)
            boxes = await find_boxes(connection, document_id, chunk_id) if chunk_id else ()
        if original is None:
            raise DocumentNotFound
        if boxes is None:
            raise ChunkNotFound
        tag = f"{original.sha256}-{page}-{chunk_id or ''}-{width}"
        if tag not in self._kept:
            marked = [box for number, box in boxes if number == page]
            self._kept[tag] = Picture(await self._render(original, page, marked, width), tag)
            while len(self._kept) > KEPT_PICTURES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(tag)
        return self._kept[tag]

    async def _render(self, original: OriginalFile, page: int, marked: list[Box], width: int) -> bytes:
        if original.storage_key is None:
            raise FileGone
        try:
            async with self._turns, self._files.local_file(original.storage_key) as path:
                return await self._reader.render(path, page, highlights=marked, max_width=width)
        except FileNotFound as error:
            raise FileGone from error
