import asyncio
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from app.services.path_files import Registration
from app.storage import ingestions
from app.storage.database import Database
from tests.services.workshop import Workshop, in_parts, pdf


@pytest.fixture
def workshop(database: Database, space_id: int, tmp_path: Path) -> Workshop:
    return Workshop(database, space_id, tmp_path / "files")


async def register(workshop: Workshop, content: bytes, ingestion_id: UUID) -> Registration:
    """As a worker does: copy the file in, then ask what to do with it."""
    key = f"{ingestion_id}.pdf"
    await workshop.files.write(key, in_parts(content))
    return await workshop.service.register_path_file(
        ingestion_id,
        "/data/a.pdf",
        "a.pdf",
        sha256(content).digest(),
        len(content),
        key,
        collection=workshop.collection,
    )


async def can_be_claimed(workshop: Workshop, ingestion_id: UUID) -> bool:
    async with workshop.database.autocommit() as connection:
        return await ingestions.claim(connection, ingestion_id, "test") is not None


async def make_due(workshop: Workshop, ingestion_id: UUID) -> None:
    await workshop.scalars(
        "UPDATE ingestions SET next_attempt_at = clock_timestamp() WHERE id = :id RETURNING 1",
        id=ingestion_id,
    )


async def test_a_path_becomes_a_document_like_an_upload(workshop: Workshop):
    task_id = uuid7()
    registration = await register(workshop, pdf(), task_id)
    assert registration.outcome == "queued"
    assert registration.document_id is not None
    view = await workshop.service.find(registration.document_id)
    assert (view.status, view.filename, view.task_id) == ("queued", "a.pdf", task_id)
    await workshop.ingest(task_id)
    assert (await workshop.service.find(registration.document_id)).status == "ready"


async def test_content_that_is_served_is_a_success_with_its_chunks(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content)
    await workshop.ingest(added.task_id)
    task_id = uuid7()
    registration = await register(workshop, content, task_id)
    assert registration == Registration("success", added.document_id, 2)
    row = await workshop.row(task_id)
    assert (row.status, row.chunks, row.pages_total, row.engine) == ("success", 2, 3, "pdfium")
    assert row.finished_at is not None
    assert workshop.stored() == {f"{added.task_id}.pdf"}
    assert (await workshop.service.find(added.document_id)).task_id == added.task_id


async def test_content_in_work_is_waited_for_and_then_shared(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    assert (await register(workshop, content, task_id)).outcome == "waiting"
    row = await workshop.row(task_id)
    assert (row.status, row.document_id) == ("queued", added.document_id)
    assert 0 < (row.next_attempt_at - row.created_at).total_seconds() <= 1.5
    await make_due(workshop, task_id)
    assert not await can_be_claimed(workshop, task_id)
    assert (await workshop.service.settle(task_id)).outcome == "waiting"
    await workshop.ingest(added.task_id)
    assert await workshop.service.settle(task_id) == Registration("success", added.document_id, 2)
    assert (await workshop.row(task_id)).status == "success"
    assert workshop.stored() == {f"{added.task_id}.pdf"}
    assert (await workshop.service.settle(task_id)).outcome == "known"


async def test_who_waited_for_a_run_that_failed_tries_with_its_own_file(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await register(workshop, content, task_id)
    await workshop.fail(added.task_id)
    assert await workshop.service.settle(task_id) == Registration("queued", added.document_id)
    await workshop.ingest(task_id)
    view = await workshop.service.find(added.document_id)
    assert (view.status, view.task_id) == ("ready", task_id)


async def test_a_document_that_failed_starts_again_from_the_path(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content)
    await workshop.fail(added.task_id)
    task_id = uuid7()
    assert await register(workshop, content, task_id) == Registration("queued", added.document_id)
    assert (await workshop.service.find(added.document_id)).task_id == task_id
    assert await can_be_claimed(workshop, task_id)


async def test_deliveries_of_one_task_at_the_same_moment_make_one_document(workshop: Workshop):
    content, task_id = pdf(), uuid7()
    registrations = await asyncio.gather(*(register(workshop, content, task_id) for _ in range(8)))
    assert sorted(registration.outcome for registration in registrations) == ["known"] * 7 + ["queued"]
    assert await workshop.count_documents() == 1
    assert workshop.stored() == {f"{task_id}.pdf"}


async def test_tasks_and_uploads_of_one_file_at_the_same_moment_make_one_document(workshop: Workshop):
    content = pdf()
    task_ids = [uuid7() for _ in range(6)]
    ends = await asyncio.gather(
        *(register(workshop, content, task_id) for task_id in task_ids),
        *(workshop.add(content) for _ in range(6)),
    )
    assert await workshop.count_documents() == 1
    assert len({end.document_id for end in ends}) == 1
    (latest,) = await workshop.scalars(
        "SELECT latest_ingestion_id FROM documents WHERE collection = :collection",
        collection=workshop.collection,
    )
    await workshop.ingest(latest)
    waiting = [task_id for task_id in task_ids if task_id != latest]
    settled = await asyncio.gather(*(workshop.service.settle(task_id) for task_id in waiting))
    assert {registration.outcome for registration in settled} == {"success"}
    assert workshop.stored() == {f"{latest}.pdf"}


async def test_deleting_the_document_ends_those_who_wait(workshop: Workshop):
    content = pdf()
    added = await workshop.add(content)
    task_id = uuid7()
    await register(workshop, content, task_id)
    await workshop.service.delete(added.document_id)
    assert (await workshop.row(task_id)).status == "cancelled"
    assert (await workshop.service.settle(task_id)).outcome == "known"
    await workshop.service.close()
    assert workshop.stored() == set()
