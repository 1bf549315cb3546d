"""What is there, as a caller sees it: documents, what they hold, and their files."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from app.errors import DocumentReplaced, FileGone, FileNotFound
from app.services.audit import audit
from app.storage import document_views
from app.storage.database import Database
from app.storage.document_views import (
    ChunkPage,
    DocumentFilter,
    DocumentOrder,
    DocumentPlace,
    DocumentView,
    OriginalFile,
)
from app.storage.files import FileStore
from app.storage.filters import SearchFilter
from app.storage.metadata_values import KeyCount, ValueCount, count_keys, count_values
from app.storage.reach import Reach


@dataclass(frozen=True, slots=True)
class Catalog:
    """Nothing is there but what is in the reach."""

    database: Database
    files: FileStore
    reach: Reach

    async def find(self, document_id: UUID) -> DocumentView:
        """Raises DocumentNotFound."""
        async with self.database.transaction(self.reach) as connection:
            return await document_views.find_document(connection, document_id, self.reach)

    async def list_documents(
        self, condition: DocumentFilter, order: DocumentOrder, after: DocumentPlace | None, limit: int
    ) -> list[tuple[DocumentView, DocumentPlace]]:
        """Each with its place in the list."""
        async with self.database.transaction(self.reach) as connection:
            return await document_views.list_documents(connection, condition, order, after, limit, self.reach)

    async def count_keys(self, wanted: SearchFilter, limit: int) -> Sequence[KeyCount]:
        """Keys of the metadata, by how many published documents that are wanted have them."""
        async with self.database.transaction(self.reach) as connection:
            return await count_keys(connection, replace(wanted, reach=self.reach), limit)

    async def count_values(self, wanted: SearchFilter, key: str, limit: int) -> Sequence[ValueCount]:
        """Values of a key, by how many published documents that are wanted have them."""
        async with self.database.transaction(self.reach) as connection:
            return await count_values(connection, replace(wanted, reach=self.reach), key, limit)

    async def list_chunks(self, document_id: UUID, after: tuple[UUID, int] | None, limit: int) -> ChunkPage:
        """Chunks of the served version; `after` is (its ingestion, the last ordinal seen).

        Raises DocumentNotFound, and DocumentReplaced when `after` belongs to another version.
        """
        version, ordinal = after or (None, -1)
        async with self.database.transaction(self.reach) as connection:
            page = await document_views.list_document_chunks(
                connection, document_id, ordinal, limit, self.reach
            )
        if version not in (None, page.ingestion_id):
            raise DocumentReplaced
        return page

    async def find_original(self, document_id: UUID) -> OriginalFile:
        """Raises DocumentNotFound and FileGone."""
        async with self.database.transaction(self.reach) as connection:
            original = await document_views.find_original(connection, document_id, self.reach)
        if original.storage_key is None:
            raise FileGone
        audit("document.file", document_id=document_id)
        return original

    async def read(self, storage_key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes of a file from `start` up to, not including, `end`. Raises FileGone and StorageFailed."""
        try:
            async for piece in self.files.read(storage_key, start, end):
                yield piece
        except FileNotFound as error:  # its version was replaced just now, or the folder was emptied by hand
            raise FileGone from error
