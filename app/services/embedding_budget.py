"""The limits of an embedding server, kept by all processes of the fleet together."""

import asyncio
from contextlib import suppress

from app.embeddings.base import URGENT_SECONDS
from app.embeddings.budget import NoBudget, used_up
from app.errors import DatabaseUnavailable
from app.storage import embedding_budget
from app.storage.database import Database
from app.storage.embedding_budget import Turn


class ToldPauses(NoBudget):
    """Without limits: each process keeps its own pauses, and tells of them."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    async def pause(self, seconds: float, *, spares_urgent: bool = False) -> None:
        await super().pause(seconds, spares_urgent=spares_urgent)
        with suppress(DatabaseUnavailable):  # it is kept all the same
            async with self._database.autocommit() as connection:
                await embedding_budget.pause(connection, seconds, spares_urgent=spares_urgent)


class FleetBudget:
    """A `Budget` of requests and tokens a minute; 0: no limit.

    Turns come in the order of asking. A document asks for a few batches at a time, so a small one is behind a
    few batches of a large one, never behind all of them.
    """

    def __init__(self, database: Database, *, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._database = database
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0

    async def wait(self, tokens: int, *, is_urgent: bool) -> float:
        """Raises DatabaseUnavailable, too."""
        cost_seconds = max(self._seconds_a_request, tokens * self._seconds_a_token)
        if is_urgent:
            return await self._wait_urgently(cost_seconds)
        async with self._database.autocommit() as connection:
            turn = await embedding_budget.take_turn(connection, cost_seconds)
        return await self._wait_for(turn)

    async def pause(self, seconds: float, *, spares_urgent: bool = False) -> None:
        async with self._database.autocommit() as connection:
            await embedding_budget.pause(connection, seconds, spares_urgent=spares_urgent)

    async def is_used_up(self) -> bool:
        async with self._database.autocommit() as connection:
            return await embedding_budget.is_used_up(connection)

    async def _wait_urgently(self, cost_seconds: float) -> float:
        async with self._database.autocommit() as connection:
            seconds = await embedding_budget.take_urgent_turn(connection, cost_seconds, URGENT_SECONDS)
            if seconds is None:
                pause = await embedding_budget.find_pause(connection)
                raise used_up(max(URGENT_SECONDS, pause.urgent_seconds if pause else 0.0))
        await asyncio.sleep(seconds)
        return seconds

    async def _wait_for(self, turn: Turn) -> float:
        """Until it is there, however often something urgent comes first."""
        waited, left, known = 0.0, turn.seconds, turn.delayed_seconds
        while left > 0:
            await asyncio.sleep(left)
            waited += left
            async with self._database.autocommit() as connection:
                delayed = await embedding_budget.delayed_seconds(connection)
            left, known = delayed - known, delayed
        return waited
