"""What a run stores tells its document's collection, wherever that is moved, and by whom."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.storage.chunks import embeddings_table
from app.storage.database import Database
from app.storage.documents import Change
from app.storage.runs.content import count_words
from tests.services.workshop import Workshop, pdf

CHUNKS = 40


@pytest.fixture
def workshop(database: Database, space_id: int, tmp_path: Path) -> Workshop:
    return Workshop(database, space_id, tmp_path)


async def ingest(workshop: Workshop, task_id: UUID) -> None:
    lease = await workshop.begin(task_id)
    await workshop.store(lease, count=CHUNKS)
    async with workshop.database.autocommit() as connection:
        await count_words(connection, lease, "report")
    await workshop.publish(lease)


async def collections_of(workshop: Workshop, task_id: UUID) -> dict[str, Sequence[str]]:
    """What the rows of a run tell, by table: names, `-` where there is none."""
    return {
        table: await workshop.scalars(
            f"""
            SELECT DISTINCT coalesce(name, '-') FROM {table} stored
                LEFT JOIN collections ON collections.id = collection_id
            WHERE ingestion_id = :id ORDER BY 1
            """,
            id=task_id,
        )
        for table in ("chunks", "document_words", embeddings_table(workshop.space_id))
    }


async def all_are_in(workshop: Workshop, task_id: UUID, collection: str) -> bool:
    return set(map(tuple, (await collections_of(workshop, task_id)).values())) == {(collection,)}


async def test_rows_tell_the_collection_and_follow_their_document(workshop: Workshop) -> None:
    added = await workshop.add(pdf())
    await ingest(workshop, added.task_id)
    assert await all_are_in(workshop, added.task_id, workshop.collection)
    elsewhere = f"c-{uuid4()}"
    await workshop.service.change(added.document_id, Change(collection=elsewhere))
    assert await all_are_in(workshop, added.task_id, elsewhere)


async def test_a_move_links_no_vector_anew(workshop: Workshop) -> None:
    """Where a row is written again in its own page, no index is touched."""
    added = await workshop.add(pdf())
    await ingest(workshop, added.task_id)
    pages = (
        "SELECT DISTINCT split_part(CAST(ctid AS text), ',', 1)"
        f" FROM {embeddings_table(workshop.space_id)} WHERE ingestion_id = :id ORDER BY 1"
    )
    before = await workshop.scalars(pages, id=added.task_id)
    for _ in range(3):
        await workshop.service.change(added.document_id, Change(collection=f"c-{uuid4()}"))
        assert await workshop.scalars(pages, id=added.task_id) == before


async def test_a_renamed_collection_keeps_its_number(workshop: Workshop) -> None:
    added = await workshop.add(pdf())
    await ingest(workshop, added.task_id)
    versions = f"SELECT xmin::text FROM {embeddings_table(workshop.space_id)} WHERE ingestion_id = :id"
    before = await workshop.scalars(versions, id=added.task_id)
    name = f"renamed-{uuid4()}"
    await workshop.scalars(
        "UPDATE collections SET name = :new WHERE name = :old RETURNING 1", new=name, old=workshop.collection
    )
    await workshop.scalars(
        "UPDATE documents SET collection = :name WHERE id = :id RETURNING 1", name=name, id=added.document_id
    )
    assert await workshop.scalars(versions, id=added.task_id) == before
    assert await all_are_in(workshop, added.task_id, name)


async def test_rows_of_a_version_before_have_no_number_and_stay_as_they_are(workshop: Workshop) -> None:
    added = await workshop.add(pdf())
    await ingest(workshop, added.task_id)
    for table in ("chunks", "document_words", embeddings_table(workshop.space_id)):
        await workshop.scalars(
            f"UPDATE {table} SET collection_id = NULL WHERE ingestion_id = :id RETURNING 1", id=added.task_id
        )
    await workshop.service.change(added.document_id, Change(collection=f"c-{uuid4()}"))
    stored = await collections_of(workshop, added.task_id)
    assert list(stored.values()) == [["-"]] * 3


@pytest.mark.parametrize("stored_before", [True, False])
async def test_a_run_in_work_goes_on_with_the_number_of_where_its_document_is_now(
    workshop: Workshop, stored_before: bool
) -> None:
    """A version that replaces another, moved between two of its statements."""
    added = await workshop.add(pdf())
    await ingest(workshop, added.task_id)
    newer = await workshop.replace(added.document_id, pdf())
    lease = await workshop.begin(newer.task_id)
    if stored_before:
        await workshop.store(lease)
    elsewhere = f"c-{uuid4()}"
    await workshop.service.change(added.document_id, Change(collection=elsewhere))
    assert await all_are_in(workshop, added.task_id, elsewhere)
    await workshop.store(lease, first=2 * stored_before)
    async with workshop.database.autocommit() as connection:
        await count_words(connection, lease, "report")
    assert await all_are_in(workshop, newer.task_id, elsewhere)


async def waits_for_lock(database: Database) -> None:
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'")
    async with asyncio.timeout(20), database.autocommit() as connection:
        while await connection.scalar(waiting) == 0:  # noqa: ASYNC110 - it happens in the server
            await asyncio.sleep(0.02)


async def test_what_begins_or_stores_while_its_document_moves_waits_for_the_number(
    workshop: Workshop,
) -> None:
    added = await workshop.add(pdf())
    move = text("UPDATE documents SET collection = :collection WHERE id = :id")
    names = [f"c-{uuid4()}" for _ in range(2)]
    async with workshop.database.transaction() as mover:
        claim = await workshop.claim(added.task_id)
        await mover.execute(move, {"collection": names[0], "id": added.document_id})
        beginning = asyncio.create_task(workshop.begin_reading(claim))
        await waits_for_lock(workshop.database)
    await beginning
    async with workshop.database.transaction() as mover:
        await mover.execute(move, {"collection": names[1], "id": added.document_id})
        storing = asyncio.create_task(workshop.store(claim))
        await waits_for_lock(workshop.database)
    await storing
    stored = await collections_of(workshop, added.task_id)
    stored.pop("document_words")
    assert list(stored.values()) == [[names[1]]] * 2
