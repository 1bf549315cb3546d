"""The figures of the whole service, read from the rows of all ingestions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.errors import DatabaseUnavailable
from app.metrics import Figure
from app.services.fresh import Fresh
from app.storage.database import Database
from app.storage.figures import STAGES, read_figures, read_minutes, read_shelves
from app.storage.outages import Outage, list_outages
from app.storage.runs.conditions import OPEN, UNCLAIMED
from app.storage.sweep import count_undeletable

SERVICES = ("embedder", "file_store")
DOCUMENT_STATUSES = ("queued", "processing", "ready", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of the whole service; `minutes` are the pages of each of the last 60, the current one last."""

    documents: dict[str, int]
    pages: int
    chunks: int
    bytes: int
    tasks: dict[str, int]
    oldest_seconds: float
    verdicts: dict[str, int]
    seconds: dict[str, float]
    minutes: list[int]


class Figures:
    """Both read tables whole: 0.3 s for 200,000 runs, so what was read stays good for a while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._figures = Fresh(self._read_rows)
        self._stats = Fresh(self._read_stats)

    @property
    def is_fresh(self) -> bool:
        return self._figures.is_fresh

    async def read(self) -> list[Figure]:
        """Without a database, only that there is none."""
        return await self._figures.get()

    async def stats(self) -> Stats:
        """Raises DatabaseUnavailable."""
        return await self._stats.get()

    async def _read_rows(self) -> list[Figure]:
        try:
            async with self._database.transaction() as connection:
                rows = await read_figures(connection)
                outages = await list_outages(connection)
                undeletable = await count_undeletable(connection)
        except DatabaseUnavailable:
            return [_database_is_up(0)]
        return [
            _database_is_up(1),
            *_of_finished(rows),
            *_of_unfinished(rows),
            _of_outages(outages),
            Figure("store_bytes", "Bytes of the files kept (MAX_STORE_BYTES).", _stored(rows)),
            Figure("undeletable_files", "Files that could not be deleted yet.", undeletable),
        ]

    async def _read_stats(self) -> Stats:
        async with self._database.transaction() as connection:
            runs = await read_figures(connection)
            shelves = await read_shelves(connection)
            minutes = await read_minutes(connection)
        documents: Counter[str] = Counter()
        for shelf in shelves:
            documents[shelf.status] += shelf.documents
        return Stats(
            documents=dict.fromkeys(DOCUMENT_STATUSES, 0) | documents,
            pages=sum(shelf.pages for shelf in shelves),
            chunks=sum(shelf.chunks for shelf in shelves),
            bytes=sum(shelf.bytes for shelf in shelves),
            tasks=_unfinished(runs),
            oldest_seconds=_oldest_seconds(runs),
            verdicts={run.verdict: run.ingestions for run in runs if run.verdict},
            seconds={stage: sum(getattr(run, stage) for run in runs) for stage in STAGES},
            minutes=[minutes.get(ago, 0) for ago in range(59, -1, -1)],
        )


def _database_is_up(is_up: int) -> Figure:
    return Figure("database_up", "Whether the database answered this scrape.", is_up)


def _stored(rows: Sequence[Any]) -> float:
    return float(sum(row.stored_bytes for row in rows))


def _of_outages(outages: Sequence[Outage]) -> Figure:
    now = datetime.now(UTC)
    seconds = {outage.service: (now - outage.since).total_seconds() for outage in outages}
    return Figure(
        "outage_seconds",
        "How long a service that all work waits for has been out; 0: it is not.",
        dict.fromkeys(SERVICES, 0.0) | seconds,
        "service",
    )


def _of_finished(rows: Sequence[Any]) -> list[Figure]:
    verdicts = {row.verdict: row.ingestions for row in rows if row.verdict}
    seconds = {stage: sum(getattr(row, stage) for row in rows) for stage in STAGES}
    return [
        Figure("verdicts", "Ingestions that ended, by verdict.", {"success": 0} | verdicts, "verdict", True),
        Figure("pages", "Pages of published documents.", sum(row.pages for row in rows), is_total=True),
        Figure("chunks", "Chunks of published documents.", sum(row.chunks for row in rows), is_total=True),
        Figure("stage_seconds", "Seconds spent on published documents, by stage.", seconds, "stage", True),
        Figure("retries", "Attempts after the first one.", sum(row.retries for row in rows), is_total=True),
    ]


def _of_unfinished(rows: Sequence[Any]) -> list[Figure]:
    unfinished = _unfinished(rows)
    return [
        Figure("unfinished", "Ingestions not ended, by status.", unfinished, "status"),
        Figure("queue_length", "Ingestions that wait.", sum(unfinished[status] for status in UNCLAIMED)),
        Figure("queue_oldest_seconds", "Age of the oldest one that waits.", _oldest_seconds(rows)),
    ]


def _unfinished(rows: Sequence[Any]) -> dict[str, int]:
    counts = {row.status: row.ingestions for row in rows if row.status in OPEN}
    return dict.fromkeys(OPEN, 0) | counts


def _oldest_seconds(rows: Sequence[Any]) -> float:
    return max((row.oldest_seconds for row in rows if row.status in UNCLAIMED), default=0)
