"""The sweeper: finds what got lost between Postgres and the broker, and rings for it again.

One runs on every open loop, in the API and in each worker process; one at a time acts.
"""

import asyncio
import time
from typing import Protocol
from uuid import UUID

import structlog

from app.errors import PDFIngestError, WorkerLost
from app.services.holder import HOST, is_dead
from app.storage import sweep
from app.storage.database import Database
from app.storage.files import FileStore

SWEEP_SECONDS = 1.0
TIDY_SECONDS = 600.0
ORPHAN_SECONDS = 3600.0
RINGS_PER_SWEEP = 500
FILES_PER_SWEEP = 100

log = structlog.get_logger(__name__)


class Queue(Protocol):
    """What the sweeper needs of the task queue."""

    async def enqueue(self, ingestion_id: UUID, *, is_begun: bool = False) -> bool: ...

    async def length(self) -> int | None: ...


class Sweeper:
    def __init__(self, *, database: Database, files: FileStore, queue: Queue, space_id: int) -> None:
        self._database = database
        self._files = files
        self._queue = queue
        self._space_id = space_id
        self._tidied = time.monotonic()

    async def run(self) -> None:
        """Sweep every second until cancelled; a failing sweep is logged and the next one tries again."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except PDFIngestError as error:
                log.info("sweep skipped", reason=error.message)
            except Exception:
                log.exception("sweep failed")

    async def sweep(self) -> None:
        for ingestion_id, is_begun in await self._find_unannounced():
            await self._queue.enqueue(ingestion_id, is_begun=is_begun)
        await self._delete_files()
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            await self._tidy()

    async def _find_unannounced(self) -> list[tuple[UUID, bool]]:
        """(id, whether it was begun) of lost leases, and of what waits for a worker without a message."""
        waiting_messages = await self._queue.length()
        async with self._database.transaction() as connection:
            if not await sweep.try_lock(connection):
                return []
            held_here = await sweep.holders(connection, HOST)
            dead = [(row.id, row.lease_epoch) for row in held_here if is_dead(row.worker)]
            found = await sweep.requeue_lost(connection, self._space_id, dead)
            for row in found:
                ids = {"task_id": str(row.id), "document_id": str(row.document_id)}
                if row.is_requeued:
                    log.warning("requeued", **ids, reason="its worker is lost")
                else:
                    log.warning("failed", **ids, code=WorkerLost.code)
            lost = [(row.id, True) for row in found if row.is_requeued]
            if waiting_messages is None:
                return lost
            # A killed worker takes messages with it, and redeliveries make the queue look full enough.
            begun = await sweep.mark_rung(connection, RINGS_PER_SWEEP, is_begun=True)
            missing = await sweep.count_due(connection) - waiting_messages - len(lost) - len(begun)
            new = await sweep.mark_rung(connection, min(missing, RINGS_PER_SWEEP)) if missing > 0 else []
            return [*lost, *((one, True) for one in begun), *((one, False) for one in new)]

    async def _delete_files(self) -> None:
        """Rows went first; the files follow, and are forgotten once they are gone."""
        async with self._database.autocommit() as connection:
            storage_keys = await sweep.files_to_delete(connection, FILES_PER_SWEEP)
        for storage_key in storage_keys:
            await self._files.delete(storage_key)
        if storage_keys:
            async with self._database.autocommit() as connection:
                await sweep.forget_files(connection, storage_keys)

    async def _tidy(self) -> None:
        """Remove uploads that never got a row, and old idempotency keys."""
        old_keys = [key async for key in self._files.keys_older_than(ORPHAN_SECONDS)]
        async with self._database.autocommit() as connection:
            orphans = await sweep.keys_without_row(connection, old_keys)
            await sweep.forget_idempotency_keys(connection)
        for orphan in orphans:
            await self._files.delete(orphan)
