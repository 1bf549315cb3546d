"""Following tasks: one query for everybody who waits, however many they are."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing, contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, replace
from uuid import UUID, uuid5

import structlog

from app.errors import TaskNotFound
from app.services.feeds import Feed, Scope
from app.storage.database import Database
from app.storage.reach import EVERYTHING, Reach
from app.storage.tasks import (
    TaskFilter,
    TaskPlace,
    TaskStatus,
    list_changes,
    list_queue,
    list_task_statuses,
    list_tasks,
)

_FOREIGN_TASK_IDS = UUID("5ba23f0e-7d0a-5c3e-9f5a-0d1c6f6c2f4b")  # fixed for ever: stored ids come from it
POLL_SECONDS = 0.25
_QUERY_TIMEOUT_SECONDS = 5.0
_NUMBERING_SECONDS = 1.0

log = structlog.get_logger(__name__)


def ingestion_id_of(task_id: str) -> UUID:
    """The ingestion of a Celery task: the same id; for one that is not a UUID, the uuid5 of its text."""
    try:
        return UUID(task_id)
    except ValueError:
        return uuid5(_FOREIGN_TASK_IDS, task_id)


class ProgressWatcher:
    """Answers where a task stands, at once, after a wait, or change by change.

    While anybody waits, one query every POLL_SECONDS reads the rows of all who wait; otherwise none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: dict[UUID, asyncio.Future[TaskStatus | None]] = {}
        self._answering: asyncio.Task[None] | None = None
        self._followed: dict[UUID, _Followed] = {}
        self._feeds: set[Feed] = set()
        self._places = _Places(database)
        self._poller: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._is_failing = False

    async def status(self, task_id: UUID) -> TaskStatus:
        """As it is after this call. Raises TaskNotFound.

        Who asks while a query runs shares the next one with all who do: however many ask, and however slow
        the database is, they take one of its connections.
        """
        answer = self._asked.setdefault(task_id, asyncio.get_running_loop().create_future())
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer(), context=Context())
        status = await asyncio.shield(answer)
        if status is None:
            raise TaskNotFound
        return status

    async def wait(self, task_id: UUID, seconds: float) -> TaskStatus:
        """The status once it is final, or as it is after `seconds`. Raises TaskNotFound."""
        status = await self.status(task_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(self._changes_after(status)) as changes:
                async for status in changes:  # noqa: B007 - the last one is the answer
                    pass
        return status

    async def events(self, task_id: UUID) -> AsyncGenerator[TaskStatus]:
        """The status now and after each change, to the final one. Raises TaskNotFound before the first."""
        status = await self.status(task_id)
        yield status
        async with aclosing(self._changes_after(status)) as changes:
            async for status in changes:
                yield status

    async def feed(self, wanted: Scope) -> Feed:
        """Many tasks to follow with `changes`. Raises TaskNotFound when none of those named exists."""
        if wanted.task_ids is None:
            return Feed(wanted, await self._read([], wanted.patterns))
        statuses = [status for status in await self._read(wanted.task_ids) if status.is_in(wanted.reach)]
        if not statuses:
            raise TaskNotFound
        return Feed(wanted, statuses)

    async def changes(self, feed: Feed) -> AsyncGenerator[TaskStatus]:
        """Each task of the feed as it is now, and again at each change, to the end of all that are named."""
        self._feeds.add(feed)
        self._begin_polling(feed)
        try:
            async with aclosing(feed.changes()) as changes:
                async for status in changes:
                    yield status
        finally:
            self._feeds.discard(feed)

    async def list_tasks(
        self, wanted: TaskFilter, after: TaskPlace | None, limit: int, reach: Reach = EVERYTHING
    ) -> list[TaskStatus]:
        """Those asked for last come first."""
        async with self._database.transaction(reach) as connection:
            statuses = await list_tasks(connection, wanted, after, limit, reach)
        return await self._placed(statuses)  # in a queue that is everybody's

    @property
    def followers(self) -> int:
        """Waits and streams that are open."""
        return len(self._feeds) + sum(followed.followers for followed in self._followed.values())

    def stop(self) -> None:
        """Ends all waits and streams where they stand, for good: the server is going down."""
        self._is_stopped = True
        if self._poller is not None:
            self._poller.cancel()
        followers: list[_Followed | Feed] = [*self._followed.values(), *self._feeds]
        for follower in followers:
            follower.end()

    async def close(self) -> None:
        self.stop()
        if running := [task for task in (self._poller, self._answering) if task is not None]:
            await asyncio.wait(running)

    async def _changes_after(self, status: TaskStatus) -> AsyncGenerator[TaskStatus]:
        """Only the newest: who reads slowly skips what is past."""
        with self._following(status.task_id) as followed:
            while not status.is_final and (change := await followed.change_after(status)):
                yield (status := change)

    @contextmanager
    def _following(self, task_id: UUID) -> Iterator["_Followed"]:
        followed = self._followed.setdefault(task_id, _Followed())
        followed.followers += 1
        self._begin_polling(followed)
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers:
                self._followed.pop(task_id, None)

    def _begin_polling(self, follower: "_Followed | Feed") -> None:
        if self._is_stopped:
            follower.end()
        elif self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), context=Context())  # of no one's request

    async def _poll(self) -> None:
        while self._followed or self._feeds:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._read_followed()
            except Exception as error:  # noqa: BLE001 - a database that hiccups must not end the waits of all
                if not self._is_failing:
                    log.warning("progress of tasks cannot be read", error=repr(error))
                self._is_failing = True
            else:
                self._is_failing = False

    async def _read_followed(self) -> None:
        asked, feeds = dict(self._followed), set(self._feeds)
        versions = {task_id: followed.version for task_id, followed in asked.items()}
        async with asyncio.timeout(_QUERY_TIMEOUT_SECONDS):
            for task_id, version, status in await list_changes(self._database, versions):
                asked[task_id].note(version, status)
            if any(followed.is_queued for followed in asked.values()):
                await self._places.number()
            statuses = await self._read_for(feeds) if feeds else {}
        for followed in asked.values():
            followed.show(self._places)
        for feed in feeds:
            feed.show(statuses)

    async def _read_for(self, feeds: Collection[Feed]) -> dict[UUID, TaskStatus]:
        task_ids = set[UUID]().union(*(feed.asked_ids for feed in feeds))
        of_collections = (feed.wanted.patterns for feed in feeds if feed.wanted.task_ids is None)
        collections = frozenset[str | None]().union(*of_collections)
        return {status.task_id: status for status in await self._read(task_ids, collections)}

    async def _answer(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                statuses = {status.task_id: status for status in await self._read(asked)}
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
                for answer in asked.values():
                    answer.set_exception(error)
                    answer.exception()  # whoever asked may be gone
                continue
            for task_id, answer in asked.items():
                answer.set_result(statuses.get(task_id))

    async def _read(
        self, task_ids: Collection[UUID], collections: Collection[str | None] = ()
    ) -> list[TaskStatus]:
        return await self._placed(await list_task_statuses(self._database, task_ids, collections))

    async def _placed(self, statuses: list[TaskStatus]) -> list[TaskStatus]:
        if any(status.status == "queued" for status in statuses):
            await self._places.number()
        return [self._places.placed(status) for status in statuses]


@dataclass(frozen=True, slots=True)
class VisibleTasks:
    """The tasks of a watcher as a caller sees them: one of a document out of reach is one that is not there.

    When a document leaves his reach, what he follows of it ends there.
    """

    watcher: ProgressWatcher
    reach: Reach

    async def status(self, task_id: UUID) -> TaskStatus:
        """As it is after this call. Raises TaskNotFound."""
        return self._visible(await self.watcher.status(task_id))

    async def wait(self, task_id: UUID, seconds: float) -> TaskStatus:
        """The status once it is final, or as it is after `seconds`. Raises TaskNotFound."""
        if self.reach.is_bound:
            await self.status(task_id)  # before it is waited for: that would tell that it is there
        return self._visible(await self.watcher.wait(task_id, seconds))

    async def events(self, task_id: UUID) -> AsyncGenerator[TaskStatus]:
        """The status now and after each change, to the final one. Raises TaskNotFound before the first."""
        is_known = False
        async with aclosing(self.watcher.events(task_id)) as statuses:
            async for status in statuses:
                if not status.is_in(self.reach):
                    break
                is_known = True
                yield status
        if not is_known:
            raise TaskNotFound

    async def feed(
        self, task_ids: frozenset[UUID] | None, collection: str | None
    ) -> AsyncGenerator[TaskStatus]:
        """Many tasks, each as it is now and at each change. Raises TaskNotFound: none of those named is."""
        feed = await self.watcher.feed(Scope(task_ids, collection, self.reach))
        return self.watcher.changes(feed)

    async def list_tasks(self, wanted: TaskFilter, after: TaskPlace | None, limit: int) -> list[TaskStatus]:
        """Those asked for last come first."""
        return await self.watcher.list_tasks(wanted, after, limit, self.reach)

    def _visible(self, status: TaskStatus) -> TaskStatus:
        if not status.is_in(self.reach):
            raise TaskNotFound
        return status


class _Places:
    """In the queue. Numbered once a second for all who ask: that reads the whole queue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places: dict[UUID, int] = {}
        self._numbered = -_NUMBERING_SECONDS
        self._numbering = asyncio.Lock()

    async def number(self) -> None:
        async with self._numbering:
            if time.monotonic() - self._numbered < _NUMBERING_SECONDS:
                return
            queue = await list_queue(self._database)
            self._places = {task_id: place for place, task_id in enumerate(queue, 1)}
            self._numbered = time.monotonic()

    def placed(self, status: TaskStatus) -> TaskStatus:
        """What came after the last numbering stands at the end."""
        place = self._places.get(status.task_id, len(self._places) + 1)
        if status.status != "queued" or status.queue_position == place:
            return status
        return replace(status, queue_position=place)


class _Followed:
    """A task that somebody follows, as last read."""

    def __init__(self) -> None:
        self.followers = 0
        self.version = 0
        self._row: TaskStatus | None = None
        self._status: TaskStatus | None = None
        self._changed = asyncio.Event()
        self._is_ended = False

    @property
    def is_queued(self) -> bool:
        return self._row is not None and self._row.status == "queued"

    def note(self, version: int, row: TaskStatus | None) -> None:
        """Of the last query; without a row there is nothing to follow."""
        self.version, self._row = version, row
        if row is None:
            self.end()

    def show(self, places: _Places) -> None:
        if self._row is None:
            return
        self._row = places.placed(self._row)
        if self._row is not self._status and self._row != self._status:
            self._status = self._row
            self._wake()

    def end(self) -> None:
        """No more changes will be seen."""
        self._is_ended = True
        self._wake()

    async def change_after(self, known: TaskStatus) -> TaskStatus | None:
        """The first status that is newer than `known`; None if none will come."""
        while not self._is_ended:
            status = self._status
            # One who came later may know more than the last query saw.
            if status is not None and status != known and status.revision >= known.revision:
                return status
            await self._changed.wait()
        return None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
