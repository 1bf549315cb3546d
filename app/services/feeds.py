"""Many tasks followed together, as one stream shows them."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from app.storage.reach import EVERYTHING, Reach, like, like_name
from app.storage.tasks import TaskStatus


@dataclass(frozen=True, slots=True)
class Scope:
    """The tasks that are named; else those in work or waiting, of a collection if one is named.

    None but those in reach.
    """

    task_ids: frozenset[UUID] | None = None
    collection: str | None = None
    reach: Reach = EVERYTHING

    @property
    def patterns(self) -> frozenset[str | None]:
        """Of LIKE, one for each part that is looked at by itself; None: all collections together."""
        if self.collection is not None:
            return frozenset({like_name(self.collection)})
        return frozenset([None] if self.reach.collections is None else map(like, self.reach.collections))

    def has(self, status: TaskStatus) -> bool:
        return self.collection in (None, status.collection) and status.is_in(self.reach)


class Feed:
    """Tasks as they were read last, and what of them its one reader has not taken yet.

    Who reads slowly gets the newest of each task and skips what is past. Bounded: see `MOST_FOLLOWED`.
    """

    def __init__(self, wanted: Scope, statuses: Collection[TaskStatus]) -> None:
        self.wanted = wanted
        self._seen = {status.task_id: status for status in statuses if wanted.has(status)}
        self._untaken = dict(self._seen)
        self._changed = asyncio.Event()
        self._is_ended = self._is_complete()

    @property
    def asked_ids(self) -> set[UUID]:
        """Tasks it wants to see again, wherever they stand now."""
        return {task_id for task_id, status in self._seen.items() if not status.is_final}

    def show(self, statuses: Mapping[UUID, TaskStatus]) -> None:
        """What was read for all who follow; the feed takes what is its own."""
        own = {task_id: status for task_id, status in statuses.items() if self._is_own(status)}
        changed = {task_id: status for task_id, status in own.items() if self._is_news(status)}
        gone = self.asked_ids - own.keys()  # its row was removed: nobody will hear of it again
        kept = self._seen if self.wanted.task_ids is not None else {}
        self._seen = {task_id: status for task_id, status in (kept | own).items() if task_id not in gone}
        self._untaken |= changed
        self._is_ended = self._is_ended or self._is_complete()
        if changed or self._is_ended:
            self._changed.set()

    def end(self) -> None:
        """No more changes will be seen."""
        self._is_ended = True
        self._changed.set()

    async def changes(self) -> AsyncGenerator[TaskStatus]:
        """Each task as it is, and again at each change, to the end of all that are named."""
        while True:
            self._changed.clear()
            taken, self._untaken = self._untaken, {}
            for status in taken.values():
                yield status
            if self._untaken:
                continue
            if self._is_ended:
                return
            await self._changed.wait()

    def _is_own(self, status: TaskStatus) -> bool:
        if status.task_id in self._seen:
            return status.is_in(self.wanted.reach)
        return self.wanted.task_ids is None and self.wanted.has(status)

    def _is_news(self, status: TaskStatus) -> bool:
        seen = self._seen.get(status.task_id)
        return seen is None or (status != seen and status.revision >= seen.revision)

    def _is_complete(self) -> bool:
        return self.wanted.task_ids is not None and not self.asked_ids
