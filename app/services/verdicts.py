"""How an attempt ends: its lease is kept while it works, and every error becomes the row's next state."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from app.errors import (
    DatabaseUnavailable,
    DiskFull,
    InternalError,
    Interrupted,
    LeaseLost,
    PDFIngestError,
    StorageFailed,
    Temporary,
    WorkHeld,
)
from app.metrics import counters
from app.services.background import in_background
from app.services.outages import Outages
from app.services.retries import most_retries, pause_seconds
from app.storage import runs
from app.storage.database import Database
from app.storage.runs import Lease, Progress

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_OF_WORKER = "The disk of a worker is full, or that of its temporary files."
FAULT_OF_WORKER = "The machine of a worker did not do its work. The log has the details."
HEARTBEAT_SECONDS = 1.0
# Soon after the start: then the number of pages is known.
FIRST_HEARTBEAT_SECONDS = 0.25
DATABASE_PATIENCE_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """`ending` is how every attempt ends that claimed its run."""

    database: Database
    outages: Outages
    space_id: int

    @asynccontextmanager
    async def ending(self, lease: Lease, progress: Progress) -> AsyncIterator[None]:
        """Renews the lease every second meanwhile; what the block raises is in the row before it leaves."""
        try:
            async with in_background(self._renew_for_ever(lease, progress)):
                yield
        except (LeaseLost, WorkHeld):
            raise
        except DatabaseUnavailable:
            await self._release_when_possible(lease)
            raise
        except Interrupted as error:
            await self._try_again_or_fail(lease, error)
            raise
        except Temporary as error:
            await self._retry_or_fail(lease, error)
            raise
        except PDFIngestError as error:
            await self._fail(lease, error)
            raise
        except asyncio.CancelledError:
            await self._release(lease)
            raise
        except OSError as error:  # this machine's: what a document can do is in the reading process
            log.exception("the machine failed")
            failure = DiskFull(DISK_OF_WORKER) if error.errno in NO_ROOM else StorageFailed(FAULT_OF_WORKER)
            await self._retry_or_fail(lease, failure)
            raise failure from error
        except Exception as error:
            log.exception("ingestion failed")
            await self._fail(lease, InternalError())
            raise InternalError from error

    async def _renew_for_ever(self, lease: Lease, progress: Progress) -> None:
        """The heartbeat. Raises LeaseLost, except while the work is published.

        Publishing ends the lease itself, and may do so while a heartbeat waits for the row; whether the lease
        was ours is proven by what publishes.
        """
        pause_seconds = FIRST_HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = HEARTBEAT_SECONDS
            try:
                async with self.database.autocommit() as connection:
                    await runs.renew(connection, lease, progress)
            except LeaseLost:
                if progress.stage == "publishing":
                    return
                raise
            except Temporary:  # late is not lost: as long as the epoch is ours, we go on
                continue

    async def _retry_or_fail(self, lease: Lease, error: Temporary) -> None:
        if error.owner != "document" and await self.outages.report(error.owner, error):
            await self._release(lease, is_counted=False)
            return
        if lease.retries >= most_retries(error) or error.owner == "document":
            await self._fail(lease, error)
            return
        delay_seconds = pause_seconds(lease.retries)
        async with self.database.autocommit() as connection:
            await runs.retry_later(connection, lease, error, delay_seconds)
        counters().retries.labels(error.code).inc()
        log.warning("retrying later", code=error.code, seconds=round(delay_seconds, 1))

    async def _try_again_or_fail(self, lease: Lease, error: Interrupted) -> None:
        async with self.database.autocommit() as connection:
            seconds = await runs.requeue(connection, lease)
        if seconds is None:
            await self._fail(lease, error)
        else:
            log.warning("interrupted", reason=error.message, seconds=seconds)

    async def _fail(self, lease: Lease, error: PDFIngestError) -> None:
        async with self.database.autocommit() as connection:
            await runs.fail(connection, lease, self.space_id, error)
        counters().verdicts.labels(error.code).inc()
        log.info("failed", code=error.code)

    async def _release(self, lease: Lease, *, is_counted: bool = True) -> None:
        try:
            async with self.database.autocommit() as connection:
                await runs.release(connection, lease, is_counted=is_counted)
            log.info("released")
        except (LeaseLost, Temporary):
            log.info("the lease was not given back; it runs out")

    async def _release_when_possible(self, lease: Lease) -> None:
        """The database was away: nothing is charged for that, unless it stays away and the lease runs out."""
        deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                async with self.database.autocommit() as connection:
                    await runs.release(connection, lease, is_counted=False)
            except LeaseLost:
                return
            except Temporary:
                await asyncio.sleep(HEARTBEAT_SECONDS)
            else:
                log.info("released", reason="the database was not available")
                return
