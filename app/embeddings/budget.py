"""When an embedding server may be asked: what its limits, or its own words, leave room for."""

import asyncio
import time
from typing import Protocol

from app.embeddings.base import URGENT_SECONDS
from app.errors import EmbeddingFailed


class Budget(Protocol):
    """Whose turn it is to ask a server."""

    async def wait(self, tokens: int, *, is_urgent: bool) -> float:
        """Until a request with so many tokens may be sent; the seconds it took.

        Who is urgent goes first. Raises EmbeddingFailed, at once, where even that takes over URGENT_SECONDS.
        """
        ...

    async def pause(self, seconds: float, *, spares_urgent: bool = False) -> None:
        """The server wants to be left alone for so long; or it has room for what is urgent, and no more."""
        ...

    async def is_used_up(self) -> bool:
        """Whether a request would have to wait now."""
        ...


class NoBudget:
    """Of a server without known limits: all go at once, but for the pauses it has asked this process for."""

    def __init__(self) -> None:
        self._paused_until = 0.0
        self._urgent_paused_until = 0.0

    async def wait(self, tokens: int, *, is_urgent: bool) -> float:
        until = self._urgent_paused_until if is_urgent else self._paused_until
        seconds = max(0.0, until - time.monotonic())
        if is_urgent and seconds > URGENT_SECONDS:
            raise used_up(seconds)
        await asyncio.sleep(seconds)
        return seconds

    async def pause(self, seconds: float, *, spares_urgent: bool = False) -> None:
        until = time.monotonic() + seconds
        self._paused_until = max(self._paused_until, until)
        if not spares_urgent:
            self._urgent_paused_until = max(self._urgent_paused_until, until)

    async def is_used_up(self) -> bool:
        return self._paused_until > time.monotonic()


def used_up(seconds: float) -> EmbeddingFailed:
    return EmbeddingFailed(f"The embedding service takes no more requests for {seconds:.0f} seconds.")
