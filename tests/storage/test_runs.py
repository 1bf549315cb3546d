"""The fenced lease, on a real database: who may write, and what happens to everybody else."""

import asyncio
import dataclasses
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import Corrupted, EmbeddingFailed, LeaseLost, ReaderKilled, error_for_code
from app.pdf.pages import DocumentFacts
from app.services.sweeper import free
from app.storage import runs, sweep
from app.storage.chunks import Chunk
from app.storage.database import Connection, Database
from app.storage.languages import TextLanguage
from app.storage.runs import Lease, LostLease, Progress

FACTS = DocumentFacts(engine="pdfium", pages_total=9, title="A title")
DIMENSIONS = 256
ENGLISH = TextLanguage("en", "english")


@pytest.fixture
async def ingestion_id(database: Database) -> UUID:
    return await add_document(database)


async def add_document(database: Database, document_id: UUID | None = None) -> UUID:
    """A document with one queued ingestion, or a newer ingestion of a document."""
    ingestion_id = uuid7()
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, storage_key)"
                " VALUES (:id, :document_id, 'a.pdf', '', 1, :key)"
            ),
            {"id": ingestion_id, "document_id": document_id or ingestion_id, "key": f"{ingestion_id}.pdf"},
        )
        await connection.execute(
            text(
                "INSERT INTO documents (id, collection, latest_ingestion_id)"
                " VALUES (:document_id, 'leases', :id)"
                " ON CONFLICT (id) DO UPDATE SET latest_ingestion_id = :id"
            ),
            {"id": ingestion_id, "document_id": document_id or ingestion_id},
        )
    return ingestion_id


async def claim(database: Database, ingestion_id: UUID, holder: str | None = None) -> Lease | None:
    """By a process of its own, unless one is named."""
    async with database.autocommit() as connection:
        return await runs.claim(connection, ingestion_id, holder or str(uuid7()))


async def lose(
    database: Database, space_id: int, *leases: Lease, is_own_death: bool = False, with_expired: bool = False
) -> dict[UUID, float | None]:
    """Seconds of pause by ingestion, None for what has ended."""
    lost = [LostLease(lease.ingestion_id, lease.epoch, is_own_death) for lease in leases]
    rows = await free(database, space_id, lost, with_expired=with_expired)
    return {row.id: row.pause_seconds for row in rows}


async def make_due(database: Database, ingestion_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET next_attempt_at = clock_timestamp() WHERE id = :id"),
            {"id": ingestion_id},
        )


async def claimed(database: Database, ingestion_id: UUID) -> Lease:
    lease = await claim(database, ingestion_id)
    assert lease is not None
    return lease


async def store(database: Database, lease: Lease, space_id: int, first: int = 0, count: int = 3) -> None:
    async with database.autocommit() as connection:
        await store_through(connection, lease, space_id, first, count)


async def store_through(
    connection: Connection, lease: Lease, space_id: int, first: int = 0, count: int = 3
) -> None:
    chunks = [
        Chunk(
            ordinal=first + n,
            page_start=1,
            page_end=2,
            text=f"chunk {first + n}",
            tokens=2,
            boxes=((1, (0, 0, 9, 9)),),
        )
        for n in range(count)
    ]
    vectors = np.random.default_rng(first).normal(size=(count, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    await runs.store(
        *(connection, lease, space_id, chunks, vectors, Progress("embedding", 2)),
        language=ENGLISH,
        digest=b"hash",
    )


async def publish(database: Database, lease: Lease, space_id: int) -> int:
    async with database.autocommit() as connection:
        return await runs.publish(
            connection,
            lease,
            space_id,
            engines=["pdfium"],
            pages_failed=[4],
            pages_without_text=[5, 6],
            stage_seconds={"reading": 1.0},
        )


async def run_out(database: Database, ingestion_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE ingestions SET lease_expires_at = clock_timestamp() - interval '1 s' WHERE id = :id"
            ),
            {"id": ingestion_id},
        )


async def row_of(database: Database, ingestion_id: UUID):
    async with database.autocommit() as connection:
        return await runs.find(connection, ingestion_id)


async def count_rows(database: Database, space_id: int, ingestion_id: UUID) -> tuple[int, int]:
    async with database.transaction() as connection:
        return tuple(
            [
                await connection.scalar(
                    text(f"SELECT count(*) FROM {table} WHERE ingestion_id = :id"), {"id": ingestion_id}
                )
                for table in ("chunks", f"embeddings_{space_id}")
            ]
        )


@pytest.fixture(autouse=True, scope="module")
async def _postgres_is_up_for_longer_than_a_lease(database: Database) -> None:
    await asyncio.sleep(3.2)


async def test_of_many_deliveries_one_gets_the_lease(database: Database, ingestion_id: UUID) -> None:
    leases = await asyncio.gather(*(claim(database, ingestion_id, f"worker {n}") for n in range(8)))
    assert sum(lease is not None for lease in leases) == 1


async def test_stored_chunks_carry_their_vectors_and_show_in_the_row(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)
    await store(database, lease, space_id, first=3)
    row = await row_of(database, ingestion_id)
    assert (row.chunks, row.pages_done, row.stage) == (6, 2, "embedding")
    assert await count_rows(database, space_id, ingestion_id) == (6, 6)


async def test_a_lease_that_ran_out_is_taken_and_its_old_holder_changes_nothing(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    zombie = await claimed(database, ingestion_id)
    await store(database, zombie, space_id)
    assert await claim(database, ingestion_id) is None
    await run_out(database, ingestion_id)
    assert (await lose(database, space_id, with_expired=True))[ingestion_id] == 0
    taker = await claimed(database, ingestion_id)

    for attempt in (
        store(database, zombie, space_id, first=3),
        publish(database, zombie, space_id),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    async with database.autocommit() as connection:
        with pytest.raises(LeaseLost):
            await runs.fail(connection, zombie, space_id, Corrupted())
        with pytest.raises(LeaseLost):
            await runs.renew(connection, zombie, Progress())
    assert await count_rows(database, space_id, ingestion_id) == (3, 3)
    assert (await row_of(database, ingestion_id)).lease_epoch == taker.epoch


async def test_a_holder_whose_epoch_is_unchanged_goes_on_even_when_late(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await run_out(database, ingestion_id)
    await store(database, lease, space_id)
    assert await publish(database, lease, space_id) == 3


async def test_the_lease_of_a_dead_process_is_taken_at_once(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    assert await claim(database, ingestion_id) is None
    assert await lose(database, space_id, lease, is_own_death=True) == {ingestion_id: 0}
    assert await claim(database, ingestion_id) is not None
    assert await lose(database, space_id, lease, is_own_death=True) == {}


async def test_publishing_shows_the_new_version_and_removes_the_old_one(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    first = await claimed(database, ingestion_id)
    await store(database, first, space_id)
    await publish(database, first, space_id)

    newer_id = await add_document(database, document_id=ingestion_id)
    newer = await claimed(database, newer_id)
    await store(database, newer, space_id, count=2)
    assert await count_rows(database, space_id, ingestion_id) == (3, 3)
    assert await publish(database, newer, space_id) == 2

    assert await count_rows(database, space_id, ingestion_id) == (0, 0)
    assert await count_rows(database, space_id, newer_id) == (2, 2)
    async with database.transaction() as connection:
        live = await connection.scalar(
            text("SELECT live_ingestion_id FROM documents WHERE id = :id"), {"id": ingestion_id}
        )
        keys = await sweep.files_to_delete(connection, 1000)
    assert live == newer_id
    assert f"{ingestion_id}.pdf" in keys
    row = await row_of(database, newer_id)
    assert (row.status, row.pages_failed, row.pages_without_text) == ("success", [4], [5, 6])
    assert (await row_of(database, ingestion_id)).storage_key is None


async def test_a_version_that_is_not_the_newest_is_never_published(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    older = await claimed(database, ingestion_id)
    await store(database, older, space_id)
    await add_document(database, document_id=ingestion_id)
    with pytest.raises(LeaseLost):
        await publish(database, older, space_id)


async def test_a_verdict_removes_partial_chunks_and_the_password(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET password = 'x' WHERE id = :id"), {"id": ingestion_id}
        )
    lease = await claimed(database, ingestion_id)
    assert lease.password == b"x"
    await store(database, lease, space_id)
    async with database.autocommit() as connection:
        await runs.fail(connection, lease, space_id, Corrupted())
    row = await row_of(database, ingestion_id)
    assert (row.status, row.error_code, row.chunks, row.password) == ("error", "corrupted", 0, None)
    assert row.finished_at is not None
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)
    assert await claim(database, ingestion_id) is None


async def test_an_attempt_continues_behind_the_stored_chunks_only_with_the_same_recipe(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    async def begin(lease: Lease, recipe: str) -> int:
        async with database.autocommit() as connection:
            stored = await runs.begin(connection, lease, space_id, FACTS, recipe)
            assert stored.digest == (b"hash" if stored.count else b"")
            return stored.count

    lease = await claimed(database, ingestion_id)
    assert await begin(lease, "first recipe") == 0
    await store(database, lease, space_id)
    assert await begin(lease, "first recipe") == 3
    assert await begin(lease, "another recipe") == 0
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)
    await store(database, lease, space_id, count=1)
    assert (await row_of(database, ingestion_id)).title == "A title"


async def test_a_retry_waits_for_its_time_and_keeps_what_is_stored(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)
    async with database.autocommit() as connection:
        await runs.retry_later(connection, lease, EmbeddingFailed(), delay_seconds=5)
    assert (await row_of(database, ingestion_id)).status == "retrying"
    assert await claim(database, ingestion_id) is None
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET next_attempt_at = clock_timestamp() WHERE id = :id"),
            {"id": ingestion_id},
        )
    again = await claimed(database, ingestion_id)
    assert (again.retries, await count_rows(database, space_id, ingestion_id)) == (1, (3, 3))


async def test_released_work_can_be_claimed_at_once(database: Database, ingestion_id: UUID) -> None:
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await runs.release(connection, lease)
    assert await claim(database, ingestion_id) is not None


async def test_after_six_deaths_of_its_own_process_a_run_is_given_up(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    pauses = []
    for _ in range(6):
        await make_due(database, ingestion_id)
        lease = await claimed(database, ingestion_id)
        pauses.append((await lose(database, space_id, lease, is_own_death=True))[ingestion_id])
        row = await row_of(database, ingestion_id)
        assert row.status == {0: "queued", None: "error"}.get(pauses[-1], "retrying")
    assert pauses == [0, 1, 5, 20, 60, None]
    assert (row.error_code, row.attempt) == ("worker_lost", 6)
    assert error_for_code(row.error_code).retryable


async def test_before_the_pause_is_over_nobody_takes_what_died(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for _ in range(2):
        await lose(database, space_id, await claimed(database, ingestion_id), is_own_death=True)
    assert await claim(database, ingestion_id) is None
    async with database.transaction() as connection:
        assert ingestion_id not in await sweep.mark_announced(connection, 10_000, is_begun=True)
    await make_due(database, ingestion_id)
    async with database.transaction() as connection:
        assert ingestion_id in await sweep.mark_announced(connection, 10_000, is_begun=True)


async def test_a_whole_worker_that_dies_again_and_again_ends_no_run_that_makes_progress(
    database: Database, space_id: int
) -> None:
    ids = [await add_document(database) for _ in range(3)]
    for attempt in range(9):
        leases = [await claimed(database, ingestion_id) for ingestion_id in ids]
        for lease in leases:
            async with database.autocommit() as connection:
                await runs.renew(connection, lease, Progress("reading", attempt + 1, 20))
        assert await lose(database, space_id, *leases) == dict.fromkeys(ids, 0)
    assert [(await row_of(database, one)).deaths for one in ids] == [0, 0, 0]


async def test_the_death_of_a_whole_worker_neither_counts_nor_lengthens_the_pause(
    database: Database, space_id: int
) -> None:
    ids = [await add_document(database) for _ in range(2)]
    for attempt in range(20):
        for one in ids:
            await make_due(database, one)
        leases = [await claimed(database, one) for one in ids]
        expected = 0 if attempt < 2 else 3
        assert await lose(database, space_id, *leases) == dict.fromkeys(ids, expected)
    rows = [await row_of(database, one) for one in ids]
    assert [(row.losses, row.deaths) for row in rows] == [(20, 0)] * 2
    await make_due(database, ids[0])
    lease = await claimed(database, ids[0])
    assert await lose(database, space_id, lease, is_own_death=True) == {ids[0]: 0}, "the first of its own"


async def test_what_takes_its_whole_worker_along_each_time_has_an_end_too(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    pauses: list[float | None] = []
    while None not in pauses:
        await make_due(database, ingestion_id)
        lease = await claimed(database, ingestion_id)
        pauses.append((await lose(database, space_id, lease))[ingestion_id])
    assert pauses == [0, 0, *[3] * 27, None]
    assert (await row_of(database, ingestion_id)).error_code == "worker_lost"


async def test_messages_that_died_with_a_worker_are_sent_again_within_seconds(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    waiting = await add_document(database)
    await rung_at(database, waiting, rings=9, seconds_ago=3)
    lease = await claimed(database, ingestion_id)
    await lose(database, space_id, lease, is_own_death=True)
    async with database.autocommit() as connection:
        assert waiting not in await sweep.mark_announced(connection, 10_000)
    await lose(database, space_id, await claimed(database, ingestion_id))
    async with database.autocommit() as connection:
        assert waiting in await sweep.mark_announced(connection, 10_000)


async def rung_at(database: Database, ingestion_id: UUID, rings: int, seconds_ago: float) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE ingestions SET rings = :rings, rung_at = clock_timestamp()"
                " - make_interval(secs => :seconds) WHERE id = :id"
            ),
            {"id": ingestion_id, "rings": rings, "seconds": seconds_ago},
        )


async def test_what_was_lost_twice_goes_on_alone_in_its_process(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for _ in range(2):
        await lose(database, space_id, await claimed(database, ingestion_id))
    first, second = await add_document(database), await add_document(database)
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET created_at = now() - interval '1 hour' WHERE id = :id"),
            {"id": second},
        )
    beside = await claim(database, first, "threads")
    assert beside is not None
    assert await claim(database, ingestion_id, "threads") is None, "it would not be alone"
    async with database.autocommit() as connection:
        await runs.release(connection, beside)
    assert await claim(database, ingestion_id, "threads") is not None
    assert await claim(database, second, "threads") is None, "it is to be left alone"
    assert await claim(database, second, "another process") is not None


async def test_nothing_waits_longer_than_two_minutes_for_a_process_of_its_own(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for _ in range(2):
        await lose(database, space_id, await claimed(database, ingestion_id))
    assert await claim(database, await add_document(database), "more threads") is not None
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET next_attempt_at = now() - interval '121 s' WHERE id = :id"),
            {"id": ingestion_id},
        )
    assert await claim(database, ingestion_id, "more threads") is not None


async def test_deaths_between_which_something_was_stored_do_not_count(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for attempt in range(8):
        lease = await claimed(database, ingestion_id)
        await store(database, lease, space_id, first=attempt, count=1)
        assert await lose(database, space_id, lease, is_own_death=True) == {ingestion_id: 0}
    assert await claim(database, ingestion_id) is not None


async def test_pages_that_were_read_before_are_no_progress(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for _ in range(3):
        await make_due(database, ingestion_id)
        lease = await claimed(database, ingestion_id)
        async with database.autocommit() as connection:
            await runs.renew(connection, lease, Progress("reading", 7, 9))
        await lose(database, space_id, lease, is_own_death=True)
    row = await row_of(database, ingestion_id)
    assert (row.deaths, row.pages_done) == (3, 7)


async def test_an_attempt_that_its_own_worker_gives_up_counts_as_a_death(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    pauses = []
    for _ in range(6):
        await make_due(database, ingestion_id)
        lease = await claimed(database, ingestion_id)
        async with database.autocommit() as connection:
            pauses.append(await runs.requeue(connection, lease))
    assert pauses == [0, 1, 5, 20, 60, None]
    async with database.autocommit() as connection:
        await runs.fail(connection, lease, space_id, ReaderKilled("killed"))
    row = await row_of(database, ingestion_id)
    assert (row.error_code, row.error_message) == ("worker_lost", "killed")
    async with database.autocommit() as connection:
        with pytest.raises(LeaseLost):
            await runs.requeue(connection, lease)


async def test_requeueing_spares_leases_that_are_alive(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    earlier = dataclasses.replace(lease, epoch=lease.epoch - 1)
    assert ingestion_id not in await lose(database, space_id, earlier, with_expired=True)
    assert (await row_of(database, ingestion_id)).status == "processing"


async def test_a_time_limit_ends_an_ingestion_whoever_holds_it(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)
    async with database.autocommit() as connection:
        await runs.end(connection, ingestion_id, space_id, Corrupted())
        await runs.end(connection, ingestion_id, space_id, EmbeddingFailed())
    assert (await row_of(database, ingestion_id)).error_code == "corrupted"
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)
    with pytest.raises(LeaseLost):
        await store(database, lease, space_id, first=3)


async def test_what_is_being_stored_while_a_run_ends_goes_with_it(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)

    async def end() -> None:
        async with database.autocommit() as connection:
            await runs.end(connection, ingestion_id, space_id, Corrupted())

    async with database.transaction() as connection:
        await store_through(connection, lease, space_id)
        ending = asyncio.create_task(end())
        await asyncio.sleep(0.2)
        assert not ending.done()
    await ending
    assert (await row_of(database, ingestion_id)).status == "error"
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)


@pytest.mark.parametrize("way", ["end", "lose"])
async def test_who_is_stopped_while_ending_a_run_holds_no_lock_and_its_chunks_can_be_deleted(
    database: Database, space_id: int, ingestion_id: UUID, way: str
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)

    async def end() -> None:
        async with database.autocommit() as connection:
            await runs.end(connection, ingestion_id, space_id, Corrupted())

    await use_up_deaths(database, ingestion_id)
    async with database.transaction() as connection:  # it comes as far as the chunks
        await connection.execute(text("LOCK TABLE chunks IN EXCLUSIVE MODE"))
        ending = asyncio.create_task(
            end() if way == "end" else lose(database, space_id, lease, is_own_death=True)
        )
        await asyncio.sleep(0.5)
        row = await connection.execute(
            text("SELECT status, chunks FROM ingestions WHERE id = :id FOR UPDATE NOWAIT"),
            {"id": ingestion_id},
        )
        assert tuple(row.one()) == ("error", 3)
        ending.cancel()
        await asyncio.wait([ending])
    async with database.autocommit() as connection:
        assert ingestion_id in await runs.find_left_chunks(connection, 1000)
        await runs.delete_left_chunks(connection, space_id, [ingestion_id])
        assert ingestion_id not in await runs.find_left_chunks(connection, 1000)
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)


async def use_up_deaths(database: Database, ingestion_id: UUID) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET deaths = 5 WHERE id = :id"), {"id": ingestion_id}
        )


async def test_a_run_is_given_up_in_the_statement_that_finds_its_lease_lost(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    """A holder that is late, but not dead, has no moment in which its lease is good again and then failed."""
    lease = await claimed(database, ingestion_id)
    await use_up_deaths(database, ingestion_id)
    async with database.transaction() as connection:
        await connection.execute(text("LOCK TABLE chunks IN EXCLUSIVE MODE"))
        late = asyncio.create_task(lose(database, space_id, lease, is_own_death=True))
        await asyncio.sleep(0.5)
        with pytest.raises(LeaseLost):
            async with database.autocommit() as other:
                await runs.renew(other, lease, Progress("reading", 5))
    await late
    assert (await row_of(database, ingestion_id)).error_code == "worker_lost"


async def test_the_chunks_of_a_run_that_goes_on_or_is_served_are_never_left(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)
    for _ in range(2):
        async with database.autocommit() as connection:
            assert ingestion_id not in await runs.find_left_chunks(connection, 1000)
            await runs.delete_left_chunks(connection, space_id, [ingestion_id])
        assert await count_rows(database, space_id, ingestion_id) == (3, 3)
        if (await row_of(database, ingestion_id)).status == "processing":
            await publish(database, lease, space_id)


async def test_a_writer_stopped_in_its_middle_holds_no_lock(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    """A statement of its own is over when Postgres has run it, whatever the client does afterwards."""
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await runs.renew(connection, lease, Progress())  # the connection stays open, as if stopped here
        async with asyncio.timeout(1):
            assert await lose(database, space_id, lease) == {ingestion_id: 0}
            await claimed(database, ingestion_id)
        with pytest.raises(LeaseLost):
            await runs.renew(connection, lease, Progress())


async def test_what_has_no_message_is_rung_for_with_back_off(database: Database, ingestion_id: UUID) -> None:
    async def rung() -> bool:
        async with database.transaction() as connection:
            return ingestion_id in await sweep.mark_announced(connection, 10_000)

    assert not await rung(), "its own message is on its way"
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET created_at = now() - interval '2 s' WHERE id = :id"),
            {"id": ingestion_id},
        )
    assert await rung()
    assert not await rung()


async def test_what_was_begun_is_rung_for_apart_from_what_is_new(
    database: Database, ingestion_id: UUID
) -> None:
    await release_unfinished(database, ingestion_id)
    async with database.transaction() as connection:
        assert ingestion_id not in await sweep.mark_announced(connection, 10_000)
        assert ingestion_id in await sweep.mark_announced(connection, 10_000, is_begun=True)
        assert ingestion_id not in await sweep.mark_announced(connection, 10_000, is_begun=True)


async def release_unfinished(database: Database, ingestion_id: UUID) -> None:
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await runs.release(connection, lease)
