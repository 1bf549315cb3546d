"""What is costly to find out and good for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

FRESH_SECONDS = 1.0  # who asks more often gets what was found out last
MAX_LOAD = 0.05  # of the time: what takes 0.3 s to find out stays fresh for 6

T = TypeVar("T")


class Fresh(Generic[T]):
    """Found out at most once at a time, however many ask: they share what comes of it, an error too."""

    def __init__(self, find_out: Callable[[], Awaitable[T]], max_load: float = MAX_LOAD) -> None:
        self._find_out = find_out
        self._max_load = max_load
        self._finding_out: asyncio.Task[None] | None = None
        self._stale_at = 0.0
        self._found: T

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self._stale_at

    async def get(self) -> T:
        if not self.is_fresh:
            if self._finding_out is None:
                self._finding_out = asyncio.create_task(self._refresh())
                self._finding_out.add_done_callback(look_at_error)
            await asyncio.shield(self._finding_out)  # who asks no more does not stop it for the others
        return self._found

    async def _refresh(self) -> None:
        try:
            began = time.monotonic()
            self._found = await self._find_out()
            ended = time.monotonic()
            self._stale_at = ended + max(FRESH_SECONDS, (ended - began) / self._max_load)
        finally:
            self._finding_out = None


def look_at_error(task: asyncio.Task[Any]) -> None:
    """When done: an error is of those who wait; when none of them is left, asyncio must not complain."""
    if not task.cancelled():
        task.exception()
