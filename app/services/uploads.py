"""Files on their way in: checked and hashed while they stream into the file store."""

import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from app.errors import EmptyFile, PDFIngestError, StorageFailed, UploadNotAPDF, UploadTooLarge
from app.pdf.text import clean
from app.storage.files import FileStore

PDF_MARK = b"%PDF"
# The mark must begin within the first 1,024 bytes: readers allow as much in front of it.
HEAD_BYTES = 1024 + len(PDF_MARK) - 1
MAX_FILENAME_CHARACTERS = 255

OnDuplicate = Literal["return", "replace", "keep"]
Priority = Literal["interactive", "bulk"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file in the file store; it gets its row, of this ingestion, later in the same request."""

    ingestion_id: UUID
    filename: str
    sha256: bytes
    byte_size: int

    @property
    def storage_key(self) -> str:
        return storage_key_of(self.ingestion_id)


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file of which nothing was kept, and why."""

    filename: str
    error: PDFIngestError


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """What a client asks for the files of one request; `metadata` None: nothing was said about it."""

    collection: str = "default"
    metadata: dict[str, Any] | None = None
    password: str | None = None
    on_duplicate: OnDuplicate = "return"
    priority: Priority = "interactive"

    def fingerprint(self, arrived: Sequence[ReceivedFile | RefusedFile]) -> bytes:
        """Equal for equal requests. Of a password only that there is one: its hash could be guessed from."""
        files = [
            (file.filename, file.sha256.hex() if isinstance(file, ReceivedFile) else file.error.code)
            for file in arrived
        ]
        has_password = self.password is not None
        asked = [self.collection, self.metadata, has_password, self.on_duplicate, self.priority]
        return hashlib.sha256(json.dumps([files, asked], sort_keys=True).encode()).digest()


@dataclass(frozen=True, slots=True)
class AcceptedFile:
    """The document a file belongs to and the task that ingests it; `is_new_task`: it was made just now.

    `known_as`: where the same bytes are kept for a task that was there before.
    """

    document_id: UUID
    task_id: UUID
    filename: str
    status: str = "queued"
    is_duplicate: bool = False
    is_new_task: bool = True
    known_as: str | None = None


class Upload:
    """The files of one request. Those that no row has taken over are deleted by `discard`."""

    def __init__(self, files: FileStore, max_upload_bytes: int) -> None:
        self._files = files
        self.max_upload_bytes = max_upload_bytes
        self._without_row: set[str] = set()

    async def receive(self, filename: str, parts: AsyncIterator[bytes]) -> ReceivedFile:
        """Store one file while hashing it; nothing of it stays when it is refused.

        Raises EmptyFile, UploadNotAPDF (before anything is stored), UploadTooLarge and StorageFailed.
        """
        ingestion_id = uuid7()
        counted = _Counted(parts, self.max_upload_bytes)
        head = await counted.head()
        key = storage_key_of(ingestion_id)
        self._without_row.add(key)
        await self._files.write(key, counted.all_after(head))
        return ReceivedFile(ingestion_id, clean_filename(filename), counted.sha256, counted.byte_size)

    def release(self, *storage_keys: str) -> None:
        """Leave these files to their rows, as the last thing before their commit.

        A commit can happen without us hearing of it. If it did not, the sweeper deletes the files.
        """
        self._without_row.difference_update(storage_keys)

    async def discard(self) -> None:
        """Delete what no row took over. Never raises: the sweeper deletes what is left."""
        while self._without_row:
            key = self._without_row.pop()
            try:
                await self._files.delete(key)
            except StorageFailed:
                log.warning("upload_not_deleted", storage_key=key)


class _Counted:
    """The parts of a file, counted and hashed on the way through."""

    def __init__(self, parts: AsyncIterator[bytes], max_bytes: int) -> None:
        self._parts = parts
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self.byte_size = 0

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    async def head(self) -> bytes:
        """The first HEAD_BYTES or more, already counted. Raises EmptyFile and UploadNotAPDF."""
        head = b""
        while len(head) < HEAD_BYTES and (part := await anext(self._parts, b"")):
            head += part
        if not head:
            raise EmptyFile
        if PDF_MARK not in head[:HEAD_BYTES]:
            raise UploadNotAPDF
        self._count(head)
        return head

    async def all_after(self, head: bytes) -> AsyncIterator[bytes]:
        """The head again and then the rest. Raises UploadTooLarge."""
        yield head
        async for part in self._parts:
            self._count(part)
            yield part

    def _count(self, part: bytes) -> None:
        self.byte_size += len(part)
        if self.byte_size > self._max_bytes:
            raise UploadTooLarge(
                f"The file is over {self._max_bytes:,} bytes; this server accepts no more (MAX_UPLOAD_BYTES)."
            )
        self._hash.update(part)


def storage_key_of(ingestion_id: UUID) -> str:
    return f"{ingestion_id}.pdf"


def clean_filename(filename: str) -> str:
    """The last part of a path, in one line, with its ending when it must be cut. Only ever shown."""
    name = " ".join(clean(filename.replace("\\", "/").rsplit("/", 1)[-1]).split())
    if len(name) > MAX_FILENAME_CHARACTERS:
        ending = PurePosixPath(name).suffix[-16:]
        name = name[: MAX_FILENAME_CHARACTERS - len(ending)] + ending
    return name or "unnamed.pdf"
