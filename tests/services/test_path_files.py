import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app.errors import (
    EmptyFile,
    FileNotFound,
    PathNotAllowed,
    StorageFailed,
    StoreFull,
    UploadNotAPDF,
    UploadTooLarge,
)
from app.services.incoming import IncomingFiles
from app.services.outages import Outages
from app.storage import runs
from app.storage.database import Database
from app.storage.tasks import result_of
from tests.services.workshop import Workshop, pdf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """From which tasks may take files."""
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def incoming(workshop: Workshop, folder: Path) -> IncomingFiles:
    return IncomingFiles(
        folders=(folder,),
        storage_url=workshop.folder.as_uri(),
        uploading=workshop.service.uploading,
        database=workshop.database,
        files=workshop.files,
        outages=Outages(workshop.database, {}),
        admission=workshop.admission,
        space_id=workshop.space_id,
        collection=workshop.collection,
    )


async def take(workshop: Workshop, folder: Path, content: bytes, task_id: UUID) -> None:
    """As a worker does with a task that it has not heard of before."""
    path = folder / f"{task_id}.pdf"
    path.write_bytes(content)
    await incoming(workshop, folder).begin(task_id, str(path))


async def settle(workshop: Workshop, folder: Path, task_id: UUID) -> str:
    return await incoming(workshop, folder).settle(task_id)


async def document_of(workshop: Workshop, task_id: UUID) -> UUID:
    document_id: UUID = (await workshop.row(task_id)).document_id
    return document_id


async def can_be_claimed(workshop: Workshop, ingestion_id: UUID) -> bool:
    async with workshop.database.autocommit() as connection:
        return await runs.claim(connection, ingestion_id, "test") is not None


async def make_due(workshop: Workshop, ingestion_id: UUID) -> None:
    await workshop.scalars(
        "UPDATE ingestions SET next_attempt_at = clock_timestamp() WHERE id = :id RETURNING 1",
        id=ingestion_id,
    )


async def test_a_path_becomes_a_document_like_an_upload(workshop: Workshop, folder: Path):
    task_id = uuid7()
    await take(workshop, folder, pdf(), task_id)
    view = await workshop.catalog.find(await document_of(workshop, task_id))
    assert (view.status, view.filename, view.task_id) == ("queued", f"{task_id}.pdf", task_id)
    await workshop.ingest(task_id)
    assert (await workshop.catalog.find(view.id)).status == "ready"


async def test_content_that_is_served_is_a_success_with_its_chunks(workshop: Workshop, folder: Path):
    content = pdf()
    added = await workshop.add(content)
    await workshop.ingest(added.task_id)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    row = await workshop.row(task_id)
    assert (row.status, row.chunks, row.pages_total, row.engine) == ("success", 2, 3, "pdfium")
    assert row.document_id == added.document_id
    assert row.finished_at is not None
    assert workshop.stored() == {f"{added.task_id}.pdf"}
    assert (await workshop.catalog.find(added.document_id)).task_id == added.task_id


async def test_content_in_work_is_waited_for_and_then_shared(workshop: Workshop, folder: Path):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    row = await workshop.row(task_id)
    assert (row.status, row.document_id, row.waits_for) == ("queued", added.document_id, added.task_id)
    assert row.next_attempt_at - datetime.now(UTC) <= timedelta(seconds=1)
    await make_due(workshop, task_id)
    assert not await can_be_claimed(workshop, task_id)
    assert await settle(workshop, folder, task_id) == "waiting"
    await workshop.ingest(added.task_id)
    assert await settle(workshop, folder, task_id) == "success"
    assert (await workshop.row(task_id)).status == "success"
    assert workshop.stored() == {f"{added.task_id}.pdf"}
    assert await settle(workshop, folder, task_id) == "known"


async def test_a_new_version_of_the_document_does_not_take_the_content_of_who_waits(
    workshop: Workshop, folder: Path
):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    newer = await workshop.replace(added.document_id, pdf())
    assert (await workshop.row(added.task_id)).error_code == "superseded"
    assert (await workshop.row(task_id)).status == "queued"
    assert await settle(workshop, folder, task_id) == "queued"
    await workshop.ingest(newer.task_id)
    await workshop.ingest(task_id)
    own = await workshop.catalog.find(await document_of(workshop, task_id))
    assert own.id != added.document_id
    assert (own.status, own.task_id) == ("ready", task_id)
    assert (await workshop.catalog.find(added.document_id)).task_id == newer.task_id


async def test_who_waited_for_a_run_that_failed_tries_with_its_own_file(workshop: Workshop, folder: Path):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    await workshop.fail(added.task_id)
    assert await settle(workshop, folder, task_id) == "queued"
    await workshop.ingest(task_id)
    view = await workshop.catalog.find(added.document_id)
    assert (view.status, view.task_id) == ("ready", task_id)


async def test_a_document_that_failed_starts_again_from_the_path(workshop: Workshop, folder: Path):
    content = pdf()
    added = await workshop.add(content)
    await workshop.fail(added.task_id)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    assert (await workshop.catalog.find(added.document_id)).task_id == task_id
    assert await can_be_claimed(workshop, task_id)


async def test_deliveries_of_one_task_at_the_same_moment_make_one_document(workshop: Workshop, folder: Path):
    content, task_id = pdf(), uuid7()
    await asyncio.gather(*(take(workshop, folder, content, task_id) for _ in range(8)))
    assert await workshop.count_documents() == 1
    assert workshop.stored() == {(await workshop.row(task_id)).storage_key}


async def test_tasks_and_uploads_of_one_file_at_the_same_moment_make_one_document(
    workshop: Workshop, folder: Path
):
    content = pdf()
    task_ids = [uuid7() for _ in range(6)]
    await asyncio.gather(
        *(take(workshop, folder, content, task_id) for task_id in task_ids),
        *(workshop.add(content) for _ in range(6)),
    )
    assert await workshop.count_documents() == 1
    assert len({await document_of(workshop, task_id) for task_id in task_ids}) == 1
    (latest,) = await workshop.scalars(
        "SELECT latest_ingestion_id FROM documents WHERE collection = :collection",
        collection=workshop.collection,
    )
    await workshop.ingest(latest)
    waiting = [task_id for task_id in task_ids if task_id != latest]
    settled = await asyncio.gather(*(settle(workshop, folder, task_id) for task_id in waiting))
    assert set(settled) == {"success"}
    assert workshop.stored() == {(await workshop.row(latest)).storage_key}


async def test_deleting_the_document_ends_those_who_wait(workshop: Workshop, folder: Path):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await take(workshop, folder, content, task_id)
    await workshop.service.delete(added.document_id)
    assert (await workshop.row(task_id)).status == "cancelled"
    assert await settle(workshop, folder, task_id) == "known"
    await workshop.service.close()
    assert workshop.stored() == set()


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", EmptyFile), (b"Dear reader", UploadNotAPDF), (pdf() + bytes(1_000_000), UploadTooLarge)],
    ids=["empty", "no pdf", "too large"],
)
async def test_a_path_s_file_is_looked_at_like_an_upload(
    workshop: Workshop, folder: Path, content: bytes, error: type[Exception]
):
    task_id = uuid7()
    with pytest.raises(error):
        await take(workshop, folder, content, task_id)
    row = await workshop.row(task_id)
    assert (row.status, row.error_code) == ("error", error.code)
    assert result_of(row)["retryable"] is False, "whoever asks later is told what the first was"
    assert workshop.stored() == set()
    assert await workshop.count_documents() == 0


async def test_a_delivery_that_comes_after_the_file_was_taken_in_and_removed_ends_nothing(
    workshop: Workshop, folder: Path
):
    task_id = uuid7()
    await take(workshop, folder, pdf(), task_id)
    path = folder / f"{task_id}.pdf"
    path.unlink()
    with pytest.raises(FileNotFound):
        await incoming(workshop, folder).take(task_id, str(path))
    assert (await workshop.row(task_id)).status == "queued"
    await workshop.ingest(task_id)


async def test_a_store_that_fails_is_tried_again_and_the_task_has_a_row_meanwhile(
    workshop: Workshop, folder: Path
):
    workshop.folder.write_text("a file where the folder should be")
    content, task_id = pdf(), uuid7()
    with pytest.raises(StorageFailed):
        await take(workshop, folder, content, task_id)
    row = await workshop.row(task_id)
    assert (row.status, row.error_code, row.retries) == ("retrying", "storage_failed", 1)
    assert row.path == str(folder / f"{task_id}.pdf")
    workshop.folder.unlink()
    await incoming(workshop, folder).go_on(row)
    seen, row = row.revision, await workshop.row(task_id)
    assert (row.status, row.error_code, row.retries, row.path) == ("queued", None, 0, None)
    assert row.revision > seen
    await workshop.ingest(task_id)


async def test_a_task_that_was_cancelled_before_its_file_was_taken_in_stays_so(
    workshop: Workshop, folder: Path
):
    workshop.folder.write_text("in the way")
    task_id = uuid7()
    with pytest.raises(StorageFailed):
        await take(workshop, folder, pdf(), task_id)
    await workshop.service.cancel(task_id)
    workshop.folder.unlink()
    assert await incoming(workshop, folder).take(task_id, str(folder / f"{task_id}.pdf")) == "known"
    assert (await workshop.row(task_id)).status == "cancelled"
    assert workshop.stored() == set()


async def test_links_out_of_the_folders_are_not_followed(workshop: Workshop, folder: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.pdf").write_bytes(pdf())
    (folder / "link").symlink_to(outside)
    os.mkfifo(folder / "pipe.pdf")
    for path, error in (
        (folder / "link" / "a.pdf", PathNotAllowed),
        (folder / ".." / "outside" / "a.pdf", PathNotAllowed),
        (folder / "pipe.pdf", FileNotFound),
        (folder, FileNotFound),
    ):
        with pytest.raises(error):
            await incoming(workshop, folder).begin(uuid7(), str(path))


async def test_a_link_that_leads_within_the_folders_is_followed(workshop: Workshop, folder: Path):
    (folder / "deep").mkdir()
    (folder / "deep" / "a.pdf").write_bytes(pdf())
    (folder / "latest.pdf").symlink_to(folder / "deep" / "a.pdf")
    task_id = uuid7()
    await incoming(workshop, folder).begin(task_id, str(folder / "latest.pdf"))
    assert (await workshop.row(task_id)).status == "queued"


async def test_a_file_waits_while_the_store_is_full_and_then_says_so(
    database: Database, space_id: int, tmp_path: Path, folder: Path
) -> None:
    full = Workshop(database, space_id, tmp_path / "files", max_store_bytes=1)
    await full.add(pdf())  # the service's own rule is asked at the door, over HTTP
    task_id = uuid7()
    with pytest.raises(StoreFull, match="MAX_STORE_BYTES"):
        await take(full, folder, pdf(), task_id)
    row = await full.row(task_id)
    assert (row.status, row.error_code, row.retries) == ("retrying", "storage_failed", 1)
    assert len(full.stored()) == 1
    with pytest.raises(PathNotAllowed):
        await incoming(full, folder).begin(uuid7(), "/etc/passwd")


async def test_a_served_document_is_not_copied_into_a_full_store(
    database: Database, space_id: int, tmp_path: Path
) -> None:
    roomy = Workshop(database, space_id, tmp_path / "files")
    accepted = await roomy.add(pdf())
    await roomy.ingest(accepted.task_id)
    full = Workshop(database, space_id, tmp_path / "files", collection=roomy.collection, max_store_bytes=1)
    with pytest.raises(StoreFull):
        await full.service.retry(accepted.document_id)
