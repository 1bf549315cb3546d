"""The product in one class: a PDF goes in, its chunks can be searched."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from structlog.contextvars import bound_contextvars
from uuid_utils.compat import uuid7

from app.embeddings.budget import Budget
from app.errors import (
    LeaseLost,
    TaskNotFound,
    TaskTimedOut,
    WorkHeld,
    error_for_code,
)
from app.metrics import counters
from app.services.holder import Processes
from app.services.incoming import IncomingFiles
from app.services.outages import Outages
from app.services.pipeline import Pipeline
from app.services.searching import Found, Search, Searcher
from app.services.sweeper import find_lost, free
from app.services.verdicts import Verdicts
from app.storage import runs
from app.storage.database import Database
from app.storage.marks import Span, find_marks
from app.storage.runs import Lease, Progress
from app.storage.runs.conditions import FINAL, UNCLAIMED
from app.storage.tasks import result_of

HELD_PAUSE_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RAGService:
    """Ingests and searches. Everything it uses is opened by `resources.open_services`."""

    database: Database
    incoming: IncomingFiles
    pipeline: Pipeline
    verdicts: Verdicts
    searcher: Searcher
    budget: Budget
    outages: Outages
    processes: Processes
    holder: str
    space_id: int

    async def ingest_pdf(self, file_path: str, ingestion_id: UUID | None = None) -> int:
        """Read, split, embed, store and publish a PDF; the number of its chunks.

        The verdict is in the row before this returns or raises a PDFIngestError (for a Temporary one: the
        time of the next attempt). For a known id the ingestion's stored file counts, not the path, and this
        raises WorkHeld or LeaseLost when another delivery has, or took, the work; without an id it waits for
        the verdict.
        """
        if ingestion_id is not None:
            return await self._ingest_delivery(file_path, ingestion_id)
        ingestion_id = uuid7()
        while True:
            try:
                return await self._ingest_delivery(file_path, ingestion_id)
            except (WorkHeld, LeaseLost):
                await asyncio.sleep(HELD_PAUSE_SECONDS)

    async def _ingest_delivery(self, file_path: str, ingestion_id: UUID) -> int:
        lease = await self._claim(ingestion_id, file_path)
        if lease is None:
            return await self._chunks_of_final(ingestion_id)
        return await self.ingest_claimed(lease)

    async def is_bell(self, ingestion_id: UUID, file_path: str, *, is_announced: bool = False) -> bool:
        """Whether a message about this run says no more than that there is work: it waits for its turn.

        Else the message is for this run: it was asked for by its path, or has ended. The first message of a
        path makes its row, so that the sweeper knows of it from now on. An `is_announced` one comes from who
        had made the row: if it is not here, it is in the database of another installation.
        """
        row = await self._find(ingestion_id)
        if row is None and is_announced:
            log.warning(
                "no such run here: has another installation the same broker?", task_id=str(ingestion_id)
            )
            return True
        if row is None:
            await self.incoming.ask(ingestion_id, file_path)
            return False
        if row.status == "processing":
            await self._free_if_dead(ingestion_id)
        return row.turn is not None and row.status not in FINAL

    async def claim_next(self) -> Lease | None:
        """Take the work whose turn it is, for `ingest_claimed`; None when there is none that may be begun."""
        async with self.database.autocommit() as connection:
            return await runs.claim_next(connection, self.holder)

    async def ingest_claimed(self, lease: Lease) -> int:
        """As `ingest_pdf`, of what has been claimed."""
        request = {"request_id": lease.request_id} if lease.request_id else {}
        with bound_contextvars(
            task_id=str(lease.ingestion_id), document_id=str(lease.document_id), **request
        ):
            log.info("claimed", attempt=lease.attempt)
            try:
                progress = Progress()
                async with self.verdicts.ending(lease, progress):
                    return await self.pipeline.ingest(lease, progress)
            except LeaseLost:  # somebody else has the work now, or it was cancelled or superseded
                counters().lease_losses.inc()
                log.warning("lease lost")
                raise

    async def search(self, wanted: Search) -> Found:
        """The best chunks of the documents that pass the filter; no match is an empty list."""
        return await self.searcher.search(wanted)

    async def marks(self, found: Found, wanted: Search) -> Mapping[UUID, Sequence[Span]]:
        """Where in the text of each chunk that was found the words of the question stand."""
        async with self.database.transaction(wanted.filter.reach) as connection:
            return await find_marks(connection, found.hits, wanted.query)

    async def result(self, ingestion_id: UUID) -> dict[str, Any] | None:
        """The structured result of an ingestion, None as long as it is not final. Raises TaskNotFound."""
        row = await self._find(ingestion_id)
        if row is None:
            raise TaskNotFound
        return result_of(row) if row.status in FINAL else None

    async def give_up(self, ingestion_id: UUID) -> None:
        """End an ingestion that ran into its time limit, whoever holds it.

        Not so in an outage, or where embedding waits for turns: somebody goes on with what is stored.
        """
        if await self.outages.has_any() or await self.budget.is_used_up():
            log.info("time limit reached while waiting", task_id=str(ingestion_id))
            return
        async with self.database.autocommit() as connection:
            if await runs.end(connection, ingestion_id, self.space_id, TaskTimedOut()):
                counters().verdicts.labels(TaskTimedOut.code).inc()
        log.warning("time limit reached", task_id=str(ingestion_id))

    async def _claim(self, ingestion_id: UUID, file_path: str) -> Lease | None:
        """The lease; None when the ingestion is final. Raises WorkHeld."""
        lease = await self._try_to_claim(ingestion_id)
        if lease is None:
            row = await self._find(ingestion_id)
            if row is None:
                await self.incoming.begin(ingestion_id, file_path)
            elif row.status in UNCLAIMED:
                await self._go_on_if_due(row)
            elif row.status == "processing":
                await self._free_if_dead(ingestion_id)
            elif row.status in FINAL:
                return None
            lease = await self._try_to_claim(ingestion_id)
        if lease is None:
            row = await self._find(ingestion_id)
            if row is None or row.status not in FINAL:
                log.info("held by another worker, or not its turn")
                raise WorkHeld
        return lease

    async def _try_to_claim(self, ingestion_id: UUID) -> Lease | None:
        async with self.database.autocommit() as connection:
            return await runs.claim(connection, ingestion_id, self.holder)

    async def _go_on_if_due(self, row: Any) -> None:
        async with self.database.autocommit() as connection:
            is_due = await runs.is_due(connection, row.id)
        if is_due:
            await self.incoming.go_on(row)

    async def _free_if_dead(self, ingestion_id: UUID) -> None:
        """The sweeper would do it within a second. What else its holder had says whose fault it was."""
        lost = await find_lost(self.database, self.processes)
        mine = [lease for lease in lost if lease.ingestion_id == ingestion_id]
        if mine:
            await free(self.database, self.space_id, mine)

    async def _find(self, ingestion_id: UUID) -> Any:
        async with self.database.autocommit() as connection:
            return await runs.find(connection, ingestion_id)

    async def _chunks_of_final(self, ingestion_id: UUID) -> int:
        row = await self._find(ingestion_id)
        if row is None:
            raise TaskNotFound
        if row.status != "success":
            raise error_for_code(row.error_code or row.status, row.error_message)
        chunks: int = row.chunks
        return chunks
