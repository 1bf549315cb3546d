"""Collections on a real database: what the database notes by itself, renaming, and deleting in steps."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import CollectionExists, CollectionNotFound, DocumentNotFound, TaskNotFound
from app.services.collection_service import CollectionService, delete_doomed, delete_expired
from app.storage import collections
from app.storage.collections import CollectionFields, Deletion
from app.storage.database import Database
from app.storage.documents import Change
from app.storage.doomed import IS_DOOMED
from tests.services.workshop import Workshop, pdf


@pytest.fixture
def service(database: Database) -> CollectionService:
    return CollectionService(database)


async def names_of(workshop: Workshop, *document_ids: UUID) -> set[tuple[str, str | None]]:
    """(name noted with the document, name of the collection whose id is noted) of each."""
    async with workshop.database.transaction() as connection:
        rows = await connection.execute(
            text("""
            SELECT collection, name FROM documents LEFT JOIN collections ON collections.id = collection_id
            WHERE documents.id = ANY(:ids)
            """),
            {"ids": list(document_ids)},
        )
        return {(row.collection, row.name) for row in rows}


async def delete_all_doomed(workshop: Workshop) -> None:
    await delete_doomed(workshop.database, workshop.space_id, at_once=2)


async def test_a_document_makes_its_collection_with_an_id_of_this_moment(
    workshop: Workshop, service: CollectionService
) -> None:
    earlier = uuid7()
    added = await workshop.add(pdf())
    await asyncio.sleep(0.002)
    counted = await service.find(workshop.collection)
    assert earlier < counted.collection.id < uuid7()
    assert (counted.collection.id.version, counted.documents) == (7, {"queued": 1})
    assert await names_of(workshop, added.document_id) == {(workshop.collection,) * 2}


async def test_many_who_name_a_new_collection_at_the_same_moment_make_one(workshop: Workshop) -> None:
    together = asyncio.Barrier(8)
    added = await asyncio.gather(*(workshop.add_all([pdf()], together=together) for _ in range(8)))
    ids = [file.document_id for (file,) in added]
    assert await names_of(workshop, *ids) == {(workshop.collection,) * 2}
    assert (
        len(
            await workshop.scalars(
                "SELECT DISTINCT collection_id FROM documents WHERE id = ANY(:ids)", ids=ids
            )
        )
        == 1
    )


async def test_a_moved_document_is_noted_in_the_other_collection(workshop: Workshop) -> None:
    added = await workshop.add(pdf())
    other = f"other-{uuid4()}"
    await workshop.service.change(added.document_id, Change(collection=other))
    assert await names_of(workshop, added.document_id) == {(other, other)}


async def test_a_renamed_collection_takes_its_documents_along(
    workshop: Workshop, service: CollectionService
) -> None:
    content = pdf()
    added = await workshop.add(content)
    before = await service.find(workshop.collection)
    name = f"renamed-{uuid4()}"
    after = await service.change(workshop.collection, name, {})
    assert (after.collection.id, after.documents) == (before.collection.id, {"queued": 1})
    assert await names_of(workshop, added.document_id) == {(name, name)}
    again = await workshop.add(content, collection=name)
    assert (again.document_id, again.is_duplicate) == (added.document_id, True)
    with pytest.raises(CollectionNotFound):
        await service.find(workshop.collection)


async def test_no_collection_is_given_the_name_of_another(
    workshop: Workshop, service: CollectionService
) -> None:
    taken = f"taken-{uuid4()}"
    await service.create(taken, CollectionFields())
    added = await workshop.add(pdf())
    with pytest.raises(CollectionExists):
        await service.change(workshop.collection, taken, {})
    with pytest.raises(CollectionExists):
        await service.create(workshop.collection, CollectionFields())
    assert await names_of(workshop, added.document_id) == {(workshop.collection,) * 2}


async def test_the_same_bytes_uploaded_while_a_collection_is_renamed_are_one_document(
    workshop: Workshop, service: CollectionService
) -> None:
    for _ in range(5):
        old, new, content = f"old-{uuid4()}", f"new-{uuid4()}", pdf()
        first = await workshop.add(content, collection=old)
        renamed, *_ = await asyncio.gather(
            service.change(old, new, {}),
            workshop.add(content, collection=new),
            workshop.add(content, collection=old),
            return_exceptions=True,
        )
        rows = await workshop.scalars(
            "SELECT collection FROM documents WHERE collection IN (:old, :new)", old=old, new=new
        )
        assert sorted(rows) == sorted(set(rows)), "two documents of the same bytes in one collection"
        ids = await workshop.scalars(
            "SELECT id FROM documents WHERE collection IN (:old, :new)", old=old, new=new
        )
        assert {(name, name) for name in rows} == await names_of(workshop, *ids)
        assert first.document_id in ids
        if isinstance(renamed, CollectionExists):
            assert set(rows) == {old, new}


async def test_what_is_said_of_a_collection_changes_field_by_field(
    workshop: Workshop, service: CollectionService
) -> None:
    fields = CollectionFields("for tests", {"a": 1}, "de", 30)
    await service.create(workshop.collection, fields)
    await service.change(workshop.collection, None, {"language": None, "metadata": {"b": 2}})
    kept = (await service.find(workshop.collection)).collection
    assert (kept.description, kept.metadata, kept.language, kept.expires_after_days) == (
        "for tests",
        {"b": 2},
        None,
        30,
    )


async def test_a_deleted_collection_goes_with_all_its_documents(
    workshop: Workshop, service: CollectionService
) -> None:
    ready, queued, working = [await workshop.add(pdf()) for _ in range(3)]
    await workshop.ingest(ready.task_id)
    lease = await workshop.begin(working.task_id)
    await workshop.store(lease)
    deletion = await service.delete(workshop.collection)
    assert (deletion.documents_total, deletion.documents_done) == (3, 0)
    assert deletion.finished_at is None
    await delete_all_doomed(workshop)
    done = await service.deletion(deletion.id)
    assert (done.documents_done, done.finished_at is not None) == (3, True)
    assert await workshop.count_documents() == 0
    for file in (ready, queued, working):
        assert await workshop.count_chunks(file.task_id) == (0, 0)
    assert (await workshop.row(queued.task_id)).status == "cancelled"
    gone = await workshop.scalars("SELECT storage_key FROM files_to_delete")
    assert {f"{file.task_id}.pdf" for file in (ready, queued, working)} <= set(gone)
    assert (
        await workshop.scalars("SELECT id FROM collections WHERE id = :id", id=deletion.collection_id) == []
    )


async def test_an_upload_after_the_deletion_was_asked_for_makes_a_new_collection(
    workshop: Workshop, service: CollectionService
) -> None:
    content = pdf()
    doomed = await workshop.add(content)
    await workshop.ingest(doomed.task_id)
    deletion = await service.delete(workshop.collection)
    for on_duplicate in ("return", "replace", "keep"):
        added = await workshop.add(content, on_duplicate=on_duplicate)
        assert added.document_id != doomed.document_id, on_duplicate
    assert (await service.find(workshop.collection)).collection.id != deletion.collection_id
    await delete_all_doomed(workshop)
    assert await workshop.count_documents() == 2  # `return` and `replace` are one
    assert (await service.deletion(deletion.id)).documents_done == 1


async def test_a_document_that_goes_with_its_collection_takes_no_new_version(
    workshop: Workshop, service: CollectionService
) -> None:
    doomed = await workshop.add(pdf())
    await workshop.fail(doomed.task_id)
    await service.delete(workshop.collection)
    with pytest.raises(DocumentNotFound):
        await workshop.replace(doomed.document_id, pdf())
    with pytest.raises(DocumentNotFound):
        await workshop.service.retry(doomed.document_id)
    with pytest.raises(DocumentNotFound):
        await workshop.service.change(doomed.document_id, Change(collection=f"rescue-{uuid4()}"))
    await delete_all_doomed(workshop)


async def test_who_has_the_name_next_does_not_count_what_waits_to_be_deleted(
    workshop: Workshop, service: CollectionService
) -> None:
    await workshop.add(pdf())
    await service.delete(workshop.collection)
    await workshop.add(pdf())
    assert await workshop.service.cancel_waiting(workshop.collection) == 1
    await delete_all_doomed(workshop)


async def test_a_deletion_waits_for_a_document_on_its_way_in_and_takes_it_along(
    workshop: Workshop, service: CollectionService
) -> None:
    await workshop.add(pdf())
    name = workshop.collection
    async with workshop.database.transaction() as uploading:
        made = await workshop.add(pdf(), collection=f"elsewhere-{uuid4()}")
        await uploading.execute(
            text("UPDATE documents SET collection = :name WHERE id = :id"),
            {"name": name, "id": made.document_id},
        )
        deleting = asyncio.create_task(service.delete(name))
        await asyncio.sleep(0.5)
        assert not deleting.done(), "the document on its way in was not waited for"
    deletion = await asyncio.wait_for(deleting, 10)
    assert deletion.documents_total == 2
    await delete_all_doomed(workshop)
    assert (await service.deletion(deletion.id)).documents_done == 2


async def test_a_deletion_is_gone_on_with_wherever_it_was_stopped(
    workshop: Workshop, service: CollectionService
) -> None:
    for _ in range(12):
        await workshop.add(pdf())
    deletion = await service.delete(workshop.collection)
    done: list[int] = []

    async def progress() -> Deletion:
        return await service.deletion(deletion.id)

    while (now := await progress()).finished_at is None:
        deleting = asyncio.create_task(delete_all_doomed(workshop))
        while not deleting.done() and (await progress()).documents_done <= now.documents_done:
            pass
        if len(done) < 4:
            deleting.cancel()  # as a process that is killed
        await asyncio.gather(deleting, return_exceptions=True)
        done.append((await progress()).documents_done)
    assert len(done) > 2, "it was not stopped on its way"
    assert done == sorted(done)
    assert (now.documents_done, await workshop.count_documents()) == (12, 0)


async def test_two_that_delete_at_once_count_each_document_once(
    workshop: Workshop, service: CollectionService
) -> None:
    for _ in range(10):
        await workshop.add(pdf())
    deletion = await service.delete(workshop.collection)
    await asyncio.gather(*(delete_all_doomed(workshop) for _ in range(3)))
    await delete_all_doomed(workshop)
    assert (await service.deletion(deletion.id)).documents_done == 10


async def test_a_document_that_somebody_holds_keeps_its_collection_until_it_is_free(
    workshop: Workshop, service: CollectionService
) -> None:
    held = await workshop.add(pdf())
    await workshop.add(pdf())
    deletion = await service.delete(workshop.collection)
    async with workshop.database.transaction() as holding:
        await holding.execute(
            text("SELECT FROM documents WHERE id = :id FOR UPDATE"), {"id": held.document_id}
        )
        await asyncio.wait_for(delete_all_doomed(workshop), 10)
        still = await service.deletion(deletion.id)
        assert (still.documents_done, still.finished_at) == (1, None)
    await delete_all_doomed(workshop)
    assert (await service.deletion(deletion.id)).finished_at is not None


async def test_a_small_collection_that_is_deleted_does_not_wait_for_a_large_one(
    workshop: Workshop, service: CollectionService
) -> None:
    small = f"small-{uuid4()}"
    for _ in range(7):
        await workshop.add(pdf())
    large_id = (await service.delete(workshop.collection)).id
    await workshop.add(pdf(), collection=small)
    small_id = (await service.delete(small)).id
    await delete_all_doomed(workshop)
    ended = await workshop.scalars(
        "SELECT id FROM (SELECT *, count(*) OVER (PARTITION BY xmin::text) AS together"
        " FROM collection_deletions WHERE id = ANY(:ids)) AS deletion"
        " WHERE together = 1 ORDER BY finished_at",
        ids=[large_id, small_id],
    )
    assert ended == [small_id, large_id], "one transaction ended both"


async def test_documents_with_many_chunks_are_deleted_a_few_at_a_time(
    workshop: Workshop, service: CollectionService
) -> None:
    for _ in range(3):
        await workshop.add(pdf())
    await workshop.scalars(
        "UPDATE ingestions SET chunks = 3000 FROM documents"
        " WHERE collection = :name AND latest_ingestion_id = ingestions.id RETURNING 1",
        name=workshop.collection,
    )
    await workshop.scalars(
        "UPDATE documents SET live_ingestion_id = latest_ingestion_id WHERE collection = :name RETURNING 1",
        name=workshop.collection,
    )
    deletion = await service.delete(workshop.collection)
    async with workshop.database.transaction() as connection:
        leaving = await collections.list_leaving(connection, IS_DOOMED, documents=100, chunks=5000)
        ours = await workshop.scalars(
            "SELECT id FROM documents WHERE collection_id = :id ORDER BY id", id=deletion.collection_id
        )
    assert [sorted(ids) for ids in leaving if set(ids) & set(ours)] == [ours[:2]]


async def test_an_empty_collection_is_deleted_too(workshop: Workshop, service: CollectionService) -> None:
    await service.create(workshop.collection, CollectionFields())
    deletion = await service.delete(workshop.collection)
    waiting = asyncio.create_task(service.deletion(deletion.id, wait_seconds=20))
    await delete_all_doomed(workshop)
    assert (await waiting).documents_done == 0
    with pytest.raises(TaskNotFound):
        await service.deletion(uuid7())
    with pytest.raises(CollectionNotFound):
        await service.delete(workshop.collection)


async def test_only_documents_older_than_their_collection_keeps_any_are_deleted(
    workshop: Workshop, service: CollectionService
) -> None:
    await service.create(workshop.collection, CollectionFields(expires_after_days=30))
    old, fresh, renewed = [await workshop.add(pdf()) for _ in range(3)]
    kept = await workshop.add(pdf(), collection=f"for-ever-{uuid4()}")
    async with workshop.database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE documents SET created_at = now() - interval '31 days',"
                " updated_at = now() - interval '31 days' WHERE id = ANY(:ids)"
            ),
            {"ids": [old.document_id, renewed.document_id, kept.document_id]},
        )
    await workshop.replace(renewed.document_id, pdf())
    await delete_expired(workshop.database, workshop.space_id)
    left = await workshop.scalars(
        "SELECT id FROM documents WHERE collection = :name", name=workshop.collection
    )
    assert set(left) == {fresh.document_id, renewed.document_id}
    assert await workshop.scalars("SELECT id FROM documents WHERE id = :id", id=kept.document_id)


async def test_a_document_renewed_after_it_was_found_expired_stays(
    workshop: Workshop, service: CollectionService
) -> None:
    added = await workshop.add(pdf())
    async with workshop.database.transaction() as connection:
        assert not await collections.delete_leaving(
            connection, workshop.space_id, [added.document_id], collections.IS_EXPIRED
        )
        assert not await collections.delete_leaving(
            connection, workshop.space_id, [added.document_id], IS_DOOMED
        )
    assert await workshop.count_documents() == 1


async def test_the_language_of_a_collection_is_that_of_the_runs_claimed_for_it(
    workshop: Workshop, service: CollectionService
) -> None:
    added, plain = await workshop.add(pdf()), await workshop.add(pdf(), collection=f"plain-{uuid4()}")
    await service.change(workshop.collection, None, {"language": "de"})
    assert (await workshop.begin(added.task_id)).language == "de"
    assert (await workshop.begin(plain.task_id)).language is None
