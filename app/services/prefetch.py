"""Prefetching: the next item of a slow source is made while the current one is used."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@asynccontextmanager
async def prefetch(source: AsyncGenerator[T], depth: int) -> AsyncIterator[AsyncGenerator[T]]:
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


@asynccontextmanager
async def in_order(
    source: AsyncGenerator[T], work: Callable[[T], Coroutine[Any, Any, R]], at_once: int
) -> AsyncIterator[AsyncGenerator[tuple[T, R]]]:
    """Each item with what `work` makes of it, in the order of the source; on so many, at least 3, at once.

    An error is raised to the consumer after the items before it. Leaving the block cancels what is at work.
    """
    working: set[asyncio.Task[R]] = set()

    async def begun() -> AsyncGenerator[tuple[T, asyncio.Task[R]]]:
        async with aclosing(source):
            async for item in source:
                task = asyncio.create_task(work(item))
                working.add(task)
                yield item, task

    async def done(items: AsyncGenerator[tuple[T, asyncio.Task[R]]]) -> AsyncGenerator[tuple[T, R]]:
        async for item, task in items:
            result = await task
            working.discard(task)
            yield item, result

    try:
        # One more waits for its place in the queue, and one for the consumer.
        async with prefetch(begun(), at_once - 2) as items, aclosing(done(items)) as results:
            yield results
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


class _End:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
