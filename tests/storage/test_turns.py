"""Whose turn it is, in a database of their own: what waits is asked of all runs."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.local.embedded import EmbeddedPostgres
from app.storage import documents, runs
from app.storage.database import Database
from app.storage.documents import FailedDocuments, NewIngestion
from app.storage.runs import Lease
from app.storage.runs.turns import BULK_TURNS, NEXT
from app.storage.tasks import list_queue
from tests.databases import migrated

MAX_QUEUED = 1_000_000


@pytest.fixture
async def empty(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = Database(await migrated(postgres, f"turns_{uuid4().hex}"))
    yield database
    await database.close()


async def ask(database: Database, collection: str, *, is_bulk: bool = False) -> UUID:
    ingestion_id = uuid7()
    new = NewIngestion(ingestion_id, collection, uuid4().bytes, 1, f"{ingestion_id}.pdf", is_bulk=is_bulk)
    async with database.transaction() as connection:
        await documents.add_document(
            connection, uuid7(), collection, None, new, max_queued=MAX_QUEUED, unless_known=False
        )
    return ingestion_id


async def ask_many(database: Database, collection: str, count: int, *, is_bulk: bool = False) -> None:
    for _ in range(count):
        await ask(database, collection, is_bulk=is_bulk)


async def claim_next(database: Database, worker: str | None = None) -> Lease | None:
    async with database.autocommit() as connection:
        return await runs.claim_next(connection, worker or str(uuid4()))


async def served(database: Database, count: int) -> str:
    """The collections, whose names are letters, of the runs that are claimed one after the other."""
    leases = [await claim_next(database) for _ in range(count)]
    return "".join(lease.filename if lease else "-" for lease in leases)


async def test_who_comes_new_is_next_but_one_however_many_wait_in_another_collection(empty: Database) -> None:
    await ask_many(empty, "a", 30)
    assert await served(empty, 3) == "aaa"
    await ask(empty, "b")
    assert await served(empty, 4) == "abaa"


async def test_collections_take_turns(empty: Database) -> None:
    await ask_many(empty, "a", 6)
    await ask_many(empty, "b", 4)
    await ask_many(empty, "c", 2)
    assert await served(empty, 13) == "abcabcababaa-"


async def test_interactive_goes_before_bulk_which_still_has_a_turn_of_its_own(empty: Database) -> None:
    await ask_many(empty, "b", 3, is_bulk=True)
    await ask_many(empty, "i", 2 * BULK_TURNS + 4)
    turn = "i" * BULK_TURNS + "b"
    assert await served(empty, 2 * BULK_TURNS + 7) == "ib" + turn + turn + "iii"


async def test_bulk_of_two_collections_takes_turns_too(empty: Database) -> None:
    await ask_many(empty, "a", 4, is_bulk=True)
    assert await served(empty, 1) == "a"
    await ask_many(empty, "b", 2, is_bulk=True)
    order = await served(empty, 5)
    assert sorted(order) == list("aaabb")
    assert order.index("b") <= 2


async def test_the_queue_is_shown_in_the_order_in_which_it_is_served(empty: Database) -> None:
    await ask_many(empty, "b", 5, is_bulk=True)
    await ask_many(empty, "i", 12)
    await ask_many(empty, "j", 3)
    shown = list(await list_queue(empty))
    leases = [await claim_next(empty) for _ in shown]
    assert [lease.ingestion_id for lease in leases if lease] == shown


async def test_what_was_begun_goes_before_all_that_is_new(empty: Database) -> None:
    await ask_many(empty, "a", 3)
    first = await claim_next(empty)
    assert first is not None
    await ask(empty, "b")
    async with empty.autocommit() as connection:
        await runs.release(connection, first)
    again = await claim_next(empty)
    assert again is not None
    assert again.ingestion_id == first.ingestion_id


async def test_a_run_asked_for_by_its_path_is_left_to_its_own_message(empty: Database) -> None:
    async with empty.autocommit() as connection:
        await runs.ask_by_path(connection, uuid7(), uuid7(), "a.pdf", "/data/a.pdf")
    assert await claim_next(empty) is None


async def test_nothing_is_begun_in_an_outage(empty: Database) -> None:
    await ask(empty, "a")
    async with empty.autocommit() as connection:
        await connection.execute(text("INSERT INTO outages (service, reason) VALUES ('embedder', 'x')"))
    assert await claim_next(empty) is None


async def test_those_that_claim_at_the_same_moment_take_different_runs(empty: Database) -> None:
    await ask_many(empty, "a", 40)
    leases = await asyncio.gather(*(claim_next(empty) for _ in range(8)))
    assert len({lease.ingestion_id for lease in leases if lease}) == 8


async def test_failed_documents_that_are_retried_together_take_turns_with_others(empty: Database) -> None:
    await ask_many(empty, "a", 6)
    async with empty.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET status = 'error', finished_at = now()"))
    async with empty.transaction() as connection:
        ids = [uuid7() for _ in range(6)]
        assert await documents.retry_failed(connection, FailedDocuments(), ids, MAX_QUEUED) == 6
    await ask(empty, "b")
    assert await served(empty, 3) == "aba"


async def test_the_next_is_found_along_an_index_in_a_long_queue(empty: Database) -> None:
    async with empty.transaction() as connection:
        await connection.execute(
            text("""
            WITH asked AS (
                INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, queue, turn)
                SELECT gen_random_uuid(), gen_random_uuid(), 'a', '', 1, 'a', n
                FROM generate_series(1, 10000) AS n RETURNING id, document_id
            )
            INSERT INTO documents (id, collection, latest_ingestion_id) SELECT document_id, 'a', id FROM asked
            """)
        )
    async with empty.autocommit() as connection:
        await connection.execute(text("ANALYZE"))
        rows = await connection.execute(
            text(f"EXPLAIN (ANALYZE) WITH {NEXT} SELECT id FROM next"), {"worker": "w"}
        )
        steps = [step for step in rows.scalars() if "->" in step and "never executed" not in step]
    assert [step for step in steps if "ix_ingestions_turns" in step]
    assert not [step for step in steps if "Sort" in step or "Seq Scan on ingestions" in step], steps
