"""Doing something else meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` until the block ends. When it raises, the block is cancelled and the error raised here."""
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            yield
            working.cancel()
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
        raise error from error.__cause__
