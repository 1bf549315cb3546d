"""Whether more can be taken in: asked before anything of a body is read."""

import asyncio
import time

from app.errors import QueueFull, StoreFull
from app.storage.database import Database
from app.storage.documents import has_room_in_queue
from app.storage.figures import sum_stored_bytes

FRESH_SECONDS = 1.0
# Of the database's time, since the sum is over every run: what takes 0.1 s stays fresh for 2.
MAX_LOAD = 0.05


class Admission:
    """The limits of the whole service, `MAX_QUEUED` and `MAX_STORE_BYTES` (0: no limit).

    What several requests bring within a second is not seen by each other: the store may get that much over
    its limit. The queue is looked at again when a run gets its row.
    """

    def __init__(self, database: Database, *, max_queued: int, max_store_bytes: int = 0) -> None:
        self._database = database
        self._max_store_bytes = max_store_bytes
        self._lock = asyncio.Lock()
        self._stored_bytes = 0
        self._stale_at = 0.0
        self.max_queued = max_queued

    async def require_room(self, announced_bytes: int = 0) -> None:
        """For a new run with a file of its own. Raises QueueFull and StoreFull."""
        async with self._database.autocommit() as connection:
            if not await has_room_in_queue(connection, self.max_queued):
                raise QueueFull
        await self.require_store_room(announced_bytes)

    async def require_store_room(self, announced_bytes: int = 0) -> None:
        """For so many bytes more, one at least. Raises StoreFull."""
        if not self._max_store_bytes:
            return
        async with self._lock:
            if time.monotonic() >= self._stale_at:
                await self._sum_up()
        if self._stored_bytes + max(announced_bytes, 1) > self._max_store_bytes:
            raise StoreFull(
                f"The files stored here have {self._stored_bytes:,} bytes; this server keeps no more than "
                f"{self._max_store_bytes:,} (MAX_STORE_BYTES)."
            )

    async def _sum_up(self) -> None:
        began = time.monotonic()
        async with self._database.autocommit() as connection:
            self._stored_bytes = await sum_stored_bytes(connection)
        ended = time.monotonic()
        self._stale_at = ended + max(FRESH_SECONDS, (ended - began) / MAX_LOAD)
