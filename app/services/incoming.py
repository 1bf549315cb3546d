"""Files that a task names by their path: checked, copied into the file store, registered."""

import asyncio
import hashlib
from pathlib import Path
from uuid import UUID

from app.errors import FileNotFound, PathNotAllowed, PathRefused, UploadRefused, UploadTooLarge
from app.pdf.text import clean
from app.services.documents import DocumentService
from app.storage import ingestions
from app.storage.database import Database
from app.storage.files import FileStore


class IncomingFiles:
    """Takes in a file from one of the folders a task may read."""

    def __init__(
        self,
        *,
        folders: tuple[Path, ...],
        storage_url: str,
        max_bytes: int,
        database: Database,
        files: FileStore,
        documents: DocumentService,
    ) -> None:
        self._database = database
        self._max_bytes = max_bytes
        self._folders = [folder.resolve() for folder in folders]
        self._storage_prefix = storage_url.rstrip("/") + "/"
        self._files = files
        self._documents = documents

    async def take(self, ingestion_id: UUID, file_path: str) -> None:
        """Make the ingestion of a task that nobody uploaded.

        Raises PathNotAllowed, FileNotFound or UploadTooLarge; the refusal is recorded as the verdict.
        """
        file_path = str(file_path)  # a script may hand over a Path, and a message anything that JSON can hold
        storage_key = f"{ingestion_id}.pdf"
        try:
            filename = await self._copy(file_path, storage_key)
        except (PathRefused, UploadRefused) as error:
            async with self._database.autocommit() as connection:
                filename = clean(Path(file_path).name)
                await ingestions.record_refusal(connection, ingestion_id, filename, error)
            raise
        digest = hashlib.sha256()
        byte_size = 0
        async for piece in self._files.read(storage_key):
            digest.update(piece)
            byte_size += len(piece)
        await self._documents.register_path_file(
            ingestion_id, file_path, filename, digest.digest(), byte_size, storage_key
        )

    async def _copy(self, file_path: str, storage_key: str) -> str:
        if file_path.startswith(self._storage_prefix):
            given_key = file_path.removeprefix(self._storage_prefix)
            # the file store has no folders, and `..` leads out of it
            if given_key in {"", ".."} or Path(given_key).name != given_key:
                raise PathNotAllowed
            if await self._files.size(given_key) > self._max_bytes:
                raise UploadTooLarge
            await self._files.write(storage_key, self._files.read(given_key))
            return given_key
        path = await asyncio.to_thread(self._allowed, file_path)
        await self._files.copy_in(path, storage_key)
        return path.name

    def _allowed(self, file_path: str) -> Path:
        """The real path, links followed, of a file in one of the folders."""
        try:
            path = Path(file_path).resolve()
            if not any(path.is_relative_to(folder) for folder in self._folders):
                raise PathNotAllowed
            if not path.is_file():
                raise FileNotFound
            if path.stat().st_size > self._max_bytes:
                raise UploadTooLarge
        except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, a loop of links
            raise FileNotFound from error
        return path
