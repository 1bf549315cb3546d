"""Files on their way into the store, piece by piece."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.storage.files import FileStore

MEGABYTE = 1024 * 1024


async def parts(count: int, size: int = MEGABYTE, *, error: Exception | None = None) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 251]) * size
    if error is not None:
        raise error


async def cancel_upload(store: FileStore, megabytes_before: int) -> None:
    """Of `a.pdf`, when so much of it has come and no more does."""
    is_waiting = asyncio.Event()

    async def stalled_parts() -> AsyncIterator[bytes]:
        async for part in parts(megabytes_before):
            yield part
        is_waiting.set()
        await asyncio.sleep(60)

    upload = asyncio.create_task(store.write("a.pdf", stalled_parts()))
    await is_waiting.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
