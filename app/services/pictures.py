"""Pages as pictures, so that a hit can be shown where it stands."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from app.errors import (
    ChunkNotFound,
    Encrypted,
    FileGone,
    FileNotFound,
    PasswordGone,
    PicturesBusy,
)
from app.pdf.pages import Box
from app.pdf.reader import PDFReader
from app.services.fresh import look_at_error
from app.storage.chunks import find_boxes
from app.storage.database import Database
from app.storage.document_views import OriginalFile, find_original, find_password
from app.storage.files import FileStore
from app.storage.passwords import PasswordCipher
from app.storage.reach import EVERYTHING, Reach

KEPT_BYTES = 64 * 1024 * 1024  # of pictures of 0.1 to 1 MB, mostly; a photograph can have several
RENDERINGS_AT_ONCE = 2
MOST_RENDERINGS = 32  # at work and waiting for their turn: at 0.1 s each the last waits for two seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page of a file, some places of it marked; `tag` is the same as long as its picture is."""

    document_id: UUID
    original: OriginalFile
    page: int
    marked: list[Box]
    width: int
    tag: str


class PagePictures:
    """Renders in a confined process, a few at a time, and keeps the last pictures."""

    def __init__(
        self, *, database: Database, files: FileStore, reader: PDFReader, cipher: PasswordCipher | None
    ) -> None:
        self._database = database
        self._files = files
        self._reader = reader
        self._cipher = cipher
        self._renderings = Renderings(KEPT_BYTES, MOST_RENDERINGS)

    async def find(
        self, document_id: UUID, page: int, chunk_id: UUID | None, width: int, reach: Reach = EVERYTHING
    ) -> Wanted:
        """A page (from 1) of the served version, `width` pixels wide, the lines of a chunk marked.

        Whether the file has such a page only drawing it tells. Raises DocumentNotFound and ChunkNotFound.
        """
        async with self._database.transaction(reach) as connection:
            original = await find_original(connection, document_id, reach)
            boxes = await find_boxes(connection, document_id, chunk_id) if chunk_id else ()
        if boxes is None:
            raise ChunkNotFound
        marked = [box for number, box in boxes if number == page]
        tag = f"{original.sha256}-{page}-{chunk_id or ''}-{width}"
        return Wanted(document_id, original, page, marked, width, tag)

    async def draw(self, wanted: Wanted) -> bytes:
        """A PNG. Raises PageNotFound, FileGone, PasswordGone, PicturesBusy, and the Unreadable family."""
        of_document = f"{wanted.document_id} {wanted.tag}"  # who has the same file may not have its password
        return await self._renderings.picture(of_document, lambda: self._render(wanted))

    async def close(self) -> None:
        await self._renderings.close()

    async def _render(self, wanted: Wanted) -> bytes:
        if wanted.original.storage_key is None:
            raise FileGone
        try:
            async with self._files.local_file(wanted.original.storage_key) as path:
                return await self._render_file(path, wanted)
        except FileNotFound as error:
            raise FileGone from error
        except Encrypted as error:
            raise PasswordGone from error

    async def _render_file(self, path: Path, wanted: Wanted) -> bytes:
        render = partial(self._reader.render, highlights=wanted.marked, max_width=wanted.width)
        try:
            return await render(path, wanted.page)
        except Encrypted:
            return await render(path, wanted.page, await self._password(wanted))

    async def _password(self, wanted: Wanted) -> str | None:
        async with self._database.autocommit() as connection:
            secret = await find_password(connection, wanted.document_id, wanted.original.sha256)
        return self._cipher.decrypt(secret) if self._cipher and secret else None


class Renderings:
    """One rendering of a picture for all who wait for it; the last pictures are kept, up to `kept_bytes`."""

    def __init__(self, kept_bytes: int, most: int) -> None:
        self._kept_bytes = kept_bytes
        self._most = most
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._underway: dict[str, asyncio.Task[bytes]] = {}
        self._turns = asyncio.Semaphore(RENDERINGS_AT_ONCE)

    async def picture(self, tag: str, render: Callable[[], Awaitable[bytes]]) -> bytes:
        """Raises PicturesBusy, and what `render` raises."""
        if tag in self._kept:
            self._kept.move_to_end(tag)
            return self._kept[tag]
        if tag not in self._underway:
            if len(self._underway) >= self._most:
                raise PicturesBusy
            self._underway[tag] = asyncio.create_task(self._rendered(tag, render))
            self._underway[tag].add_done_callback(look_at_error)
        return await asyncio.shield(self._underway[tag])  # who leaves takes nothing from the others

    async def close(self) -> None:
        tasks = list(self._underway.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _rendered(self, tag: str, render: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            async with self._turns:
                picture = await render()
        finally:
            del self._underway[tag]
        self._kept[tag] = picture
        while sum(map(len, self._kept.values())) > self._kept_bytes:
            self._kept.popitem(last=False)
        return picture
