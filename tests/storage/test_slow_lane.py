"""The slow lane, in a database of its own: what waits there is asked of all ingestions."""

from uuid import UUID, uuid4

from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import EmbeddingFailed
from app.storage import documents, runs, sweep
from app.storage.database import Database
from app.storage.documents import NewIngestion
from app.storage.runs import Lease


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


async def test_nobody_makes_way_while_nothing_waits(own_database: Database) -> None:
    slow = [await claimed(own_database) for _ in range(3)]
    assert all([await may_go_on(own_database, lease) for lease in slow])
    await release(own_database, slow[0])
    assert await claim(own_database, slow[0].ingestion_id), "it was never called slow"


async def test_nobody_makes_way_for_what_only_just_came(own_database: Database) -> None:
    first, second = await claimed(own_database), await claimed(own_database)
    await queued(own_database)
    async with own_database.autocommit() as connection:
        await connection.execute(  # ahead of time: on a busy machine half a second passes before we ask
            text("UPDATE ingestions SET created_at = clock_timestamp() + interval '1 minute'")
        )
    assert await may_go_on(own_database, first)
    assert await may_go_on(own_database, second)


async def made_way(database: Database, lease: Lease) -> UUID:
    await release(database, lease, is_slow=True)
    return lease.ingestion_id


async def wait_two_minutes(database: Database, ingestion_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET slow_since = slow_since - interval '2 minutes' WHERE id = :id"),
            {"id": ingestion_id},
        )


async def test_half_of_the_processes_may_be_slow_and_the_others_make_way(own_database: Database) -> None:
    first, second, third, _fourth = [await claimed(own_database) for _ in range(4)]
    await queued(own_database)
    assert await may_go_on(own_database, first)
    assert await may_go_on(own_database, second)
    assert not await may_go_on(own_database, third)
    assert await may_go_on(own_database, first), "it was slow before the others"
    await release(own_database, third, is_slow=True)
    assert await claim(own_database, third.ingestion_id) is None


async def test_of_two_processes_one_may_be_slow(own_database: Database) -> None:
    first, second = await claimed(own_database), await claimed(own_database)
    waiting = await queued(own_database)
    assert await may_go_on(own_database, first)
    assert not await may_go_on(own_database, second)
    slow = await made_way(own_database, second)
    assert await claim(own_database, slow) is None
    assert slow not in await rung(own_database)
    assert await claim(own_database, waiting)
    assert await claim(own_database, slow), "nothing else is due any more"


async def test_a_slow_file_has_its_turn_although_others_never_stop_coming(own_database: Database) -> None:
    """The other process is between two files when the slow one asks."""
    slow = await made_way(own_database, await claimed(own_database, "first process"))
    other = await claimed(own_database, "second process")
    await queued(own_database)
    async with own_database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET status = 'success' WHERE id = :id"), {"id": other.ingestion_id}
        )
    assert slow in await rung(own_database)
    assert await claim(own_database, slow, "first process")


async def test_slow_files_go_at_once_when_nothing_else_is_to_do(own_database: Database) -> None:
    leases = [await claimed(own_database) for _ in range(3)]
    ids = [await made_way(own_database, lease) for lease in leases]
    assert set(await rung(own_database)) == set(ids)
    assert all([await claim(own_database, slow) for slow in ids])


async def test_the_only_process_looks_at_slow_files_last(own_database: Database) -> None:
    slow = await claimed(own_database, "only")
    waiting = await queued(own_database)
    assert not await may_go_on(own_database, slow)
    await made_way(own_database, slow)
    assert await claim(own_database, slow.ingestion_id, "only") is None
    assert await rung(own_database) == []
    lease = await claim(own_database, waiting, "only")
    assert lease is not None
    async with own_database.autocommit() as connection:
        await runs.retry_later(connection, lease, EmbeddingFailed(), 60)
    assert await rung(own_database) == [slow.ingestion_id]
    assert await claim(own_database, slow.ingestion_id, "only")


async def test_after_two_minutes_of_waiting_a_slow_file_counts_as_any_other(own_database: Database) -> None:
    slow = await claimed(own_database, "only")
    await queued(own_database)
    await made_way(own_database, slow)
    await wait_two_minutes(own_database, slow.ingestion_id)
    again = await claim(own_database, slow.ingestion_id, "only")
    assert again is not None
    assert await may_go_on(own_database, again), "it need not make way a second time"


async def test_making_way_is_no_attempt(own_database: Database) -> None:
    slow = await claimed(own_database)
    async with own_database.autocommit() as connection:
        await runs.release(connection, slow, is_slow=True, is_counted=False)
    again = await claim(own_database, slow.ingestion_id)
    assert again is not None
    assert again.attempt == 1
