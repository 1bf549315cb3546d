import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.errors import PicturesBusy
from app.services.pictures import Renderings


class Drawing:
    """Draws pictures of so many bytes once it is allowed to, and counts them."""

    def __init__(self, size: int = 10, *, is_allowed: bool = True) -> None:
        self.count = 0
        self.allowed = asyncio.Event()
        self._size = size
        if is_allowed:
            self.allowed.set()

    async def __call__(self) -> bytes:
        self.count += 1
        await self.allowed.wait()
        return bytes(self._size)


async def started(
    renderings: Renderings, tag: str, draw: Callable[[], Awaitable[bytes]]
) -> asyncio.Task[bytes]:
    task = asyncio.create_task(renderings.picture(tag, draw))
    await asyncio.sleep(0)
    return task


async def test_all_who_wait_for_a_page_get_one_rendering() -> None:
    renderings, draw = Renderings(1_000, 1), Drawing(is_allowed=False)
    waiting = [await started(renderings, "page", draw) for _ in range(5)]
    waiting[0].cancel()
    await asyncio.sleep(0)
    draw.allowed.set()
    assert await asyncio.gather(*waiting[1:]) == [bytes(10)] * 4
    assert draw.count == 1


async def test_the_last_pictures_are_kept_up_to_so_many_bytes() -> None:
    renderings, draw = Renderings(30, 1), Drawing()
    for tag in ("one", "two", "three", "one", "four"):  # "two" has to go
        await renderings.picture(tag, draw)
    assert draw.count == 4
    await renderings.picture("one", draw)
    assert draw.count == 4
    await renderings.picture("two", draw)
    assert draw.count == 5
    too_large = Drawing(31)
    for _ in range(2):
        assert len(await renderings.picture("large", too_large)) == 31
    assert too_large.count == 2


async def test_more_pages_than_a_bound_are_refused_and_a_page_at_work_is_not() -> None:
    renderings, draw = Renderings(1_000, 2), Drawing(is_allowed=False)
    waiting = [await started(renderings, tag, draw) for tag in ("one", "two", "one")]
    with pytest.raises(PicturesBusy):
        await renderings.picture("three", draw)
    draw.allowed.set()
    await asyncio.gather(*waiting)
    assert await renderings.picture("three", draw) == bytes(10)


async def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    renderings = Renderings(1_000, 2)

    async def fail() -> bytes:
        await asyncio.sleep(0)
        raise PicturesBusy

    waiting = [await started(renderings, "page", fail) for _ in range(2)]
    assert [type(found) for found in await asyncio.gather(*waiting, return_exceptions=True)] == [
        PicturesBusy
    ] * 2
    assert await renderings.picture("page", Drawing()) == bytes(10)


async def test_closing_ends_what_is_at_work() -> None:
    renderings, draw = Renderings(1_000, 2), Drawing(is_allowed=False)
    waiting = await started(renderings, "page", draw)
    await renderings.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
