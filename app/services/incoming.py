"""Files that a task names by their path: taken in like an upload, and the same bytes only once."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from app.errors import (
    FileNotFound,
    PathNotAllowed,
    PathRefused,
    PDFIngestError,
    StorageFailed,
    Temporary,
    UploadRefused,
)
from app.metrics import counters
from app.services.admission import Admission
from app.services.outages import Outages
from app.services.retries import most_retries, pause_seconds
from app.services.uploads import ReceivedFile, Upload, clean_filename
from app.storage import documents, runs
from app.storage.database import Connection, Database
from app.storage.documents import KnownContent
from app.storage.files import FileStore

COLLECTION = "default"
_READ_BYTES = 256 * 1024

# What became of a path's file. `queued`: its run is the newest of its document; `success`: the same bytes
# are served already; `waiting`: another run has them in work, look again in a second; `known`: nothing,
# another delivery was faster, or the run has ended meanwhile.
Outcome = Literal["queued", "success", "waiting", "known"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingFiles:
    """Takes in a file from one of the folders a task may read, or from the file store itself."""

    folders: tuple[Path, ...]
    storage_url: str
    uploading: Callable[[], AbstractAsyncContextManager[Upload]]
    database: Database
    files: FileStore
    outages: Outages
    admission: Admission
    space_id: int
    collection: str = COLLECTION

    async def begin(self, ingestion_id: UUID, file_path: str) -> None:
        """Make the row of a task that nobody uploaded, and take its file in.

        Raises PathRefused or UploadRefused, which are the verdict then, or a Temporary: then it is tried
        again later.
        """
        await self.ask(ingestion_id, file_path)
        await self.take(ingestion_id, str(file_path))

    async def ask(self, ingestion_id: UUID, file_path: str) -> None:
        """Make the row alone, if there is none."""
        file_path = str(file_path)  # a script may hand over a Path, and a message anything that JSON can hold
        async with self.database.autocommit() as connection:
            await runs.ask_by_path(connection, ingestion_id, uuid7(), _name_of(file_path), file_path)

    async def go_on(self, row: Any) -> None:
        """With the row of a run that is due and cannot be claimed: its file was not taken in, or it waits."""
        if row.path is not None:
            await self.take(row.id, row.path)
        else:
            await self.settle(row.id)

    async def take(self, ingestion_id: UUID, file_path: str) -> Outcome:
        try:
            async with self.uploading() as upload, self._opened(file_path) as parts:
                await self.admission.require_store_room()
                file = await upload.receive(_name_of(file_path), parts)
                outcome = await self._register(ingestion_id, file, upload)
        except (PathRefused, UploadRefused) as error:
            async with self.database.autocommit() as connection:
                await self._refuse(connection, ingestion_id, error)
            raise
        except StorageFailed as error:
            await self._put_off(ingestion_id, error)
            raise
        if outcome == "success":
            counters().verdicts.labels("success").inc()
        log.info("path_registered", task_id=str(ingestion_id), path=file_path, outcome=outcome)
        return outcome

    async def settle(self, ingestion_id: UUID) -> Outcome:
        """Look again at a run that waits for another one with the same bytes."""
        async with self.database.transaction() as connection:
            waiting = await runs.find_waiting(connection, ingestion_id)
            if waiting is None:
                return "known"
            outcome = await self._decide(connection, ingestion_id, waiting.collection, waiting.sha256)
        if outcome == "success":
            counters().verdicts.labels("success").inc()
            await self._delete(waiting.storage_key)
        return outcome

    async def _register(self, ingestion_id: UUID, file: ReceivedFile, upload: Upload) -> Outcome:
        """Give the run its file. Any number of deliveries of one task may do this at the same time."""
        async with self.database.transaction() as connection:
            await documents.lock_contents(connection, self.collection, [file.sha256])
            if not await runs.give_file(
                connection, ingestion_id, file.sha256, file.byte_size, file.storage_key
            ):
                return "known"
            outcome = await self._decide(connection, ingestion_id, self.collection, file.sha256)
            if outcome != "success":
                upload.release(file.storage_key)
        return outcome

    async def _decide(
        self, connection: Connection, ingestion_id: UUID, collection: str, sha256: bytes
    ) -> Outcome:
        """The rule of same content."""
        await documents.lock_contents(connection, collection, [sha256])
        known = await documents.find_content(connection, collection, sha256)
        if known and known.is_live:
            await runs.share(connection, ingestion_id, known.ingestion_id)
            return "success"
        if known and known.is_in_work:
            await runs.wait_for_equal(connection, ingestion_id, known.document_id, known.ingestion_id)
            return "waiting"
        await self._move(connection, ingestion_id, collection, known)
        return "queued"

    async def _move(
        self, connection: Connection, ingestion_id: UUID, collection: str, known: KnownContent | None
    ) -> None:
        """To the document whose run with these bytes has failed, or to one of its own."""
        if known and await documents.lock_document(connection, known.document_id):
            await runs.move(connection, ingestion_id, known.document_id)
            await documents.make_latest(connection, self.space_id, known.document_id, ingestion_id)
            return
        document_id = uuid7()
        await runs.move(connection, ingestion_id, document_id)
        await documents.insert_document(connection, document_id, collection, ingestion_id)

    async def _put_off(self, ingestion_id: UUID, error: Temporary) -> None:
        is_out = await self.outages.report(error.owner, error)
        async with self.database.autocommit() as connection:
            row = await runs.find(connection, ingestion_id)
            if row is None:
                return
            if not is_out and row.retries >= most_retries(error):
                await self._refuse(connection, ingestion_id, error)
                return
            seconds = pause_seconds(row.retries)
            await runs.put_off(connection, ingestion_id, error, seconds, is_counted=not is_out)
        log.warning("retrying later", task_id=str(ingestion_id), code=error.code, seconds=round(seconds, 1))

    async def _refuse(self, connection: Connection, ingestion_id: UUID, error: PDFIngestError) -> None:
        if await runs.refuse(connection, ingestion_id, self.space_id, error):
            counters().verdicts.labels(error.code).inc()

    async def _delete(self, storage_key: str) -> None:
        try:
            await self.files.delete(storage_key)
        except StorageFailed:  # the sweeper removes what no row names
            log.warning("file_not_deleted", storage_key=storage_key)

    @asynccontextmanager
    async def _opened(self, file_path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        prefix = self.storage_url.rstrip("/") + "/"
        if file_path.startswith(prefix):
            key = file_path.removeprefix(prefix)
            # the file store has no folders, and `..` leads out of it
            if key in {"", ".."} or Path(key).name != key:
                raise PathNotAllowed
            yield self.files.read(key)
            return
        descriptor = await asyncio.to_thread(_open_below, self.folders, file_path)
        try:
            yield _parts_of(descriptor)
        finally:
            os.close(descriptor)


def _name_of(file_path: str) -> str:
    return clean_filename(Path(file_path).name)


def _open_below(folders: tuple[Path, ...], file_path: str) -> int:
    """A descriptor of a file in one of the folders. Raises PathRefused.

    Links are followed while the path is resolved, and none of them out of the folders. It is opened step by
    step from there: a link that takes the place of a folder in between is not followed.
    """
    try:
        path = Path(file_path).resolve()
        folder = next(
            (one for one in (folder.resolve() for folder in folders) if path.is_relative_to(one)), None
        )
        if folder is None:
            raise PathNotAllowed
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in path.relative_to(folder).parts:
            # without O_NONBLOCK a named pipe would wait for its other end
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            try:
                below = os.open(part, flags, dir_fd=at)
            finally:
                os.close(at)
            at = below
        if not stat.S_ISREG(os.fstat(at).st_mode):
            os.close(at)
            raise FileNotFound
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, a loop of links
        raise FileNotFound from error
    return at


async def _parts_of(descriptor: int) -> AsyncIterator[bytes]:
    try:
        while part := await asyncio.to_thread(os.read, descriptor, _READ_BYTES):
            yield part
    except OSError as error:  # its disk, or it is gone from the network
        raise StorageFailed("The file at this path could not be read.") from error
