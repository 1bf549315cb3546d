"""Whether more can be taken in: asked before anything of a body is read."""

from app.errors import QueueFull, StoreFull
from app.services.fresh import Fresh
from app.storage.database import Database
from app.storage.documents import has_room_in_queue
from app.storage.figures import sum_stored_bytes


class Admission:
    """The limits of the whole service, `MAX_QUEUED` and `MAX_STORE_BYTES` (0: no limit).

    Requests of about one second share what they are told: 500 at the same moment take one connection, and the
    store may get over its limit by what they bring. The queue is looked at again when a run gets its row.
    """

    def __init__(self, database: Database, *, max_queued: int, max_store_bytes: int) -> None:
        self._database = database
        self._max_store_bytes = max_store_bytes
        self._has_room = Fresh(self._look_at_queue)
        self._stored_bytes = Fresh(self._sum_up)
        self.max_queued = max_queued

    async def require_room(self, announced_bytes: int = 0) -> None:
        """For a new run with a file of its own. Raises QueueFull and StoreFull."""
        if not await self._has_room.get():
            raise QueueFull
        await self.require_store_room(announced_bytes)

    async def require_store_room(self, announced_bytes: int = 0) -> None:
        """For so many bytes more, one at least. Raises StoreFull."""
        if not self._max_store_bytes:
            return
        stored_bytes = await self._stored_bytes.get()
        if stored_bytes + max(announced_bytes, 1) > self._max_store_bytes:
            raise StoreFull(
                f"The files stored here have {stored_bytes:,} bytes; this server keeps no more than "
                f"{self._max_store_bytes:,} (MAX_STORE_BYTES)."
            )

    async def _look_at_queue(self) -> bool:
        async with self._database.autocommit() as connection:
            return await has_room_in_queue(connection, self.max_queued)

    async def _sum_up(self) -> int:
        async with self._database.autocommit() as connection:
            return await sum_stored_bytes(connection)
