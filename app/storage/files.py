"""The file store: the original PDFs, in a folder or in an object store, by URL."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from app.errors import DiskFull, FileNotFound, PDFIngestError, StorageFailed
from app.temporary import temporary_folder

if TYPE_CHECKING:
    from obstore import AsyncWritableFile, GetOptions  # names of its type stubs only

log = structlog.get_logger(__name__)

_UPLOAD_PART_BYTES = 5 * 1024 * 1024  # the smallest part S3 takes; a smaller file is one plain PUT
_UPLOADS_AT_ONCE = 2  # parts in flight: a 200 MB upload then needs 10 MB of memory
_READ_BYTES = 256 * 1024
_PROBE_BYTES = 1024 * 1024
_RANGE_BYTES = 4 * 1024 * 1024  # of an object store: at 30 ms for each request still 130 MB/s
_DISK_IS_FULL = tuple(
    name.format(number)
    for number in (errno.ENOSPC, errno.EDQUOT)
    for name in ("os error {})", "[Errno {}]")  # as Rust and as Python say it
)


class FileStore:
    """Files by key. A key is made by us (`<ingestion id>.pdf`), never from the name of a file.

    Every method raises StorageFailed when the store does not do its work (disk full, no permission,
    not reachable), and FileNotFound when there is no file of this key.
    """

    def __init__(self, url: str) -> None:
        self._folder = _folder_of(url)
        self._remote = None if self._folder else from_url(url)

    async def write(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store the parts as one file, all or nothing: when `parts` or the store fails, nothing stays behind.

        The file is on the disk when this returns, so a row that names it may be committed.
        """
        _check(key)
        with _storage_errors():
            writer = obstore.open_writer_async(
                self._open(is_writing=True),
                key,
                buffer_size=_UPLOAD_PART_BYTES,
                max_concurrency=_UPLOADS_AT_ONCE,
            )
        try:
            async for part in parts:  # an error of theirs is not the store's: it leaves as it is
                with _storage_errors():
                    await writer.write(part)
        except BaseException as error:
            await _take_back(writer, error)
            raise
        with _storage_errors():
            await writer.close()
            if self._folder is not None:
                await asyncio.to_thread(_flush_to_disk, self._folder / key)

    async def size(self, key: str) -> int:
        """Bytes of the file."""
        _check(key)
        with _storage_errors(missing=FileNotFound):
            return (await obstore.head_async(self._open(), key))["size"]

    async def has(self, key: str) -> bool:
        try:
            await self.size(key)
        except FileNotFound:
            return False
        return True

    async def probe(self, *, is_new: bool = False) -> None:
        """Whether the store does its work: write a file, look at it, delete it.

        A folder that is gone, with its disk as a rule, is not made, unless nothing was ever stored. What a
        killed process leaves of a probe has no row, and goes as an orphan.
        """
        if not is_new and self._folder is not None and not await asyncio.to_thread(self._folder.is_dir):
            raise StorageFailed("The folder of the file store is not there.")
        key = f"{uuid4()}.pdf"
        try:
            await self.write(key, _probe())
            await self.size(key)
        finally:
            await self.delete(key)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not including, `end` (both within the size), in pieces."""
        _check(key)
        if end is not None and end <= start:
            return
        pieces = self._stream if self._remote is None else self._ranges
        async for piece in pieces(key, start, end):
            yield piece

    async def _stream(self, key: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        """One opened file to its end, also when it is deleted meanwhile."""
        with _storage_errors(missing=FileNotFound):
            reading = await obstore.get_async(self._open(), key, options=_range(start, end))
            pieces = aiter(reading.stream(min_chunk_size=_READ_BYTES))
        while True:
            with _storage_errors():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield bytes(piece)

    async def _ranges(self, key: str, start: int, end: int | None) -> AsyncIterator[bytes]:
        """A request for each range: obstore gives one request 30 s to its last byte, ten times; who takes
        the pieces may need longer.
        """
        end = await self.size(key) if end is None else end
        for begin in range(start, end, _RANGE_BYTES):
            with _storage_errors(missing=FileNotFound):
                piece = await obstore.get_range_async(
                    self._open(), key, start=begin, end=min(begin + _RANGE_BYTES, end)
                )
            yield bytes(piece)

    @asynccontextmanager
    async def local_file(self, key: str) -> AsyncIterator[Path]:
        """A path to read the file from: the stored file itself, or a copy that ends with the block."""
        if self._folder is not None:
            await self.size(key)
            yield self._folder / key
            return
        with temporary_folder("copy") as folder:
            path = folder / key
            await self._copy_out(key, path)
            yield path

    async def move(self, key: str, new_key: str) -> None:
        """Give the file another key; a file that has it is overwritten."""
        _check(key)
        _check(new_key)
        with _storage_errors(missing=FileNotFound):
            await obstore.rename_async(self._open(), key, new_key)
            if self._folder is not None:
                await asyncio.to_thread(_flush_to_disk, self._folder / new_key)

    async def delete(self, key: str) -> None:
        """Remove the file; one that is not there is fine."""
        _check(key)
        with _storage_errors():
            if self._folder is not None:
                await asyncio.to_thread((self._folder / key).unlink, missing_ok=True)
                return
            try:
                await obstore.delete_async(self._open(), key)
            except FileNotFoundError:
                log.debug("file_already_gone", key=key)

    async def keys_older_than(self, seconds: float) -> AsyncIterator[str]:
        """Keys not written to for this long, and in a folder what a killed process left of an upload.

        An object store forgets unfinished uploads itself, by a lifecycle rule of the bucket.
        """
        newest = datetime.now(UTC) - timedelta(seconds=seconds)
        if self._folder is not None:
            with _storage_errors():
                keys = await asyncio.to_thread(_keys_in, self._folder, newest.timestamp())
            for key in keys:
                yield key
            return
        listing = aiter(obstore.list(self._open()))
        while True:
            with _storage_errors():
                found = await anext(listing, None)
            if found is None:
                return
            for entry in found:
                if entry["last_modified"] < newest:
                    yield entry["path"]

    def _open(self, *, is_writing: bool = False) -> ObjectStore:
        """The store. A folder is made by the first write only; a missing one is an error for the others."""
        return self._remote or LocalStore(self._folder, mkdir=is_writing)

    async def _copy_out(self, key: str, path: Path) -> None:
        with _storage_errors(), await asyncio.to_thread(path.open, "wb") as target:
            async for piece in self.read(key):
                await asyncio.to_thread(target.write, piece)


async def _take_back(writer: "AsyncWritableFile", error: BaseException) -> None:
    """Leaving the writer's block with an error is how obstore drops the parts already sent."""
    try:
        await writer.__aexit__(type(error), error, error.__traceback__)
    except (BaseError, OSError):
        log.warning("unfinished_upload_not_taken_back", exc_info=True)


@contextmanager
def _storage_errors(missing: type[PDFIngestError] = StorageFailed) -> Iterator[None]:
    """Errors of the disk or of the network as ours; `missing` is the one for "there is no such file"."""
    try:
        yield
    except (BaseError, OSError) as error:
        reason = str(error).partition("\n\nDebug source")[0]
        if isinstance(error, FileNotFoundError) and missing is FileNotFound:
            log.warning("stored_file_missing", reason=reason)
            raise FileNotFound("The file is not in the file store any more.") from error
        log.error("file_store_failed", reason=reason)
        if any(name in reason for name in _DISK_IS_FULL):
            raise DiskFull from error
        raise StorageFailed("The file store did not do its work. The log has the details.") from error


def _folder_of(url: str) -> Path | None:
    """The folder of a `file://` URL; None for any other."""
    address = urlsplit(url)
    return Path(unquote(address.path)) if address.scheme == "file" else None


async def _probe() -> AsyncIterator[bytes]:
    yield os.urandom(_PROBE_BYTES)  # some file systems store no zeros


def _check(key: str) -> None:
    if key in {"", ".."} or Path(key).name != key:
        raise ValueError(f"not a key of the file store: {key!r}")


def _range(start: int, end: int | None) -> "GetOptions":
    if end is not None:
        return {"range": (start, end)}
    return {"range": {"offset": start}} if start else {}


def _flush_to_disk(path: Path) -> None:
    """Neither the bytes nor the name survive a power cut before fsync; obstore leaves that to us."""
    for name in (path, path.parent):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _keys_in(folder: Path, newest: float) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_file() and entry.stat().st_mtime < newest]
