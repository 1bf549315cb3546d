"""Whose turn it is, in a database of their own: what waits is asked of all runs."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.storage import documents, runs
from app.storage.database import Database
from app.storage.documents import FailedDocuments, NewIngestion
from app.storage.runs import Lease
from app.storage.runs.turns import BULK_TURNS, FREE_QUEUES, NEXT
from app.storage.tasks import list_queue

MAX_QUEUED = 1_000_000


async def ask(database: Database, collection: str, *, is_bulk: bool = False, account: str = "") -> UUID:
    ingestion_id = uuid7()
    new = NewIngestion(
        *(ingestion_id, collection, uuid4().bytes, 1, f"{ingestion_id}.pdf"),
        asked_by=account,
        is_bulk=is_bulk,
    )
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


async def served(database: Database, count: int, between: str = "") -> str:
    """The collections of the runs that are claimed one after the other; most names are letters."""
    leases = [await claim_next(database) for _ in range(count)]
    return between.join(lease.filename if lease else "-" for lease in leases)


async def test_who_comes_new_is_next_but_one_however_many_wait_in_another_collection(
    own_database: Database,
) -> None:
    await ask_many(own_database, "a", 30)
    assert await served(own_database, 3) == "aaa"
    await ask(own_database, "b")
    assert await served(own_database, 4) == "abaa"


async def test_collections_take_turns(own_database: Database) -> None:
    await ask_many(own_database, "a", 6)
    await ask_many(own_database, "b", 4)
    await ask_many(own_database, "c", 2)
    assert await served(own_database, 13) == "abcabcababaa-"


async def test_interactive_goes_before_bulk_which_still_has_a_turn_of_its_own(own_database: Database) -> None:
    await ask_many(own_database, "b", 3, is_bulk=True)
    await ask_many(own_database, "i", 2 * BULK_TURNS + 4)
    turn = "i" * BULK_TURNS + "b"
    assert await served(own_database, 2 * BULK_TURNS + 7) == "ib" + turn + turn + "iii"


async def test_bulk_of_two_collections_takes_turns_too(own_database: Database) -> None:
    await ask_many(own_database, "a", 4, is_bulk=True)
    assert await served(own_database, 1) == "a"
    await ask_many(own_database, "b", 2, is_bulk=True)
    order = await served(own_database, 5)
    assert sorted(order) == list("aaabb")
    assert order.index("b") <= 2


async def test_accounts_take_turns_in_one_collection_too(own_database: Database) -> None:
    first = [await ask(own_database, "shared", account="a") for _ in range(5)]
    second = [await ask(own_database, "shared", account="b") for _ in range(2)]
    leases = [await claim_next(own_database) for _ in range(7)]
    order = [lease.ingestion_id for lease in leases if lease]
    assert order == [first[0], second[0], first[1], second[1], *first[2:]]


@pytest.mark.parametrize("is_bulk", [False, True])
async def test_a_thousand_collections_gain_an_account_little(
    own_database: Database, *, is_bulk: bool
) -> None:
    for number in range(10 * FREE_QUEUES):
        await ask(own_database, f"x{number}", account="x", is_bulk=is_bulk)
    for _ in range(3):
        await ask(own_database, "b", account="b", is_bulk=is_bulk)
    order = "".join(name[0] for name in (await served(own_database, 10 * FREE_QUEUES + 3, ",")).split(","))
    assert [len(turn) <= FREE_QUEUES for turn in order.split("b")] == [True, True, True, False], order


async def test_failed_documents_of_many_collections_are_retried_in_turns(own_database: Database) -> None:
    for number in range(5 * FREE_QUEUES):
        await ask(own_database, f"x{number}", account="x")
    async with own_database.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET status = 'error', finished_at = now()"))
    async with own_database.transaction() as connection:
        ids = [uuid7() for _ in range(5 * FREE_QUEUES)]
        await documents.retry_failed(connection, FailedDocuments(), ids, MAX_QUEUED, asked_by="x")
    for _ in range(2):
        await ask(own_database, "b", account="b")
    order = (await served(own_database, 5 * FREE_QUEUES, ",")).split(",")
    assert order.index("b") <= FREE_QUEUES


async def test_the_queue_is_shown_in_the_order_in_which_it_is_served(own_database: Database) -> None:
    await ask_many(own_database, "b", 5, is_bulk=True)
    await ask_many(own_database, "i", 12)
    await ask_many(own_database, "j", 3)
    shown = list(await list_queue(own_database))
    leases = [await claim_next(own_database) for _ in shown]
    assert [lease.ingestion_id for lease in leases if lease] == shown


async def test_what_was_begun_goes_before_all_that_is_new(own_database: Database) -> None:
    await ask_many(own_database, "a", 3)
    first = await claim_next(own_database)
    assert first is not None
    await ask(own_database, "b")
    async with own_database.autocommit() as connection:
        await runs.release(connection, first)
    again = await claim_next(own_database)
    assert again is not None
    assert again.ingestion_id == first.ingestion_id


async def test_a_run_asked_for_by_its_path_is_left_to_its_own_message(own_database: Database) -> None:
    async with own_database.autocommit() as connection:
        await runs.ask_by_path(connection, uuid7(), uuid7(), "a.pdf", "/data/a.pdf")
    assert await claim_next(own_database) is None


async def test_nothing_is_begun_in_an_outage(own_database: Database) -> None:
    await ask(own_database, "a")
    async with own_database.autocommit() as connection:
        await connection.execute(text("INSERT INTO outages (service, reason) VALUES ('embedder', 'x')"))
    assert await claim_next(own_database) is None


async def test_those_that_claim_at_the_same_moment_take_different_runs(own_database: Database) -> None:
    await ask_many(own_database, "a", 40)
    leases = await asyncio.gather(*(claim_next(own_database) for _ in range(8)))
    assert len({lease.ingestion_id for lease in leases if lease}) == 8


async def test_failed_documents_that_are_retried_together_take_turns_with_others(
    own_database: Database,
) -> None:
    await ask_many(own_database, "a", 6)
    async with own_database.autocommit() as connection:
        await connection.execute(text("UPDATE ingestions SET status = 'error', finished_at = now()"))
    async with own_database.transaction() as connection:
        ids = [uuid7() for _ in range(6)]
        assert await documents.retry_failed(connection, FailedDocuments(), ids, MAX_QUEUED) == 6
    await ask(own_database, "b")
    assert await served(own_database, 3) == "aba"


async def test_the_next_is_found_along_an_index_in_a_long_queue(own_database: Database) -> None:
    async with own_database.transaction() as connection:
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
    async with own_database.autocommit() as connection:
        await connection.execute(text("ANALYZE"))
        rows = await connection.execute(
            text(f"EXPLAIN (ANALYZE) WITH {NEXT} SELECT id FROM next"), {"worker": "w"}
        )
        steps = [step for step in rows.scalars() if "->" in step and "never executed" not in step]
    assert [step for step in steps if "ix_ingestions_turns" in step]
    assert not [step for step in steps if "Sort" in step or "Seq Scan on ingestions" in step], steps
