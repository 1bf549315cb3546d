"""The figures of the whole service, read from the rows of all ingestions."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.errors import DatabaseUnavailable
from app.metrics import Figure
from app.storage.database import Database
from app.storage.figures import STAGES, read_figures
from app.storage.outages import Outage, list_outages
from app.storage.runs.conditions import OPEN, UNCLAIMED
from app.storage.sweep import count_undeletable

FRESH_SECONDS = 1.0  # who asks more often gets the figures again that were read last
# Of the database's time, since the query sees every ingestion ever: what takes 0.3 s stays fresh for 6.
MAX_LOAD = 0.05
SERVICES = ("embedder", "file_store")


class Figures:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = asyncio.Lock()
        self._stale_at = 0.0
        self._figures: list[Figure] = []

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self._stale_at

    async def read(self) -> list[Figure]:
        """Without a database, only that there is none."""
        async with self._lock:
            if not self.is_fresh:
                began = time.monotonic()
                self._figures = await self._read_rows()
                ended = time.monotonic()
                self._stale_at = ended + max(FRESH_SECONDS, (ended - began) / MAX_LOAD)
        return self._figures

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
    unfinished = {row.status: row.ingestions for row in rows if row.status in OPEN}
    ages = [row.oldest_seconds for row in rows if row.status in UNCLAIMED]
    return [
        Figure(
            "unfinished",
            "Ingestions not ended, by status.",
            dict.fromkeys(OPEN, 0) | unfinished,
            "status",
        ),
        Figure(
            "queue_length", "Ingestions that wait.", sum(unfinished.get(status, 0) for status in UNCLAIMED)
        ),
        Figure("queue_oldest_seconds", "Age of the oldest one that waits.", max(ages, default=0)),
    ]
