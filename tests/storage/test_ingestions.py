"""The fenced lease, on a real database: who may write, and what happens to everybody else."""

import asyncio
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import Corrupted, EmbeddingFailed, LeaseLost
from app.pdf.pages import DocumentFacts
from app.storage import ingestions, sweep
from app.storage.chunks import Chunk
from app.storage.database import Database
from app.storage.ingestions import Lease, Progress
from app.storage.languages import TextLanguage

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


async def claim(database: Database, ingestion_id: UUID, holder: str = "here", **options: int) -> Lease | None:
    async with database.autocommit() as connection:
        return await ingestions.claim(connection, ingestion_id, holder, **options)


async def claimed(database: Database, ingestion_id: UUID) -> Lease:
    lease = await claim(database, ingestion_id)
    assert lease is not None
    return lease


async def store(database: Database, lease: Lease, space_id: int, first: int = 0, count: int = 3) -> None:
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
    async with database.autocommit() as connection:
        await ingestions.store(
            *(connection, lease, space_id, chunks, vectors, Progress("embedding", 2)), language=ENGLISH
        )


async def publish(database: Database, lease: Lease, space_id: int) -> int:
    async with database.autocommit() as connection:
        return await ingestions.publish(
            connection,
            lease,
            space_id,
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
        return await ingestions.find(connection, ingestion_id)


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
    await run_out(database, ingestion_id)
    taker = await claimed(database, ingestion_id)

    for attempt in (
        store(database, zombie, space_id, first=3),
        publish(database, zombie, space_id),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    async with database.autocommit() as connection:
        with pytest.raises(LeaseLost):
            await ingestions.fail(connection, zombie, space_id, Corrupted())
        with pytest.raises(LeaseLost):
            await ingestions.renew(connection, zombie, Progress())
    assert await count_rows(database, space_id, ingestion_id) == (3, 3)
    assert (await row_of(database, ingestion_id)).lease_epoch == taker.epoch


async def test_a_holder_whose_epoch_is_unchanged_goes_on_even_when_late(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await run_out(database, ingestion_id)
    await store(database, lease, space_id)
    assert await publish(database, lease, space_id) == 3


async def test_the_lease_of_a_dead_process_is_taken_at_once(database: Database, ingestion_id: UUID) -> None:
    lease = await claimed(database, ingestion_id)
    assert await claim(database, ingestion_id) is None
    assert await claim(database, ingestion_id, dead_epoch=lease.epoch) is not None
    assert await claim(database, ingestion_id, dead_epoch=lease.epoch) is None


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
        await ingestions.fail(connection, lease, space_id, Corrupted())
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
            return await ingestions.begin(connection, lease, space_id, FACTS, recipe)

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
        await ingestions.retry_later(connection, lease, EmbeddingFailed(), delay_seconds=5)
    assert (await row_of(database, ingestion_id)).status == "retrying"
    assert await claim(database, ingestion_id) is None
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET next_attempt_at = clock_timestamp() WHERE id = :id"),
            {"id": ingestion_id},
        )
    again = await claimed(database, ingestion_id)
    assert (again.retries, await count_rows(database, space_id, ingestion_id)) == (1, (3, 3))


async def test_work_handed_over_can_be_claimed_at_once(database: Database, ingestion_id: UUID) -> None:
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await ingestions.hand_over(connection, lease)
    assert await claim(database, ingestion_id) is not None


async def test_a_worker_lost_three_times_without_storing_anything_is_the_verdict(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for attempt in range(3):
        lease = await claimed(database, ingestion_id)
        async with database.autocommit() as connection:
            found = await sweep.requeue_lost(connection, space_id, [(ingestion_id, lease.epoch)])
        assert [row.is_requeued for row in found if row.id == ingestion_id] == [attempt < 2]
    row = await row_of(database, ingestion_id)
    assert (row.status, row.error_code, row.attempt) == ("error", "worker_lost", 3)


async def test_lost_attempts_that_stored_something_do_not_count(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    for attempt in range(5):
        lease = await claimed(database, ingestion_id)
        await store(database, lease, space_id, first=attempt, count=1)
        async with database.autocommit() as connection:
            found = await sweep.requeue_lost(connection, space_id, [(ingestion_id, lease.epoch)])
        assert [row.is_requeued for row in found if row.id == ingestion_id] == [True]
    assert await claim(database, ingestion_id) is not None


async def test_requeueing_spares_leases_that_are_alive(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        found = await sweep.requeue_lost(connection, space_id, [(ingestion_id, lease.epoch - 1)])
    assert ingestion_id not in [row.id for row in found]
    assert (await row_of(database, ingestion_id)).status == "processing"


async def test_a_time_limit_ends_an_ingestion_whoever_holds_it(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    lease = await claimed(database, ingestion_id)
    await store(database, lease, space_id)
    async with database.autocommit() as connection:
        await ingestions.end(connection, ingestion_id, space_id, Corrupted())
        await ingestions.end(connection, ingestion_id, space_id, EmbeddingFailed())
    assert (await row_of(database, ingestion_id)).error_code == "corrupted"
    assert await count_rows(database, space_id, ingestion_id) == (0, 0)
    with pytest.raises(LeaseLost):
        await store(database, lease, space_id, first=3)


async def test_a_writer_stopped_in_its_middle_holds_no_lock(
    database: Database, space_id: int, ingestion_id: UUID
) -> None:
    """A statement of its own is over when Postgres has run it, whatever the client does afterwards."""
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await ingestions.renew(connection, lease, Progress())  # the connection stays open, as if stopped here
        async with asyncio.timeout(1):
            assert await claim(database, ingestion_id, dead_epoch=lease.epoch) is not None
        with pytest.raises(LeaseLost):
            await ingestions.renew(connection, lease, Progress())


async def test_what_has_no_message_is_rung_for_with_back_off(database: Database, ingestion_id: UUID) -> None:
    async def rung() -> bool:
        async with database.transaction() as connection:
            return ingestion_id in await sweep.mark_rung(connection, 10_000)

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
    await hand_over_unfinished(database, ingestion_id)
    async with database.transaction() as connection:
        assert ingestion_id not in await sweep.mark_rung(connection, 10_000)
        assert ingestion_id in await sweep.mark_rung(connection, 10_000, is_begun=True)
        assert ingestion_id not in await sweep.mark_rung(connection, 10_000, is_begun=True)


async def hand_over_unfinished(database: Database, ingestion_id: UUID) -> None:
    lease = await claimed(database, ingestion_id)
    async with database.autocommit() as connection:
        await ingestions.hand_over(connection, lease)
