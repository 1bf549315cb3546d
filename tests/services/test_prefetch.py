"""What is made ahead comes in order, is bounded, and ends with who asked for it."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from app.services import pipeline
from app.services.pipeline import FEWEST_CHUNKS, in_batches
from app.services.prefetch import in_order
from app.storage.chunks import Chunk

AT_ONCE = 4


async def numbers(made: list[int], count: int = 20) -> AsyncGenerator[int]:
    for number in range(count):
        made.append(number)
        yield number


async def test_results_come_in_order_however_long_each_takes() -> None:
    async def squared(number: int) -> int:
        await asyncio.sleep(0.02 if number % 3 == 0 else 0)
        return number**2

    async with in_order(numbers([]), squared, AT_ONCE) as results:
        assert [pair async for pair in results] == [(number, number**2) for number in range(20)]


async def test_no_more_is_at_work_than_allowed_and_that_much_is() -> None:
    working, most = 0, 0

    async def work(_: int) -> None:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.01)
        working -= 1

    async with in_order(numbers([]), work, AT_ONCE) as results:
        async for _ in results:
            pass
    assert most == AT_ONCE


async def test_a_consumer_that_takes_nothing_stops_the_source() -> None:
    made: list[int] = []
    async with in_order(numbers(made), asyncio.sleep, AT_ONCE):
        await asyncio.sleep(0.05)
    assert len(made) <= AT_ONCE


async def test_an_error_comes_after_the_results_before_it_and_ends_what_is_at_work() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        if number == 2:
            raise ValueError("the third")
        try:
            await asyncio.sleep(0 if number < 2 else 60)
        finally:
            ended.append(number)
        return number

    results: list[int] = []

    async def take() -> None:
        async with in_order(numbers([]), work, AT_ONCE) as made:
            async for _, result in made:
                results.append(result)

    with pytest.raises(ValueError, match="the third"):
        await take()
    assert results == [0, 1]
    assert ended[:2] == [0, 1]
    assert len(ended) > 2


def chunk(ordinal: int) -> Chunk:
    return Chunk(ordinal=ordinal, page_start=1, page_end=1, text="text", tokens=1)


async def pages(seconds: float, count: int) -> AsyncGenerator[list[Chunk]]:
    for number in range(count):
        await asyncio.sleep(seconds)
        yield [chunk(3 * number + place) for place in range(3)]


async def test_batches_are_full_but_for_the_last_one() -> None:
    batches = [batch async for batch in in_batches(pages(0, 50), 64)]
    assert [len(batch) for batch in batches] == [64, 64, 22]
    assert [one.ordinal for batch in batches for one in batch] == list(range(150))


async def test_what_is_read_slowly_does_not_wait_for_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BATCH_SECONDS", 0.01)
    batches = [batch async for batch in in_batches(pages(0.02, 6), 64)]
    assert [len(batch) for batch in batches] == [9, 9]
    assert all(len(batch) >= FEWEST_CHUNKS for batch in batches)
