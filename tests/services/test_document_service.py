import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from app.errors import (
    AlreadyInWork,
    DatabaseUnavailable,
    DocumentNotFound,
    DocumentReplaced,
    EmptyFile,
    Encrypted,
    FileGone,
    LeaseLost,
    PasswordNeedsKey,
    QueueFull,
    TaskNotFound,
    UploadNotAPDF,
    UploadTooLarge,
)
from app.local.embedded import free_port
from app.services.uploads import AcceptedFile, RefusedFile, clean_filename
from app.storage import runs
from app.storage.database import Connection, Database
from app.storage.document_views import DocumentFilter, DocumentOrder, DocumentPlace
from app.storage.documents import Change, FailedDocuments
from app.storage.reach import EVERYTHING, Reach
from tests.services.workshop import Workshop, pdf


async def test_an_upload_is_a_queued_task_with_a_stored_file(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content, metadata={"year": 2025})
    assert (added.status, added.is_duplicate, added.is_new_task) == ("queued", False, True)
    row = await workshop.row(added.task_id)
    assert (row.status, row.filename, row.byte_size) == ("queued", "report.pdf", len(content))
    assert workshop.stored() == {row.storage_key}
    assert (workshop.folder / row.storage_key).read_bytes() == content
    view = await workshop.catalog.find(added.document_id)
    assert (view.status, view.metadata, view.chunks) == ("queued", {"year": 2025}, 0)


async def test_the_bell_rings_after_the_answer(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.service.close()
    assert workshop.announced == [added.task_id]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", EmptyFile),
        (b"PK\3\4" + bytes(3000), UploadNotAPDF),
        (bytes(1024) + b"%PDF-1.7", UploadNotAPDF),
        (pdf() + bytes(1_000_000), UploadTooLarge),
    ],
)
async def test_of_a_refused_file_nothing_is_kept(workshop: Workshop, content: bytes, error: type[Exception]):
    with pytest.raises(error):
        await workshop.add(content)
    assert workshop.stored() == set()
    assert await workshop.count_documents() == 0


async def test_the_mark_of_a_pdf_may_be_anywhere_in_the_first_1024_bytes(workshop: Workshop):
    assert await workshop.add(bytes(1023) + pdf())


async def test_the_same_file_is_one_document_in_a_collection(workshop: Workshop):
    content = pdf()
    first = await workshop.add(content)
    again = await workshop.add(content)
    assert (again.document_id, again.task_id) == (first.document_id, first.task_id)
    assert (again.is_duplicate, again.is_new_task) == (True, False)
    assert len(workshop.stored()) == 1
    elsewhere = await workshop.add(content, collection=f"other-{uuid4()}")
    assert elsewhere.document_id != first.document_id


async def test_one_file_uploaded_at_the_same_moment_becomes_one_document(
    workshop: Workshop, database_url: str
):
    other_process = Workshop(
        Database(database_url), workshop.space_id, workshop.folder, collection=workshop.collection
    )
    shops = [workshop, other_process] * 10
    # with connections open, so that none is ahead of the others
    await asyncio.gather(*(shop.scalars("SELECT CAST(pg_sleep(0.2) AS text)") for shop in shops))
    content = pdf()
    together = asyncio.Barrier(len(shops))
    added = await asyncio.gather(*(shop.add(content, together=together) for shop in shops))
    await other_process.database.close()
    assert len({file.document_id for file in added}) == 1
    assert len({file.task_id for file in added}) == 1
    assert [file.is_duplicate for file in added].count(False) == 1
    assert await workshop.count_documents() == 1
    assert len(workshop.stored()) == 1


async def test_the_same_files_in_any_order_never_wait_for_each_other_in_a_circle(workshop: Workshop):
    contents = [pdf() for _ in range(6)]
    together = asyncio.Barrier(8)
    added = await asyncio.gather(
        *(workshop.add_all(random.sample(contents, len(contents)), together=together) for _ in range(8))
    )
    assert len({file.document_id for files in added for file in files if isinstance(file, AcceptedFile)}) == 6
    assert await workshop.count_documents() == 6


async def test_a_file_twice_in_one_request_is_one_document(workshop: Workshop):
    content = pdf()
    first, second = await workshop.add_all([content, content])
    assert isinstance(first, AcceptedFile)
    assert isinstance(second, AcceptedFile)
    assert second.document_id == first.document_id
    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert len(workshop.stored()) == 1


async def test_keep_makes_a_second_document(workshop: Workshop):
    content = pdf()
    first = await workshop.add(content)
    second = await workshop.add(content, on_duplicate="keep")
    assert second.document_id != first.document_id
    assert not second.is_duplicate
    assert await workshop.count_documents() == 2
    assert len(workshop.stored()) == 2


async def test_of_documents_with_the_same_bytes_the_served_one_answers_then_one_in_work(workshop: Workshop):
    content = pdf()
    failed, in_work, served = [await workshop.add(content, on_duplicate="keep") for _ in range(3)]
    await workshop.fail(failed.task_id)
    assert (await workshop.add(content)).task_id == in_work.task_id
    await workshop.ingest(served.task_id)
    assert (await workshop.add(content)).task_id == served.task_id


async def test_replace_ingests_the_same_bytes_again_into_the_same_document(workshop: Workshop):
    content = pdf()
    first = await workshop.add(content, metadata={"a": 1})
    await workshop.ingest(first.task_id)
    again = await workshop.add(content, on_duplicate="replace")
    assert again.document_id == first.document_id
    assert again.task_id != first.task_id
    assert (again.status, again.is_duplicate, again.is_new_task) == ("queued", True, True)
    view = await workshop.catalog.find(first.document_id)
    assert (view.status, view.task_id, view.metadata) == ("ready", first.task_id, {"a": 1})
    assert view.update is not None
    assert (view.update.task_id, view.update.status) == (again.task_id, "queued")


async def test_a_served_document_answers_for_its_bytes_though_a_newer_run_is_in_work(workshop: Workshop):
    content = pdf()
    first = await workshop.add(content)
    await workshop.ingest(first.task_id)
    await workshop.replace(first.document_id, pdf())
    again = await workshop.add(content)
    assert (again.task_id, again.status, again.is_new_task) == (first.task_id, "success", False)


@pytest.mark.parametrize("is_served", [True, False])
async def test_the_same_bytes_again_put_back_a_file_that_the_store_has_lost(
    workshop: Workshop, is_served: bool
):
    """As after the file store came from an older backup than the database."""
    content = pdf()
    first = await workshop.add(content)
    if is_served:
        await workshop.ingest(first.task_id)
    (kept,) = workshop.stored()
    (workshop.folder / kept).unlink()
    again = await workshop.add(content)
    assert (again.task_id, again.is_new_task) == (first.task_id, False)
    assert workshop.stored() == {kept}
    assert (workshop.folder / kept).read_bytes() == content


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_document_that_failed_starts_again_with_the_new_file(workshop: Workshop, end: str):
    content = pdf()
    first = await workshop.add(content)
    if end == "failed":
        await workshop.fail(first.task_id)
    else:
        await workshop.service.cancel(first.task_id)
    assert (await workshop.catalog.find(first.document_id)).status == end
    again = await workshop.add(content, metadata={"b": 2})
    assert again.document_id == first.document_id
    assert again.task_id != first.task_id
    assert (again.is_duplicate, again.is_new_task) == (True, True)
    view = await workshop.catalog.find(first.document_id)
    assert (view.status, view.metadata, view.error) == ("queued", {"b": 2}, None)
    key = f"{first.task_id}.pdf"
    assert await workshop.scalars("SELECT 1 FROM files_to_delete WHERE storage_key = :key", key=key) == [1]


async def test_a_full_queue_refuses_and_keeps_nothing(database: Database, space_id: int, tmp_path: Path):
    full = Workshop(database, space_id, tmp_path, max_queued=0)
    (refused,) = await full.add_all([pdf()])
    assert isinstance(refused, RefusedFile)
    assert isinstance(refused.error, QueueFull)
    assert full.stored() == set()
    assert await full.count_documents() == 0


async def test_a_password_is_kept_encrypted_and_erased_with_the_verdict(workshop: Workshop):
    added = await workshop.add(pdf(), password="open sesame")
    row = await workshop.row(added.task_id)
    assert b"open sesame" not in row.password
    assert workshop.cipher is not None
    assert workshop.cipher.decrypt(row.password) == "open sesame"
    await workshop.service.cancel(added.task_id)
    assert (await workshop.row(added.task_id)).password is None


async def test_without_a_key_a_password_is_refused(database: Database, space_id: int, tmp_path: Path):
    keyless = Workshop(database, space_id, tmp_path, cipher=None)
    with pytest.raises(PasswordNeedsKey):
        await keyless.add(pdf(), password="open sesame")
    assert keyless.stored() == set()


class Unheard(Database):
    """Commits, but the connection is lost before anybody hears of it."""

    @asynccontextmanager
    async def transaction(self, reach: Reach = EVERYTHING) -> AsyncIterator[Connection]:
        async with super().transaction(reach) as connection:
            yield connection
        raise DatabaseUnavailable


async def test_a_file_is_kept_when_its_row_was_committed_unheard(database_url: str, workshop: Workshop):
    unheard = Workshop(
        Unheard(database_url), workshop.space_id, workshop.folder, collection=workshop.collection
    )
    with pytest.raises(DatabaseUnavailable):
        await unheard.add(pdf())
    await unheard.database.close()
    (key,) = await workshop.scalars(
        "SELECT storage_key FROM ingestions JOIN documents ON latest_ingestion_id = ingestions.id"
        " WHERE collection = :collection",
        collection=workshop.collection,
    )
    assert workshop.stored() == {key}


async def test_no_file_is_kept_when_the_database_is_not_there(space_id: int, tmp_path: Path):
    nowhere = Database(f"postgresql+asyncpg://postgres@127.0.0.1:{free_port()}/nowhere")
    workshop = Workshop(nowhere, space_id, tmp_path)
    with pytest.raises(DatabaseUnavailable):
        await workshop.add(pdf())
    assert workshop.stored() == set()


async def test_a_new_version_supersedes_the_run_in_work(workshop: Workshop):
    first = await workshop.add(pdf())
    lease = await workshop.begin(first.task_id)
    await workshop.store(lease)
    second = await workshop.replace(first.document_id, pdf())
    row = await workshop.row(first.task_id)
    assert (row.status, row.error_code, row.chunks, row.password) == ("error", "superseded", 0, None)
    assert row.finished_at is not None
    assert await workshop.count_chunks(first.task_id) == (0, 0)
    with pytest.raises(LeaseLost):
        await workshop.store(lease, first=2)
    with pytest.raises(LeaseLost):
        await workshop.publish(lease)
    await workshop.ingest(second.task_id)
    view = await workshop.catalog.find(first.document_id)
    assert (view.status, view.filename, view.update) == ("ready", "newer.pdf", None)
    keys = await workshop.scalars(
        "SELECT storage_key FROM files_to_delete WHERE storage_key = ANY(:keys)",
        keys=[f"{first.task_id}.pdf", f"{second.task_id}.pdf"],
    )
    assert keys == [f"{first.task_id}.pdf"]


async def test_the_old_version_is_served_until_the_new_one_is_published(workshop: Workshop):
    first = await workshop.add(pdf("old version"))
    await workshop.ingest(first.task_id)
    second = await workshop.replace(first.document_id, pdf())
    await workshop.fail(second.task_id)
    view = await workshop.catalog.find(first.document_id)
    assert (view.status, view.filename, view.chunks, view.error) == ("ready", "report.pdf", 2, None)
    assert view.update is not None
    assert view.update.error is not None
    assert (view.update.status, view.update.error.code) == ("error", "corrupted")
    original = await workshop.catalog.find_original(first.document_id)
    assert original.storage_key == f"{first.task_id}.pdf"
    third = await workshop.replace(first.document_id, pdf())
    assert (await workshop.row(first.task_id)).storage_key == f"{first.task_id}.pdf"
    assert (await workshop.row(second.task_id)).storage_key is None
    await workshop.ingest(third.task_id)
    assert (await workshop.catalog.find_original(first.document_id)).storage_key == f"{third.task_id}.pdf"


async def test_of_versions_at_the_same_moment_the_newest_wins(workshop: Workshop):
    first = await workshop.add(pdf())
    versions = await asyncio.gather(*(workshop.replace(first.document_id, pdf()) for _ in range(12)))
    rows = [await workshop.row(version.task_id) for version in versions]
    (latest,) = await workshop.scalars(
        "SELECT latest_ingestion_id FROM documents WHERE id = :id", id=first.document_id
    )
    assert [row.id for row in rows if row.status == "queued"] == [latest]
    assert {row.error_code for row in rows if row.id != latest} == {"superseded"}
    assert [row.id for row in rows if row.storage_key] == [latest]


async def test_a_version_of_an_unknown_document_leaves_nothing(workshop: Workshop):
    with pytest.raises(DocumentNotFound):
        await workshop.replace(uuid7(), pdf())
    assert workshop.stored() == set()


async def test_cancelled_work_stops_and_never_comes_back(workshop: Workshop):
    added = await workshop.add(pdf())
    lease = await workshop.begin(added.task_id)
    await workshop.store(lease)
    await workshop.service.cancel(added.task_id)
    row = await workshop.row(added.task_id)
    assert (row.status, row.error_code, row.chunks) == ("cancelled", "cancelled", 0)
    assert await workshop.count_chunks(added.task_id) == (0, 0)
    with pytest.raises(LeaseLost):
        await workshop.publish(lease)
    async with workshop.database.autocommit() as connection:
        assert await runs.claim(connection, added.task_id, "test") is None
    assert (await workshop.catalog.find(added.document_id)).status == "cancelled"


async def test_cancelling_waits_for_the_batch_that_is_being_stored_and_removes_it(workshop: Workshop):
    added = await workshop.add(pdf())
    lease = await workshop.begin(added.task_id)

    async def store_for_ever() -> None:
        for first in range(0, 200, 2):
            await workshop.store(lease, first)

    storing = asyncio.create_task(store_for_ever())
    await asyncio.sleep(0.05)
    await workshop.service.cancel(added.task_id)
    with pytest.raises(LeaseLost):
        await storing
    assert await workshop.count_chunks(added.task_id) == (0, 0)


async def test_cancelling_a_finished_task_changes_nothing(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.ingest(added.task_id)
    before = await workshop.row(added.task_id)
    await workshop.service.cancel(added.task_id)
    assert await workshop.row(added.task_id) == before
    with pytest.raises(TaskNotFound):
        await workshop.service.cancel(uuid7())


async def test_deleting_removes_everything_but_the_tasks(workshop: Workshop):
    first = await workshop.add(pdf())
    await workshop.ingest(first.task_id)
    second = await workshop.replace(first.document_id, pdf())
    lease = await workshop.begin(second.task_id)
    await workshop.store(lease)
    assert len(workshop.stored()) == 2
    await workshop.service.delete(first.document_id)
    with pytest.raises(DocumentNotFound):
        await workshop.catalog.find(first.document_id)
    assert await workshop.count_chunks(first.task_id) == await workshop.count_chunks(second.task_id) == (0, 0)
    assert (await workshop.row(first.task_id)).status == "success"
    assert (await workshop.row(second.task_id)).status == "cancelled"
    with pytest.raises(LeaseLost):
        await workshop.publish(lease)
    await workshop.service.close()
    assert workshop.stored() == set()
    with pytest.raises(DocumentNotFound):
        await workshop.service.delete(first.document_id)


async def test_the_bytes_of_a_deleted_document_are_new_again(workshop: Workshop):
    content = pdf()
    first = await workshop.add(content)
    await workshop.service.delete(first.document_id)
    again = await workshop.add(content)
    assert again.document_id != first.document_id
    assert not again.is_duplicate


async def test_a_retry_takes_over_the_file_of_the_failed_run(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.fail(added.task_id, Encrypted())
    again = await workshop.service.retry(added.document_id, "open sesame")
    old, new = await workshop.row(added.task_id), await workshop.row(again.task_id)
    assert (new.status, new.storage_key, old.storage_key) == ("queued", f"{added.task_id}.pdf", None)
    assert new.password is not None
    assert workshop.stored() == {new.storage_key}
    with pytest.raises(AlreadyInWork):
        await workshop.service.retry(added.document_id)
    await workshop.ingest(again.task_id)
    assert (await workshop.catalog.find(added.document_id)).status == "ready"
    assert (await workshop.catalog.find_original(added.document_id)).storage_key == new.storage_key


async def test_of_retries_at_the_same_moment_one_begins(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.fail(added.task_id)
    retries = await asyncio.gather(
        *(workshop.service.retry(added.document_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(retry, AcceptedFile) for retry in retries) == 1
    assert sum(isinstance(retry, AlreadyInWork) for retry in retries) == 7


async def test_a_served_document_keeps_its_file_while_it_is_ingested_again(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.ingest(added.task_id)
    again = await workshop.service.retry(added.document_id)
    assert workshop.stored() == {f"{added.task_id}.pdf", f"{again.task_id}.pdf"}
    await workshop.service.cancel(again.task_id)
    original = await workshop.catalog.find_original(added.document_id)
    assert original.storage_key == f"{added.task_id}.pdf"


async def test_what_has_no_file_any_more_cannot_be_retried(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.fail(added.task_id)
    await workshop.scalars(
        "UPDATE ingestions SET storage_key = NULL WHERE id = :id RETURNING id", id=added.task_id
    )
    with pytest.raises(FileGone):
        await workshop.service.retry(added.document_id)


async def test_a_served_document_whose_file_was_lost_cannot_be_retried_and_stays(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.ingest(added.task_id)
    (workshop.folder / f"{added.task_id}.pdf").unlink()
    with pytest.raises(FileGone):
        await workshop.service.retry(added.document_id)
    view = await workshop.catalog.find(added.document_id)
    assert (view.status, view.update) == ("ready", None)


async def test_documents_are_listed_newest_first_and_filtered(workshop: Workshop):
    added = [await workshop.add(pdf()) for _ in range(5)]
    await workshop.ingest(added[0].task_id)
    await workshop.fail(added[1].task_id)
    await workshop.service.cancel(added[2].task_id)
    await workshop.begin(added[3].task_id)

    async def listed(after: UUID | None = None, limit: int = 10, **condition: str) -> list[UUID]:
        wanted = DocumentFilter(**{"collection": workshop.collection, **condition})
        place = None if after is None else DocumentPlace(0, after)
        views = await workshop.catalog.list_documents(wanted, DocumentOrder(), place, limit)
        assert all(condition.get("status") in (None, view.status) for view, _ in views)
        return [view.id for view, _ in views]

    ids = [file.document_id for file in reversed(added)]
    assert await listed() == ids
    assert await listed(limit=2) == ids[:2]
    assert await listed(after=ids[1], limit=2) == ids[2:4]
    by_status = {
        name: await listed(status=name) for name in ("queued", "processing", "cancelled", "failed", "ready")
    }
    assert list(by_status.values()) == [[document_id] for document_id in ids]
    assert await listed(filename="report.pdf") == ids
    assert await listed(filename="report") == []


async def test_chunks_are_listed_of_one_version_only(workshop: Workshop):
    added = await workshop.add(pdf())
    assert (await workshop.catalog.list_chunks(added.document_id, None, 10)).chunks == []
    await workshop.ingest(added.task_id)
    page = await workshop.catalog.list_chunks(added.document_id, None, 1)
    assert [chunk.text for chunk in page.chunks] == ["chunk 0"]
    assert page.ingestion_id == added.task_id
    page = await workshop.catalog.list_chunks(added.document_id, (added.task_id, 0), 10)
    assert [chunk.text for chunk in page.chunks] == ["chunk 1"]
    newer = await workshop.replace(added.document_id, pdf())
    await workshop.ingest(newer.task_id)
    with pytest.raises(DocumentReplaced):
        await workshop.catalog.list_chunks(added.document_id, (added.task_id, 0), 10)
    with pytest.raises(DocumentNotFound):
        await workshop.catalog.list_chunks(uuid7(), None, 10)


async def test_requests_and_workers_together_never_wait_in_a_circle_and_leave_nothing_behind(
    workshop: Workshop,
):
    """A deadlock would show as DatabaseUnavailable, a lost order as an open run that is not the newest."""
    documents = [(await workshop.add(pdf())).document_id for _ in range(3)]

    async def work() -> None:
        for _ in range(15):
            open_runs = await workshop.scalars(
                "SELECT id FROM ingestions WHERE document_id = ANY(:ids) AND status = 'queued'", ids=documents
            )
            for ingestion_id in open_runs:
                try:
                    await workshop.ingest(ingestion_id)
                except (LeaseLost, AssertionError):  # ended or taken by another worker in between
                    continue

    async def request() -> None:
        for _ in range(15):
            document_id = random.choice(documents)
            match random.randrange(3):
                case 0:
                    await workshop.replace(document_id, pdf())
                case 1:
                    view = await workshop.catalog.find(document_id)
                    await workshop.service.cancel(view.update.task_id if view.update else view.task_id)
                case _:
                    try:
                        await workshop.service.retry(document_id)
                    except (AlreadyInWork, FileGone):
                        continue

    await asyncio.gather(work(), work(), *(request() for _ in range(5)))
    stray = await workshop.scalars(
        "SELECT status FROM ingestions JOIN documents ON documents.id = document_id"
        " WHERE document_id = ANY(:ids) AND latest_ingestion_id <> ingestions.id"
        " AND status IN ('queued', 'processing', 'retrying')",
        ids=documents,
    )
    assert stray == []
    leftover = await workshop.scalars(
        "SELECT count(*) FROM chunks JOIN ingestions ON ingestions.id = ingestion_id"
        " WHERE document_id = ANY(:ids) AND status IN ('error', 'cancelled')",
        ids=documents,
    )
    assert leftover == [0]
    kept = await workshop.scalars(
        "SELECT storage_key FROM ingestions WHERE document_id = ANY(:ids) AND storage_key IS NOT NULL",
        ids=documents,
    )
    assert set(kept) <= workshop.stored()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\Bericht 2025.pdf", "Bericht 2025.pdf"),
        ("a\x00b\r\nSet-Cookie: c.pdf", "ab Set-Cookie: c.pdf"),
        ("\ud800\u202efdp.exe", "fdp.exe"),
        ("", "unnamed.pdf"),
        ("/", "unnamed.pdf"),
        ("x" * 400 + ".pdf", "x" * 251 + ".pdf"),
    ],
)
def test_a_filename_is_one_clean_line_without_folders(given: str, kept: str):
    assert clean_filename(given) == kept


async def test_many_failed_documents_are_retried_in_one_go(workshop: Workshop):
    added = [await workshop.add(pdf()) for _ in range(3)]
    for one in added:
        await workshop.fail(one.task_id)
    files = workshop.stored()
    counts = await asyncio.gather(
        *(workshop.service.retry_failed(FailedDocuments(workshop.collection)) for _ in range(3))
    )
    assert sum(counts) == 3
    assert workshop.stored() == files
    for one in added:
        view = await workshop.catalog.find(one.document_id)
        assert (view.status, (await workshop.row(one.task_id)).storage_key) == ("queued", None)
        assert (await workshop.row(view.task_id)).storage_key in files


async def test_a_full_queue_takes_no_failed_documents(
    workshop: Workshop, database: Database, space_id: int, tmp_path: Path
):
    await workshop.fail((await workshop.add(pdf())).task_id)
    full = Workshop(database, space_id, tmp_path, max_queued=0)
    with pytest.raises(QueueFull):
        await full.service.retry_failed(FailedDocuments(workshop.collection))


async def test_a_document_that_moves_takes_its_bytes_along(workshop: Workshop):
    content, elsewhere = pdf(), f"c-{uuid4()}"
    added = await workshop.add(content)
    await workshop.ingest(added.task_id)
    moved = await workshop.service.change(added.document_id, Change(collection=elsewhere))
    assert (moved.collection, moved.status) == (elsewhere, "ready")
    assert (await workshop.add(content, collection=elsewhere)).document_id == added.document_id
    assert (await workshop.add(content)).document_id != added.document_id


async def test_a_document_that_moves_while_it_is_uploaded_there_is_still_one(workshop: Workshop):
    content, elsewhere = pdf(), f"c-{uuid4()}"
    added = await workshop.add(content)
    await workshop.ingest(added.task_id)
    for _ in range(10):
        here, there = workshop.collection, elsewhere
        for collection in (there, here):
            await asyncio.gather(
                workshop.service.change(added.document_id, Change(collection=collection)),
                workshop.replace(added.document_id, pdf()),
            )
    assert (await workshop.catalog.find(added.document_id)).collection == workshop.collection


async def test_waiting_tasks_are_cancelled_together_and_those_at_work_are_not(workshop: Workshop):
    added = [await workshop.add(pdf()) for _ in range(4)]
    await workshop.begin(added[0].task_id)
    await workshop.ingest(added[1].task_id)
    assert await workshop.service.cancel_waiting(workshop.collection) == 2
    statuses = [(await workshop.row(one.task_id)).status for one in added]
    assert statuses == ["processing", "success", "cancelled", "cancelled"]
    assert await workshop.service.cancel_waiting(workshop.collection) == 0


async def test_a_deleted_document_leaves_nothing_of_its_file(workshop: Workshop):
    added = await workshop.add(pdf())
    await workshop.ingest(added.task_id)
    newer = await workshop.replace(added.document_id, pdf())
    await workshop.service.delete(added.document_id)
    for task_id, status in ((added.task_id, "success"), (newer.task_id, "cancelled")):
        row = await workshop.row(task_id)
        assert (row.status, row.filename, row.title, row.sha256) == (status, "", None, b"")
