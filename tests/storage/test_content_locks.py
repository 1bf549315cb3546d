"""Who decides about the same bytes waits for each other, and few locks do it."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.storage.database import Connection, Database
from app.storage.documents import MOST_CONTENT_LOCKS, lock_contents

ONE = [sha256(b"one").digest()]
OTHER = [sha256(b"other").digest()]
FEW = [sha256(b"%d" % number).digest() for number in range(MOST_CONTENT_LOCKS - 1)] + ONE
MANY = [sha256(b"%d" % number).digest() for number in range(999)] + ONE


@asynccontextmanager
async def locked(database: Database, collection: str, hashes: Collection[bytes]) -> AsyncIterator[Connection]:
    async with database.transaction() as connection:
        await lock_contents(connection, collection, hashes)
        yield connection


async def has_to_wait(database: Database, collection: str, hashes: Collection[bytes]) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5), locked(database, collection, hashes):
            return False
    return True


@pytest.mark.parametrize(("hashes", "most"), [(ONE, 2), (FEW, MOST_CONTENT_LOCKS + 1), (MANY, 1)])
async def test_few_locks_are_taken_however_many_files_there_are(
    database: Database, hashes: list[bytes], most: int
) -> None:
    async with locked(database, f"c-{uuid4()}", hashes) as connection:
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert await connection.scalar(text(count)) == most


@pytest.mark.parametrize("first", [ONE, FEW, MANY])
@pytest.mark.parametrize("second", [ONE, FEW, MANY])
async def test_the_same_bytes_are_decided_about_by_one_at_a_time(
    database: Database, first: list[bytes], second: list[bytes]
) -> None:
    collection = f"c-{uuid4()}"
    async with locked(database, collection, first):
        assert await has_to_wait(database, collection, second)
    assert not await has_to_wait(database, collection, second)


@pytest.mark.parametrize("first", [ONE, FEW])
async def test_other_bytes_and_other_collections_wait_for_nobody(
    database: Database, first: list[bytes]
) -> None:
    collection = f"c-{uuid4()}"
    async with locked(database, collection, first):
        assert not await has_to_wait(database, collection, OTHER)
        assert not await has_to_wait(database, f"{collection}-2", MANY)


async def test_requests_large_and_small_never_wait_in_a_circle(database: Database) -> None:
    collection = f"c-{uuid4()}"

    async def lock(hashes: list[bytes]) -> None:
        async with locked(database, collection, hashes):
            await asyncio.sleep(0.002)

    requests = [ONE, FEW, FEW[::-1], MANY, OTHER] * 8
    async with asyncio.timeout(60):
        await asyncio.gather(*map(lock, requests))
