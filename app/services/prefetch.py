"""Prefetching: the next item of a slow source is made while the current one is used."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def prefetch(source: AsyncGenerator[T], depth: int = 1) -> AsyncIterator[AsyncGenerator[T]]:
    """Iterate `source` in a task of its own, at most `depth` items in front of the consumer.

    An error of the source is raised to the consumer after the items before it. Leaving the block
    closes the source, finished or not.
    """
    queue: asyncio.Queue[T | _End] = asyncio.Queue(depth)

    async def pull() -> None:
        end = _End()
        try:
            async with aclosing(source):
                async for item in source:
                    await queue.put(item)
        except Exception as error:  # noqa: BLE001 - it belongs to the consumer, who gets it
            end = _End(error)
        await queue.put(end)

    async def items() -> AsyncGenerator[T]:
        while not isinstance(item := await queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    puller = asyncio.create_task(pull())
    try:
        async with aclosing(items()) as made:
            yield made
    finally:
        puller.cancel()
        await asyncio.wait([puller])


class _End:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
