"""Looks at the rows all the time: who holds what, and when work that was hit goes on."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

import asyncpg

from app.local.client import FINAL

LOOK_SECONDS = 0.02
RECONNECT_SECONDS = 0.05
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class Sight:
    """An ingestion as it was at one moment."""

    id: UUID
    document_id: UUID
    status: str
    attempt: int
    deaths: int
    epoch: int
    revision: int
    chunks: int
    holder_pid: int | None
    error_code: str | None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_held(self) -> bool:
        return self.status == "processing" and self.holder_pid is not None


@dataclass(slots=True)
class Victim:
    """Work that a fault has hit, and when."""

    seen: Sight
    at: float
    lost_holder: bool
    """Then only a new holder's progress counts: the last write of the old one may arrive late."""
    is_moving: bool = False

    def moves(self, now: Sight) -> bool:
        """Whether its progress has changed since: a new attempt, or pages or chunks of the same one."""
        if self.lost_holder:
            return now.is_final or now.epoch > self.seen.epoch
        return now.revision > self.seen.revision

    def stores(self, now: Sight) -> bool:
        return self.moves(now) and (now.is_final or now.chunks > self.seen.chunks)


@dataclass
class Recoveries:
    """Seconds from a fault until the work it hit moves again, and until it has stored something again.

    Of what was hit again before the first time was over, only the second time counts.
    """

    moving: list[float] = field(default_factory=list)
    storing: list[float] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    """Seconds from the return of what was taken away until waiting work was taken up again."""


class Watcher:
    """Use it in an `async with` block; it looks at the ingestions of `watched` documents."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url.replace("+asyncpg", "")
        self._connection: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()
        self._hits: dict[UUID, Victim] = {}
        self._waiting: set[UUID] = set()
        self._waiting_since = 0.0
        self.sights: dict[UUID, Sight] = {}
        self.recoveries = Recoveries()
        self.since: Any = None

    async def __aenter__(self) -> Self:
        await self.begin()
        self._looking = asyncio.create_task(self._look_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.wait([self._looking])
        if self._connection is not None:
            await self._connection.close()

    async def begin(self) -> None:
        """Forget what was; from now on only ingestions made later count."""
        (row,) = await self.query("SELECT clock_timestamp() AS now")
        self.since = row["now"]
        self.sights, self._hits, self._waiting, self.recoveries = {}, {}, set(), Recoveries()

    async def query(self, statement: str, *arguments: Any) -> list[Any]:
        """Waits for a database that is away."""
        while True:
            try:
                async with self._lock:
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await asyncpg.connect(self._url, timeout=5)
                    rows: list[Any] = await self._connection.fetch(statement, *arguments, timeout=30)
                    return rows
            except _AWAY:
                await asyncio.sleep(RECONNECT_SECONDS)

    async def leader_pid(self) -> int:
        """The process that leads the sweepers."""
        (row,) = await self.query("SELECT holder FROM leaders")
        return _pid_of(row["holder"])

    async def look(self) -> dict[UUID, Sight]:
        rows = await self.query(
            "SELECT id, document_id, status, attempt, deaths, lease_epoch, revision, chunks, worker,"
            " error_code FROM ingestions WHERE created_at >= $1",
            self.since,
        )
        self.sights = {row["id"]: _sight(row) for row in rows}
        self._note_progress()
        return self.sights

    async def until(self, condition: Callable[[dict[UUID, Sight]], bool], seconds: float) -> bool:
        """Whether the condition on the sights came true in time."""
        deadline = time.monotonic() + seconds
        while not condition(self.sights):
            self.check()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    def check(self) -> None:
        """Raises what has ended the looking, if it has ended."""
        if self._looking.done():
            self._looking.result()

    @asynccontextmanager
    async def hitting(self, pids: Iterable[int] | None = None) -> AsyncIterator[None]:
        """Around an act of breaking: what the processes `pids` held then (None: all that is held) is hit.

        The clock starts at the end of the block: after a kill, or when what was taken away is back.
        """
        lost = None if pids is None else set(pids)
        before = {} if lost is not None else {sight.id: sight for sight in self.sights.values()}
        yield
        at = time.monotonic()
        sights = await self.look()
        if lost is None:
            self._waiting = {sight.id for sight in sights.values() if sight.status == "queued"}
            self._waiting_since = at
        for sight in sights.values():
            held = sight.holder_pid in lost if lost is not None else _is_in(before, sight)
            if held and sight.is_held:
                self._hits[sight.id] = Victim(sight, at, lost_holder=lost is not None)

    @property
    def unrecovered(self) -> int:
        return len(self._hits)

    @property
    def standing(self) -> int:
        """How much of what was hit has not moved since."""
        return sum(not hit.is_moving for hit in self._hits.values())

    def _note_progress(self) -> None:
        now = time.monotonic()
        if any(self.sights[waiting].status != "queued" for waiting in self._waiting & self.sights.keys()):
            self.recoveries.queue.append(now - self._waiting_since)
            self._waiting = set()
        for hit in list(self._hits.values()):
            sight = self.sights.get(hit.seen.id)
            if sight is None:
                continue
            if not hit.is_moving and hit.moves(sight):
                hit.is_moving = True
                self.recoveries.moving.append(now - hit.at)
            if hit.stores(sight):
                self.recoveries.storing.append(now - hit.at)
                del self._hits[hit.seen.id]

    async def _look_for_ever(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)


def _is_in(before: dict[UUID, Sight], sight: Sight) -> bool:
    return sight.id in before and before[sight.id].is_held


def _pid_of(holder: str) -> int:
    """Of a name as `services.holder` makes it."""
    return int(holder.split("/")[-2])


def _sight(row: Any) -> Sight:
    return Sight(
        id=row["id"],
        document_id=row["document_id"],
        status=row["status"],
        attempt=row["attempt"],
        deaths=row["deaths"],
        epoch=row["lease_epoch"],
        revision=row["revision"],
        chunks=row["chunks"],
        holder_pid=_pid_of(row["worker"]) if row["worker"] else None,
        error_code=row["error_code"],
    )
