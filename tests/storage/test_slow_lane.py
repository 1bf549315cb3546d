"""The slow lane, in a database of its own: what waits there is asked of all ingestions."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.embedded import EmbeddedPostgres
from app.errors import EmbeddingFailed
from app.storage import documents, ingestions, sweep
from app.storage.database import Database
from app.storage.documents import NewIngestion
from app.storage.ingestions import Lease
from tests.databases import migrated


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = Database(await migrated(postgres, f"lane_{uuid4().hex}"))
    yield database
    await database.close()


async def queued(database: Database) -> UUID:
    """An ingestion that has waited for a while."""
    ingestion_id = uuid7()
    new = NewIngestion(ingestion_id, "a.pdf", uuid4().bytes, 1, f"{ingestion_id}.pdf")
    async with database.transaction() as connection:
        await documents.add_document(
            connection, uuid7(), "lane", None, new, max_queued=100, unless_known=False
        )
        await connection.execute(text("UPDATE ingestions SET created_at = created_at - interval '1 minute'"))
    return ingestion_id


async def claim(database: Database, ingestion_id: UUID) -> Lease | None:
    async with database.autocommit() as connection:
        return await ingestions.claim(connection, ingestion_id, "a worker")


async def claimed(database: Database) -> Lease:
    lease = await claim(database, await queued(database))
    assert lease is not None
    return lease


async def may_go_on(database: Database, lease: Lease) -> bool:
    async with database.autocommit() as connection:
        return await ingestions.enter_slow_lane(connection, lease)


async def hand_over(database: Database, lease: Lease, *, is_slow: bool = False) -> None:
    async with database.autocommit() as connection:
        await ingestions.hand_over(connection, lease, is_slow=is_slow)


async def rung(database: Database) -> list[UUID]:
    async with database.transaction() as connection:
        return list(await sweep.mark_rung(connection, 100, is_begun=True))


async def test_nobody_makes_way_while_nothing_waits(empty: Database) -> None:
    slow = [await claimed(empty) for _ in range(3)]
    assert all([await may_go_on(empty, lease) for lease in slow])
    await hand_over(empty, slow[0])
    assert await claim(empty, slow[0].ingestion_id), "it was never called slow"


async def test_nobody_makes_way_for_what_only_just_came(empty: Database) -> None:
    first, second = await claimed(empty), await claimed(empty)
    await queued(empty)
    async with empty.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET created_at = clock_timestamp()"))
    assert await may_go_on(empty, first)
    assert await may_go_on(empty, second)


async def test_one_slow_run_goes_on_and_the_others_make_way_for_what_waits(empty: Database) -> None:
    first, second, third = [await claimed(empty) for _ in range(3)]
    waiting = await queued(empty)
    assert await may_go_on(empty, first)
    assert not await may_go_on(empty, second)
    assert await may_go_on(empty, first), "it has the lane"
    await hand_over(empty, second, is_slow=True)
    assert await claim(empty, waiting)
    assert await may_go_on(empty, third), "nothing waits any more"


async def test_what_is_slow_waits_for_the_lane(empty: Database) -> None:
    first, second, third, other = [await claimed(empty) for _ in range(4)]
    await queued(empty)
    assert await may_go_on(empty, first)
    for lease in (second, third):
        assert not await may_go_on(empty, lease)
        await hand_over(empty, lease, is_slow=True)
        assert await claim(empty, lease.ingestion_id) is None
    assert await rung(empty) == []
    await hand_over(empty, first)
    assert await rung(empty) == [first.ingestion_id], "the oldest is next"
    assert await claim(empty, second.ingestion_id), "whoever comes first has it"
    assert await claim(empty, third.ingestion_id) is None
    assert await may_go_on(empty, other) is False


async def test_the_only_worker_takes_what_is_slow_when_nothing_else_waits(empty: Database) -> None:
    slow = await claimed(empty)
    waiting = await queued(empty)
    assert not await may_go_on(empty, slow), "it may be the only worker"
    await hand_over(empty, slow, is_slow=True)
    assert await claim(empty, slow.ingestion_id) is None
    assert await rung(empty) == []
    lease = await claim(empty, waiting)
    assert lease is not None
    async with empty.autocommit() as connection:
        await ingestions.retry_later(connection, lease, EmbeddingFailed(), 60)
    assert await rung(empty) == [slow.ingestion_id]
    again = await claim(empty, slow.ingestion_id)
    assert again is not None
    await queued(empty)
    assert await may_go_on(empty, again), "what waits is behind one slow file, not behind two"


async def test_two_in_the_lane_at_once_both_leave_it(empty: Database) -> None:
    first, second = await claimed(empty), await claimed(empty)
    await queued(empty)
    async with empty.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET is_slow = true WHERE status = 'processing'"))
    assert not await may_go_on(empty, first)
    assert not await may_go_on(empty, second)
