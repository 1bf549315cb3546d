"""The slow lane, in a database of its own: what waits there is asked of all ingestions."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import EmbeddingFailed
from app.local.embedded import EmbeddedPostgres
from app.storage import documents, runs, sweep
from app.storage.database import Database
from app.storage.documents import NewIngestion
from app.storage.runs import Lease
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


async def claim(database: Database, ingestion_id: UUID, worker: str | None = None) -> Lease | None:
    """By a process of its own, unless one is named."""
    async with database.autocommit() as connection:
        return await runs.claim(connection, ingestion_id, worker or str(uuid4()))


async def claimed(database: Database, worker: str | None = None) -> Lease:
    lease = await claim(database, await queued(database), worker)
    assert lease is not None
    return lease


async def may_go_on(database: Database, lease: Lease) -> bool:
    async with database.autocommit() as connection:
        return await runs.enter_slow_lane(connection, lease)


async def release(database: Database, lease: Lease, *, is_slow: bool = False) -> None:
    async with database.autocommit() as connection:
        await runs.release(connection, lease, is_slow=is_slow)


async def rung(database: Database) -> list[UUID]:
    async with database.transaction() as connection:
        return list(await sweep.mark_announced(connection, 100, is_begun=True))


async def test_nobody_makes_way_while_nothing_waits(empty: Database) -> None:
    slow = [await claimed(empty) for _ in range(3)]
    assert all([await may_go_on(empty, lease) for lease in slow])
    await release(empty, slow[0])
    assert await claim(empty, slow[0].ingestion_id), "it was never called slow"


async def test_nobody_makes_way_for_what_only_just_came(empty: Database) -> None:
    first, second = await claimed(empty), await claimed(empty)
    await queued(empty)
    async with empty.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET created_at = clock_timestamp()"))
    assert await may_go_on(empty, first)
    assert await may_go_on(empty, second)


async def made_way(database: Database, lease: Lease) -> UUID:
    await release(database, lease, is_slow=True)
    return lease.ingestion_id


async def wait_two_minutes(database: Database, ingestion_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET slow_since = slow_since - interval '2 minutes' WHERE id = :id"),
            {"id": ingestion_id},
        )


async def test_half_of_the_processes_may_be_slow_and_the_others_make_way(empty: Database) -> None:
    first, second, third, _fourth = [await claimed(empty) for _ in range(4)]
    await queued(empty)
    assert await may_go_on(empty, first)
    assert await may_go_on(empty, second)
    assert not await may_go_on(empty, third)
    assert await may_go_on(empty, first), "it was slow before the others"
    await release(empty, third, is_slow=True)
    assert await claim(empty, third.ingestion_id) is None


async def test_of_two_processes_one_may_be_slow(empty: Database) -> None:
    first, second = await claimed(empty), await claimed(empty)
    waiting = await queued(empty)
    assert await may_go_on(empty, first)
    assert not await may_go_on(empty, second)
    slow = await made_way(empty, second)
    assert await claim(empty, slow) is None
    assert slow not in await rung(empty)
    assert await claim(empty, waiting)
    assert await claim(empty, slow), "nothing else is due any more"


async def test_a_slow_file_has_its_turn_although_others_never_stop_coming(empty: Database) -> None:
    """The other process is between two files when the slow one asks."""
    slow = await made_way(empty, await claimed(empty, "first process"))
    other = await claimed(empty, "second process")
    await queued(empty)
    async with empty.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET status = 'success' WHERE id = :id"), {"id": other.ingestion_id}
        )
    assert slow in await rung(empty)
    assert await claim(empty, slow, "first process")


async def test_slow_files_go_at_once_when_nothing_else_is_to_do(empty: Database) -> None:
    leases = [await claimed(empty) for _ in range(3)]
    ids = [await made_way(empty, lease) for lease in leases]
    assert set(await rung(empty)) == set(ids)
    assert all([await claim(empty, slow) for slow in ids])


async def test_the_only_process_looks_at_slow_files_last(empty: Database) -> None:
    slow = await claimed(empty, "only")
    waiting = await queued(empty)
    assert not await may_go_on(empty, slow)
    await made_way(empty, slow)
    assert await claim(empty, slow.ingestion_id, "only") is None
    assert await rung(empty) == []
    lease = await claim(empty, waiting, "only")
    assert lease is not None
    async with empty.autocommit() as connection:
        await runs.retry_later(connection, lease, EmbeddingFailed(), 60)
    assert await rung(empty) == [slow.ingestion_id]
    assert await claim(empty, slow.ingestion_id, "only")


async def test_after_two_minutes_of_waiting_a_slow_file_counts_as_any_other(empty: Database) -> None:
    slow = await claimed(empty, "only")
    await queued(empty)
    await made_way(empty, slow)
    await wait_two_minutes(empty, slow.ingestion_id)
    again = await claim(empty, slow.ingestion_id, "only")
    assert again is not None
    assert await may_go_on(empty, again), "it need not make way a second time"


async def test_making_way_is_no_attempt(empty: Database) -> None:
    slow = await claimed(empty)
    async with empty.autocommit() as connection:
        await runs.release(connection, slow, is_slow=True, is_counted=False)
    again = await claim(empty, slow.ingestion_id)
    assert again is not None
    assert again.attempt == 1
