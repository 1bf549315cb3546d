"""The fenced lease, on a real database: who may write, and what happens to everybody else."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any
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


class Run:
    """A queued run, and what processes do with it: each thing in a statement of its own."""

    def __init__(self, database: Database, space_id: int, id: UUID) -> None:  # noqa: A002 - it has one
        self.database, self.space_id, self.id = database, space_id, id

    async def another(self, document_id: UUID | None = None) -> "Run":
        """Of a document of its own, or a newer one of a document."""
        return Run(self.database, self.space_id, await add_document(self.database, document_id))

    async def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
        async with self.database.autocommit() as connection:
            return await function(connection, *arguments, **named)

    async def change(self, what: str, **values: Any) -> None:
        await self.call(changed, self.id, what, values)

    async def make_due(self) -> None:
        await self.change("next_attempt_at = clock_timestamp()")

    async def claim(self, holder: str | None = None) -> Lease | None:
        """By a process of its own, unless one is named."""
        return await self.call(runs.claim, self.id, holder or str(uuid7()))

    async def claimed(self) -> Lease:
        lease = await self.claim()
        assert lease is not None
        return lease

    async def claimed_after_its_pause(self) -> Lease:
        await self.make_due()
        return await self.claimed()

    async def renew(self, lease: Lease, *progress: Any) -> None:
        await self.call(runs.renew, lease, Progress(*progress))

    async def store(self, lease: Lease, first: int = 0, count: int = 3) -> None:
        await self.call(store, lease, self.space_id, first, count)

    async def publish(self, lease: Lease) -> int:
        lists = {"engines": ["pdfium"], "pages_failed": [4], "pages_without_text": [5, 6]}
        return await self.call(runs.publish, lease, self.space_id, **lists, stage_seconds={"reading": 1.0})

    async def end(self, error: Exception) -> None:
        await self.call(runs.end, self.id, self.space_id, error)

    async def lose(self, *leases: Lease, with_expired: bool = False) -> float | None:
        """Seconds of pause, None when it has ended."""
        return (await self.freed(*leases, with_expired=with_expired))[self.id]

    async def die(self, lease: Lease) -> float | None:
        """The same for a process that died while its worker lives."""
        return (await self.freed(lease, is_own_death=True))[self.id]

    async def freed(
        self, *leases: Lease, is_own_death: bool = False, with_expired: bool = False
    ) -> dict[UUID, float | None]:
        lost = [LostLease(lease.ingestion_id, lease.epoch, is_own_death) for lease in leases]
        rows = await free(self.database, self.space_id, lost, with_expired=with_expired)
        return {row.id: row.pause_seconds for row in rows}

    async def is_rung_for(self, **which: bool) -> bool:
        return self.id in await self.call(sweep.mark_announced, 10_000, **which)

    async def has_left_chunks(self) -> bool:
        return self.id in await self.call(runs.find_left_chunks, 1000)

    async def row(self) -> Any:
        return await self.call(runs.find, self.id)

    async def stored(self) -> tuple[int, ...]:
        """How many chunks, and how many vectors."""
        tables = ("chunks", f"embeddings_{self.space_id}")
        return tuple([await self.call(count_of, self.id, table) for table in tables])


async def add_document(database: Database, document_id: UUID | None) -> UUID:
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


async def changed(connection: Connection, id: UUID, what: str, values: dict[str, Any]) -> None:  # noqa: A002
    await connection.execute(text(f"UPDATE ingestions SET {what} WHERE id = :id"), {"id": id, **values})


async def count_of(connection: Connection, id: UUID, table: str) -> int:  # noqa: A002
    counted = text(f"SELECT count(*) FROM {table} WHERE ingestion_id = :id")
    return int(await connection.scalar(counted, {"id": id}) or 0)


async def store(connection: Connection, lease: Lease, space_id: int, first: int, count: int) -> None:
    boxes = ((1, (0, 0, 9, 9)),)
    chunks = [
        Chunk(ordinal=n, page_start=1, page_end=2, text=f"chunk {n}", tokens=2, boxes=boxes)
        for n in range(first, first + count)
    ]
    vectors = np.random.default_rng(first).normal(size=(count, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    step = Progress("embedding", 2)
    await runs.store(connection, lease, space_id, chunks, vectors, step, language=ENGLISH, digest=b"hash")


@pytest.fixture
async def run(database: Database, space_id: int) -> Run:
    return Run(database, space_id, await add_document(database, None))


@pytest.fixture(autouse=True, scope="module")
async def _postgres_is_up_for_longer_than_a_lease(database: Database) -> None:
    await asyncio.sleep(3.2)


async def test_of_many_deliveries_one_gets_the_lease(run: Run) -> None:
    leases = await asyncio.gather(*(run.claim(f"worker {n}") for n in range(8)))
    assert sum(lease is not None for lease in leases) == 1


async def test_stored_chunks_carry_their_vectors_and_show_in_the_row(run: Run) -> None:
    lease = await run.claimed()
    await run.store(lease)
    await run.store(lease, first=3)
    row = await run.row()
    assert (row.chunks, row.pages_done, row.stage) == (6, 2, "embedding")
    assert await run.stored() == (6, 6)


async def test_a_lease_that_ran_out_is_taken_and_its_old_holder_changes_nothing(run: Run) -> None:
    zombie = await run.claimed()
    await run.store(zombie)
    assert await run.claim() is None
    await run.change("lease_expires_at = clock_timestamp() - interval '1 s'")
    assert await run.lose(with_expired=True) == 0
    taker = await run.claimed()
    for attempt in (
        run.store(zombie, first=3),
        run.publish(zombie),
        run.call(runs.fail, zombie, run.space_id, Corrupted()),
        run.renew(zombie),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    assert await run.stored() == (3, 3)
    assert (await run.row()).lease_epoch == taker.epoch


async def test_a_holder_whose_epoch_is_unchanged_goes_on_even_when_late(run: Run) -> None:
    lease = await run.claimed()
    await run.change("lease_expires_at = clock_timestamp() - interval '1 s'")
    await run.store(lease)
    assert await run.publish(lease) == 3


async def test_the_lease_of_a_dead_process_is_taken_at_once(run: Run) -> None:
    lease = await run.claimed()
    assert await run.claim() is None
    assert await run.freed(lease, is_own_death=True) == {run.id: 0}
    assert await run.claim() is not None
    assert await run.freed(lease, is_own_death=True) == {}


async def test_publishing_shows_the_new_version_and_removes_the_old_one(run: Run) -> None:
    first = await run.claimed()
    await run.store(first)
    await run.publish(first)

    newer = await run.another(document_id=run.id)
    lease = await newer.claimed()
    await newer.store(lease, count=2)
    assert await run.stored() == (3, 3)
    assert await newer.publish(lease) == 2

    assert (await run.stored(), await newer.stored()) == ((0, 0), (2, 2))
    async with run.database.transaction() as connection:
        live = await connection.scalar(
            text("SELECT live_ingestion_id FROM documents WHERE id = :id"), {"id": run.id}
        )
        keys = await sweep.files_to_delete(connection, 1000)
    assert live == newer.id
    assert f"{run.id}.pdf" in keys
    row = await newer.row()
    assert (row.status, row.pages_failed, row.pages_without_text) == ("success", [4], [5, 6])
    assert (await run.row()).storage_key is None


async def test_a_version_that_is_not_the_newest_is_never_published(run: Run) -> None:
    older = await run.claimed()
    await run.store(older)
    await run.another(document_id=run.id)
    with pytest.raises(LeaseLost):
        await run.publish(older)


async def test_a_verdict_removes_partial_chunks_and_the_password(run: Run) -> None:
    await run.change("password = 'x'")
    lease = await run.claimed()
    assert lease.password == b"x"
    await run.store(lease)
    await run.call(runs.fail, lease, run.space_id, Corrupted())
    row = await run.row()
    assert (row.status, row.error_code, row.chunks, row.password) == ("error", "corrupted", 0, None)
    assert row.finished_at is not None
    assert await run.stored() == (0, 0)
    assert await run.claim() is None


async def test_an_attempt_continues_behind_the_stored_chunks_only_with_the_same_recipe(run: Run) -> None:
    async def begin(recipe: str) -> int:
        stored = await run.call(runs.begin, lease, run.space_id, FACTS, recipe)
        assert stored.digest == (b"hash" if stored.count else b"")
        return int(stored.count)

    lease = await run.claimed()
    assert await begin("first recipe") == 0
    await run.store(lease)
    assert await begin("first recipe") == 3
    assert await begin("another recipe") == 0
    assert await run.stored() == (0, 0)
    await run.store(lease, count=1)
    assert (await run.row()).title == "A title"


async def test_a_retry_waits_for_its_time_and_keeps_what_is_stored(run: Run) -> None:
    lease = await run.claimed()
    await run.store(lease)
    await run.call(runs.retry_later, lease, EmbeddingFailed(), delay_seconds=5)
    assert (await run.row()).status == "retrying"
    assert await run.claim() is None
    again = await run.claimed_after_its_pause()
    assert (again.retries, await run.stored()) == (1, (3, 3))


async def test_released_work_can_be_claimed_at_once(run: Run) -> None:
    await run.call(runs.release, await run.claimed())
    assert await run.claim() is not None


async def test_after_six_deaths_of_its_own_process_a_run_is_given_up(run: Run) -> None:
    pauses = []
    for _ in range(6):
        pauses.append(await run.die(await run.claimed_after_its_pause()))
        row = await run.row()
        assert row.status == {0: "queued", None: "error"}.get(pauses[-1], "retrying")
    assert pauses == [0, 1, 5, 20, 60, None]
    assert (row.error_code, row.attempt) == ("worker_lost", 6)
    assert error_for_code(row.error_code).retryable


async def test_before_the_pause_is_over_nobody_takes_what_died(run: Run) -> None:
    for _ in range(2):
        await run.die(await run.claimed())
    assert await run.claim() is None
    assert not await run.is_rung_for(is_begun=True)
    await run.make_due()
    assert await run.is_rung_for(is_begun=True)


async def test_a_whole_worker_that_dies_again_and_again_ends_no_run_that_makes_progress(run: Run) -> None:
    all_runs = [run, await run.another(), await run.another()]
    for attempt in range(9):
        leases = [await one.claimed() for one in all_runs]
        for lease in leases:
            await run.renew(lease, "reading", attempt + 1, 20)
        assert await run.freed(*leases) == {one.id: 0 for one in all_runs}
    assert [(await one.row()).deaths for one in all_runs] == [0, 0, 0]


async def test_the_death_of_a_whole_worker_neither_counts_nor_lengthens_the_pause(run: Run) -> None:
    both = [run, await run.another()]
    for attempt in range(20):
        leases = [await one.claimed_after_its_pause() for one in both]
        assert await run.freed(*leases) == {one.id: 0 if attempt < 2 else 3 for one in both}
    rows = [await one.row() for one in both]
    assert [(row.losses, row.deaths) for row in rows] == [(20, 0)] * 2
    assert await run.die(await run.claimed_after_its_pause()) == 0, "the first of its own"


async def test_what_takes_its_whole_worker_along_each_time_has_an_end_too(run: Run) -> None:
    pauses: list[float | None] = []
    while None not in pauses:
        pauses.append(await run.lose(await run.claimed_after_its_pause()))
    assert pauses == [0, 0, *[3] * 27, None]
    assert (await run.row()).error_code == "worker_lost"


async def test_messages_that_died_with_a_worker_are_sent_again_within_seconds(run: Run) -> None:
    waiting = await run.another()
    await waiting.change("rings = 9, rung_at = clock_timestamp() - interval '3 s'")
    await run.die(await run.claimed())
    assert not await waiting.is_rung_for()
    await run.lose(await run.claimed())
    assert await waiting.is_rung_for()


async def test_what_was_lost_twice_goes_on_alone_in_its_process(run: Run) -> None:
    for _ in range(2):
        await run.lose(await run.claimed())
    first, second = await run.another(), await run.another()
    await second.change("created_at = now() - interval '1 hour'")
    beside = await first.claim("threads")
    assert beside is not None
    assert await run.claim("threads") is None, "it would not be alone"
    await run.call(runs.release, beside)
    assert await run.claim("threads") is not None
    assert await second.claim("threads") is None, "it is to be left alone"
    assert await second.claim("another process") is not None


async def test_nothing_waits_longer_than_two_minutes_for_a_process_of_its_own(run: Run) -> None:
    for _ in range(2):
        await run.lose(await run.claimed())
    assert await (await run.another()).claim("more threads") is not None
    await run.change("next_attempt_at = now() - interval '121 s'")
    assert await run.claim("more threads") is not None


async def test_deaths_between_which_something_was_stored_do_not_count(run: Run) -> None:
    for attempt in range(8):
        lease = await run.claimed()
        await run.store(lease, first=attempt, count=1)
        assert await run.die(lease) == 0
    assert await run.claim() is not None


async def test_pages_that_were_read_before_are_no_progress(run: Run) -> None:
    for _ in range(3):
        lease = await run.claimed_after_its_pause()
        await run.renew(lease, "reading", 7, 9)
        await run.die(lease)
    row = await run.row()
    assert (row.deaths, row.pages_done) == (3, 7)


async def test_an_attempt_that_its_own_worker_gives_up_counts_as_a_death(run: Run) -> None:
    pauses = []
    for _ in range(6):
        lease = await run.claimed_after_its_pause()
        pauses.append(await run.call(runs.requeue, lease))
    assert pauses == [0, 1, 5, 20, 60, None]
    await run.call(runs.fail, lease, run.space_id, ReaderKilled("killed"))
    row = await run.row()
    assert (row.error_code, row.error_message) == ("worker_lost", "killed")
    with pytest.raises(LeaseLost):
        await run.call(runs.requeue, lease)


async def test_requeueing_spares_leases_that_are_alive(run: Run) -> None:
    lease = await run.claimed()
    earlier = dataclasses.replace(lease, epoch=lease.epoch - 1)
    assert run.id not in await run.freed(earlier, with_expired=True)
    assert (await run.row()).status == "processing"


async def test_a_time_limit_ends_an_ingestion_whoever_holds_it(run: Run) -> None:
    lease = await run.claimed()
    await run.store(lease)
    await run.end(Corrupted())
    await run.end(EmbeddingFailed())
    assert (await run.row()).error_code == "corrupted"
    assert await run.stored() == (0, 0)
    with pytest.raises(LeaseLost):
        await run.store(lease, first=3)


async def test_what_is_being_stored_while_a_run_ends_goes_with_it(run: Run) -> None:
    lease = await run.claimed()
    async with run.database.transaction() as connection:
        await store(connection, lease, run.space_id, first=0, count=3)
        ending = asyncio.create_task(run.end(Corrupted()))
        await asyncio.sleep(0.2)
        assert not ending.done()
    await ending
    assert (await run.row()).status == "error"
    assert await run.stored() == (0, 0)


@pytest.mark.parametrize("way", ["end", "die"])
async def test_who_is_stopped_while_ending_a_run_holds_no_lock_and_its_chunks_can_be_deleted(
    run: Run, way: str
) -> None:
    lease = await run.claimed()
    await run.store(lease)
    await run.change("deaths = 5")
    async with run.database.transaction() as connection:  # it comes as far as the chunks
        await connection.execute(text("LOCK TABLE chunks IN EXCLUSIVE MODE"))
        ending = asyncio.create_task(run.end(Corrupted()) if way == "end" else run.die(lease))
        await asyncio.sleep(0.5)
        row = await connection.execute(
            text("SELECT status, chunks FROM ingestions WHERE id = :id FOR UPDATE NOWAIT"), {"id": run.id}
        )
        assert tuple(row.one()) == ("error", 3)
        ending.cancel()
        await asyncio.wait([ending])
    assert await run.has_left_chunks()
    await run.call(runs.delete_left_chunks, run.space_id, [run.id])
    assert not await run.has_left_chunks()
    assert await run.stored() == (0, 0)


async def test_a_run_is_given_up_in_the_statement_that_finds_its_lease_lost(run: Run) -> None:
    """A holder that is late, but not dead, has no moment in which its lease is good again and then failed."""
    lease = await run.claimed()
    await run.change("deaths = 5")
    async with run.database.transaction() as connection:
        await connection.execute(text("LOCK TABLE chunks IN EXCLUSIVE MODE"))
        late = asyncio.create_task(run.die(lease))
        await asyncio.sleep(0.5)
        with pytest.raises(LeaseLost):
            await run.renew(lease, "reading", 5)
    await late
    assert (await run.row()).error_code == "worker_lost"


async def test_the_chunks_of_a_run_that_goes_on_or_is_served_are_never_left(run: Run) -> None:
    lease = await run.claimed()
    await run.store(lease)
    for status in ("processing", "success"):
        assert (await run.row()).status == status
        assert not await run.has_left_chunks()
        await run.call(runs.delete_left_chunks, run.space_id, [run.id])
        assert await run.stored() == (3, 3)
        if status == "processing":
            await run.publish(lease)


async def test_a_writer_stopped_in_its_middle_holds_no_lock(run: Run) -> None:
    """A statement of its own is over when Postgres has run it, whatever the client does afterwards."""
    lease = await run.claimed()
    async with run.database.autocommit() as connection:
        await runs.renew(connection, lease, Progress())  # the connection stays open, as if stopped here
        async with asyncio.timeout(1):
            assert await run.freed(lease) == {run.id: 0}
            await run.claimed()
        with pytest.raises(LeaseLost):
            await runs.renew(connection, lease, Progress())


async def test_what_has_no_message_is_rung_for_with_back_off(run: Run) -> None:
    assert not await run.is_rung_for(), "its own message is on its way"
    await run.change("created_at = now() - interval '2 s'")
    assert await run.is_rung_for()
    assert not await run.is_rung_for()


async def test_what_was_begun_is_rung_for_apart_from_what_is_new(run: Run) -> None:
    await run.call(runs.release, await run.claimed())
    assert not await run.is_rung_for()
    assert await run.is_rung_for(is_begun=True)
    assert not await run.is_rung_for(is_begun=True)
