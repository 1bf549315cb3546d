"""Which processes work, and on what."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from app.services.fresh import Fresh
from app.services.holder import process_of
from app.storage.database import Database
from app.storage.tasks import TaskFilter, TaskStatus, list_tasks

MOST_TASKS = 500
REMEMBERED_SECONDS = 15  # on a busy machine a worker does not answer every roll call in time


@dataclass(frozen=True, slots=True)
class Worker:
    """A process; `name` is its worker's, None when that did not answer: it may be gone, or busy."""

    name: str | None
    host: str
    pid: int
    task: TaskStatus | None


class Roster:
    """`call_roll` asks all workers who they are: names (`name@host`) with ids of their processes."""

    def __init__(
        self,
        database: Database,
        call_roll: Callable[[], Awaitable[Mapping[str, Sequence[int]]]],
        *,
        remembered_seconds: float = REMEMBERED_SECONDS,
    ) -> None:
        self._remembered_seconds = remembered_seconds
        self._database = database
        self._call_roll = call_roll
        self._workers = Fresh(self._read, max_load=0.5)  # it waits more than it works
        self._heard: dict[tuple[str, int], tuple[str, float]] = {}

    async def list(self) -> Sequence[Worker]:
        """Those that answer, and those that hold work, by their names."""
        return await self._workers.get()

    async def _read(self) -> Sequence[Worker]:
        names = self._remembered(await self._call_roll())
        async with self._database.transaction() as connection:
            at_work = await list_tasks(connection, TaskFilter(["processing"]), None, MOST_TASKS)
        tasks = {key: task for task in at_work if task.worker and (key := process_of(task.worker))}
        return sorted(
            (Worker(names.get(key), *key, tasks.get(key)) for key in names.keys() | tasks.keys()),
            key=lambda worker: (worker.name is None, worker.host, worker.pid),
        )

    def _remembered(self, answers: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], str]:
        """The names of processes, by host and id: of one worker only what it said last."""
        now = time.monotonic()
        silent = {
            key: heard
            for key, heard in self._heard.items()
            if heard[0] not in answers and now - heard[1] < self._remembered_seconds
        }
        told = {(name.partition("@")[2], pid): (name, now) for name, pids in answers.items() for pid in pids}
        self._heard = silent | told
        return {key: name for key, (name, _) in self._heard.items()}
