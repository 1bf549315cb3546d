"""Finds what nobody works on and announces it again; removes files that no row needs.

One coroutine on every open event loop, in the API and in the workers. Each frees what dead processes of its
own host held; the rest is done by one of them at a time, the leader.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol
from uuid import UUID

import structlog
from structlog.contextvars import bound_contextvars

from app.errors import PDFIngestError, StorageFailed, WorkerLost
from app.services.backfill import Duty, backfill
from app.services.collection_service import delete_doomed, delete_expired
from app.services.holder import Processes
from app.services.outages import Outages
from app.services.webhook_delivery import WebhookDispatcher
from app.storage import embedding_cache, outbox, runs, sweep
from app.storage.collections import forget_deletions
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.runs import LostLease
from app.storage.runs.conditions import LEASE_SECONDS

SWEEP_SECONDS = 0.5
LOOK_SECONDS = 0.25  # it is most of what the death of a process costs its document
DUTY_SECONDS = 1.0
TRIM_SECONDS = 30.0
TIDY_SECONDS = 600.0
# Longer than any request takes whose upload may yet get a row (`api.uploads.UPLOAD_SECONDS`).
ORPHAN_SECONDS = 3 * 3600.0
MESSAGES_PER_SWEEP = 500
FILES_PER_SWEEP = 100
KEYS_PER_LOOK = 1000
# Processes killed together do not end together: a worker may still be there a moment after its child.
DYING_SECONDS = 0.05
RUNS_AT_ONCE = 1000

log = structlog.get_logger(__name__)


class Queue(Protocol):
    """What the sweeper needs of the task queue."""

    async def enqueue(self, ingestion_id: UUID, *, is_begun: bool = False) -> bool: ...

    async def length(self) -> int | None: ...


@dataclass(kw_only=True)
class Sweeper:
    database: Database
    files: FileStore
    queue: Queue
    outages: Outages
    processes: Processes
    webhooks: WebhookDispatcher
    space_id: int
    retention_days: float
    embedding_cache_rows: int
    duties: Sequence[Duty]
    """What published versions may lack."""

    def __post_init__(self) -> None:
        self._holder = self.processes.name_of_this()
        self._is_leader = False
        self._orphans_before: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled. What takes long is done beside it."""
        await asyncio.gather(
            _every(LOOK_SECONDS, self.free_lost),
            _every(SWEEP_SECONDS, self.sweep),
            _every(DUTY_SECONDS, self.outages.probe),
            _every(DUTY_SECONDS, self.delete_files),
            _every(TRIM_SECONDS, self.trim_embedding_cache),
            _every(DUTY_SECONDS, self.delete_collections),
            _every(TIDY_SECONDS, self.delete_expired),
            _every(TIDY_SECONDS, self.tidy),
            _every(TIDY_SECONDS, self.bring_along),
            self.webhooks.run(lambda: self._is_leader),
        )

    async def sweep(self) -> None:
        """Short statements, each a transaction of its own: a sweeper that is stopped holds up nobody."""
        led_seconds = await self._lead()
        # When nobody swept for a while, the database or all of us stood still: leases may yet be renewed.
        await self._free(with_expired=led_seconds is not None and led_seconds > LEASE_SECONDS)
        if self._is_leader:
            await self._announce_what_waits()

    async def free_lost(self) -> None:
        """What processes of this machine held that have died."""
        await self._free(with_expired=False)

    async def delete_files(self) -> None:
        """Rows went first; the files follow, and are forgotten once they are gone."""
        if not self._is_leader:
            return
        async with self.database.autocommit() as connection:
            storage_keys = await sweep.files_to_delete(connection, FILES_PER_SWEEP)
        failed = [key for key in storage_keys if not await self._delete(key)]
        async with self.database.autocommit() as connection:
            if failed:
                await sweep.put_back_files(connection, failed)
            if len(failed) < len(storage_keys):
                await sweep.forget_files(connection, [key for key in storage_keys if key not in failed])

    async def trim_embedding_cache(self) -> None:
        """What was not used for longest goes."""
        if not self._is_leader:
            return
        async with self.database.autocommit() as connection:
            while await embedding_cache.forget_oldest(connection, self.embedding_cache_rows):
                pass

    async def delete_collections(self) -> None:
        """Go on with those that were asked to be deleted, by whomever, until they are."""
        if self._is_leader:
            await delete_doomed(self.database, self.space_id)

    async def delete_expired(self) -> None:
        """What is older than its collection keeps documents."""
        if self._is_leader:
            await delete_expired(self.database, self.space_id)

    async def tidy(self) -> None:
        """Remove old runs, deliveries and idempotency keys, workers that are gone, and what nothing owns."""
        if not self._is_leader:
            return
        async with self.database.autocommit() as connection:
            while left := await runs.find_left_chunks(connection, RUNS_AT_ONCE):
                await runs.delete_left_chunks(connection, self.space_id, left)
                log.info("chunks of ended runs deleted", runs=len(left))
            await sweep.forget_idempotency_keys(connection)
            await sweep.forget_workers(connection)
            await forget_deletions(connection, self.retention_days)
            while await sweep.forget_runs(connection, self.retention_days, RUNS_AT_ONCE) == RUNS_AT_ONCE:
                log.info("runs forgotten", count=RUNS_AT_ONCE)
            while await outbox.forget_deliveries(connection, self.retention_days, RUNS_AT_ONCE):
                log.info("webhook deliveries forgotten")
        await self._delete_orphans()

    async def bring_along(self) -> None:
        """What workers of an older version have published after `migrate`, while all were replaced."""
        if self._is_leader:
            await backfill(self.database, *self.duties)

    async def _lead(self) -> float | None:
        seconds, leader = None, await sweep.find_leader(self.database)
        if leader in (None, self._holder) or self.processes.is_dead(leader):
            async with self.database.autocommit() as connection:
                seconds = await sweep.lead(connection, self._holder, dead_leader=leader)
        self._is_leader = seconds is not None
        return seconds

    async def _free(self, *, with_expired: bool) -> None:
        lost = await find_lost(self.database, self.processes)
        if not lost and not with_expired:
            return
        found = await free(self.database, self.space_id, lost, with_expired=with_expired)
        await self._announce([(row.id, True) for row in found if row.pause_seconds == 0])

    async def _announce_what_waits(self) -> None:
        """For what waits for a worker without a message; not while it could not be worked on."""
        waiting_messages = await self.queue.length()
        if waiting_messages is None:
            return
        waiting, quick = await sweep.count_due(self.database)
        if not waiting or await self.outages.has_any():
            return
        async with self.database.autocommit() as connection:
            # A killed worker takes messages with it, and redeliveries make the queue look full enough.
            begun = await sweep.mark_announced(connection, MESSAGES_PER_SWEEP, is_begun=True)
            missing = quick - waiting_messages - len(begun)
            new = (
                await sweep.mark_announced(connection, min(missing, MESSAGES_PER_SWEEP))
                if missing > 0
                else []
            )
        await self._announce([*((one, True) for one in begun), *((one, False) for one in new)])

    async def _announce(self, messages: Sequence[tuple[UUID, bool]]) -> None:
        """Until the broker takes no more: each message it does not take costs a second."""
        for ingestion_id, is_begun in messages:
            if not await self.queue.enqueue(ingestion_id, is_begun=is_begun):
                return

    async def _delete_orphans(self) -> None:
        """Files of killed uploads, which are few. Where most files are no document's, the store is another
        database's, or the database has lost its rows: then they are somebody's, and stay.

        Twice without a row, ten minutes apart: to a machine whose clock is hours ahead of the store's, what
        is being uploaded right now is old.
        """
        orphans = await self._find_orphans()
        before, self._orphans_before = self._orphans_before, set(orphans)
        if not orphans:
            return
        async with self.database.autocommit() as connection:
            known = await sweep.count_files(connection)
        if len(orphans) > known:
            log.error(
                "most files of the store belong to no document of this database: none is deleted",
                without_document=len(orphans),
                with_document=known,
            )
            return
        for orphan in before.intersection(orphans):
            await self._delete(orphan)

    async def _find_orphans(self) -> list[str]:
        orphans: list[str] = []
        keys: list[str] = []
        async for key in self.files.keys_older_than(ORPHAN_SECONDS):
            keys.append(key)
            if len(keys) == KEYS_PER_LOOK:
                orphans += await self._without_row(keys)
                keys = []
        return [*orphans, *await self._without_row(keys)]

    async def _without_row(self, keys: Sequence[str]) -> Sequence[str]:
        async with self.database.autocommit() as connection:
            return await sweep.keys_without_row(connection, keys)

    async def _delete(self, storage_key: str) -> bool:
        try:
            await self.files.delete(storage_key)
        except (StorageFailed, ValueError) as error:  # the disk, or a key that is none
            log.warning("file_not_deleted", storage_key=storage_key, reason=str(error))
            return False
        return True


async def find_lost(database: Database, processes: Processes) -> list[LostLease]:
    """The leases of dead holders."""
    held = await runs.holders(database)
    if not lost_leases(processes, held):
        return []
    await asyncio.sleep(DYING_SECONDS)
    return lost_leases(processes, held)


def lost_leases(processes: Processes, held: Sequence[Any]) -> list[LostLease]:
    """The leases of dead holders among (id, worker, lease_epoch).

    Of several that one holder lost at once, or that went with their whole worker, none is to blame.
    """
    dead = [row for row in held if processes.is_dead(row.worker)]
    leases = Counter(row.worker for row in dead)
    return [
        LostLease(row.id, row.lease_epoch, leases[row.worker] == 1 and processes.is_alone_dead(row.worker))
        for row in dead
    ]


async def free(
    database: Database, space_id: int, lost: Sequence[LostLease], *, with_expired: bool = False
) -> Sequence[Any]:
    """Queue again what has lost its worker, or end it. Returns the rows of `runs.requeue_lost`."""
    async with database.autocommit() as connection:
        found = await runs.requeue_lost(connection, space_id, lost, with_expired=with_expired)
        if not all(row.is_counted for row in found):
            await sweep.forget_back_off(connection)
    for row in found:
        with bound_contextvars(task_id=str(row.id), document_id=str(row.document_id)):
            if row.pause_seconds is None:
                log.warning("failed", code=WorkerLost.code)
            else:
                log.warning("requeued", reason="its worker is lost", pause_seconds=row.pause_seconds)
    return found


async def _every(seconds: float, duty: Callable[[], Awaitable[None]]) -> NoReturn:
    """Do it again and again; a failure is logged, ends no other duty, and the next turn tries again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await duty()
        except PDFIngestError as error:
            log.info("sweep skipped", duty=duty.__name__.strip("_"), reason=error.message)
        except Exception:
            log.exception("sweep failed", duty=duty.__name__.strip("_"))
