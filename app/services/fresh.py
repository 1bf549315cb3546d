"""What is costly to find out and good for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

FRESH_SECONDS = 1.0
"""Who asks more often gets what was found out last."""
MAX_LOAD = 0.05
"""Of the time: what takes 0.3 s to find out stays fresh for 6."""

T = TypeVar("T")


class Fresh(Generic[T]):
    """Found out at most once at a time, however many ask."""

    def __init__(self, find_out: Callable[[], Awaitable[T]], max_load: float = MAX_LOAD) -> None:
        self._find_out = find_out
        self._max_load = max_load
        self._lock = asyncio.Lock()
        self._stale_at = 0.0
        self._found: T

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self._stale_at

    async def get(self) -> T:
        async with self._lock:
            if not self.is_fresh:
                began = time.monotonic()
                self._found = await self._find_out()
                ended = time.monotonic()
                self._stale_at = ended + max(FRESH_SECONDS, (ended - began) / self._max_load)
            return self._found
