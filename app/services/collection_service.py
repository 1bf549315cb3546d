"""What clients do with collections: make, look at, change, delete; and the documents that go on their own."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from app.errors import CollectionNotFound, TaskNotFound
from app.services.audit import audit
from app.storage import collections, webhooks
from app.storage.collections import IS_EXPIRED, Collection, CollectionFields, Deletion
from app.storage.database import Connection, Database, beyond
from app.storage.doomed import IS_DOOMED
from app.storage.figures import read_shelves
from app.storage.outbox import announce
from app.storage.reach import EVERYTHING, Reach

POLL_SECONDS = 0.25
# In one transaction: 100 documents go in a sixth of the time that they take one by one.
DOCUMENTS_AT_ONCE = 100
CHUNKS_AT_ONCE = 5_000  # with their vectors, in a tenth of a second

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CountedCollection:
    """A collection, its documents by their status, what a search can find, and the size of all its files."""

    collection: Collection
    documents: dict[str, int]
    pages: int
    chunks: int
    byte_size: int


class CollectionService:
    """Collections by their names. One that is out of the caller's reach is not there."""

    def __init__(self, database: Database, reach: Reach = EVERYTHING) -> None:
        self._database = database
        self._reach = reach

    def within(self, reach: Reach) -> "CollectionService":
        """The same service for a caller to whom nothing else is there."""
        return CollectionService(self._database, reach)

    async def create(self, name: str, fields: CollectionFields) -> CountedCollection:
        """Raises CollectionExists and CollectionNotFound."""
        self._require(name)
        async with self._database.transaction(self._reach) as connection:
            made = await collections.create_collection(connection, uuid7(), name, fields)
        audit("collection.create", collection=name)
        return _counted(made, [])

    async def find(self, name: str) -> CountedCollection:
        """Raises CollectionNotFound."""
        self._require(name)
        async with self._database.transaction(self._reach) as connection:
            found = await collections.find_collection(connection, name)
            (counted,) = await _count(connection, [found])
        return counted

    async def list(self, after_name: str | None, limit: int) -> Sequence[CountedCollection]:
        """By their names."""
        async with self._database.transaction(self._reach) as connection:
            found = await collections.list_collections(connection, after_name, limit, self._reach)
            return await _count(connection, found)

    async def change(self, name: str, new_name: str | None, changes: dict[str, Any]) -> CountedCollection:
        """Rename it, if there is a new name, and replace the fields named in `changes`.

        Raises CollectionNotFound and CollectionExists.
        """
        self._require(name)
        self._require(new_name or name)
        async with self._database.transaction(self._reach) as connection:
            if new_name not in (None, name):
                await collections.rename_collection(connection, name, new_name)
                async with beyond(connection, self._reach):  # webhooks are the administrators'
                    await webhooks.follow_renamed(connection, name, new_name)
                name = new_name
            found = await collections.find_collection(connection, name, to_change=True)
            fields = CollectionFields(
                found.description, found.metadata, found.language, found.expires_after_days
            )
            await collections.change_collection(connection, found.id, replace(fields, **changes))
        audit("collection.change", collection=name)
        return await self.find(name)

    async def delete(self, name: str) -> Deletion:
        """Its name is free at once, its documents go one after another. Raises CollectionNotFound."""
        self._require(name)
        async with self._database.transaction(self._reach) as connection:
            deletion = await collections.begin_deletion(connection, uuid7(), name)
        audit("collection.delete", collection=name, task_id=deletion.id)
        log.info("deleting collection", task_id=str(deletion.id), documents=deletion.documents_total)
        return deletion

    async def deletion(self, task_id: UUID, wait_seconds: float = 0) -> Deletion:
        """Where it stands once it is done, or after so many seconds. Raises TaskNotFound."""
        give_up_at = time.monotonic() + wait_seconds
        while True:
            async with self._database.autocommit(self._reach) as connection:
                deletion = await collections.find_deletion(connection, task_id)
            if deletion is None or not self._reach.has_all_of(deletion.collection):
                raise TaskNotFound
            if deletion.finished_at is not None or time.monotonic() >= give_up_at:
                return deletion
            await asyncio.sleep(POLL_SECONDS)

    def _require(self, name: str) -> None:
        if not self._reach.has_all_of(name):
            raise CollectionNotFound


async def delete_doomed(database: Database, space_id: int, at_once: int = DOCUMENTS_AT_ONCE) -> None:
    """The documents of collections that were deleted, in turn; those that have none any more end."""
    while True:
        is_going_on = await _delete_leaving(database, space_id, IS_DOOMED, at_once)
        async with database.transaction() as connection:
            for deletion in await collections.end_deletions(connection):
                gone = {"task_id": str(deletion.id), "collection": deletion.collection, "status": "deleted"}
                await announce(connection, "collection.deleted", deletion.collection, gone)
                log.info("collection deleted", task_id=str(deletion.id), documents=deletion.documents_done)
        if not is_going_on:
            return


async def delete_expired(database: Database, space_id: int) -> None:
    """Documents that are older than their collection keeps any."""
    while count := await _delete_leaving(database, space_id, IS_EXPIRED, DOCUMENTS_AT_ONCE):
        log.info("expired documents deleted", count=count)


async def _delete_leaving(database: Database, space_id: int, why: str, at_once: int) -> int:
    """Some of each collection; how many. Those that somebody has locked are left for the next time."""
    async with database.autocommit() as connection:
        leaving = await collections.list_leaving(connection, why, at_once, CHUNKS_AT_ONCE)
    count = 0
    for document_ids in leaving:
        async with database.transaction() as connection:
            count += await collections.delete_leaving(connection, space_id, document_ids, why)
    return count


async def _count(connection: Connection, found: Sequence[Collection]) -> list[CountedCollection]:
    shelves: dict[str, list[Any]] = defaultdict(list)
    for shelf in await read_shelves(connection, [one.name for one in found]):
        shelves[shelf.collection].append(shelf)
    return [_counted(one, shelves[one.name]) for one in found]


def _counted(collection: Collection, shelves: Sequence[Any]) -> CountedCollection:
    return CountedCollection(
        collection,
        {shelf.status: shelf.documents for shelf in shelves},
        pages=sum(shelf.pages for shelf in shelves),
        chunks=sum(shelf.chunks for shelf in shelves),
        byte_size=sum(shelf.bytes for shelf in shelves),
    )
