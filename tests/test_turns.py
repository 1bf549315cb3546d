"""Turns on a real worker: one process, hundreds that wait in one collection, one in another."""

import asyncio
from pathlib import Path
from uuid import UUID

from celery import Celery
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage import documents
from app.storage.database import Database
from app.storage.documents import NewIngestion
from app.task_queue import TaskQueue
from tests.databases import migrated
from tests.processes import WorkerProcess
from tests.test_worker import get, ingest, write_pdf

WAITING = 300


async def test_a_document_waits_for_no_other_collection_and_a_path_for_one_document(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    broker_url = valkey.url.removesuffix("/0") + "/12"
    environment = {
        "DATABASE_URL": await migrated(postgres, "turns"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (tmp_path / "files").as_uri(),
        "INGEST_FOLDERS": str(tmp_path),
    }
    (tmp_path / "files").mkdir()
    content = write_pdf(tmp_path / "one.pdf", pages=3).read_bytes()
    database, queue = Database(environment["DATABASE_URL"]), TaskQueue(broker_url)

    async def ask(collection: str) -> UUID:
        new = NewIngestion(ingestion_id := uuid7(), "a.pdf", b"", len(content), f"{ingestion_id}.pdf")
        (tmp_path / "files" / new.storage_key).write_bytes(content)
        async with database.transaction() as connection:
            await documents.add_document(
                connection, uuid7(), collection, None, new, max_queued=10_000, unless_known=False
            )
        assert await queue.enqueue(ingestion_id)
        return ingestion_id

    async def count_waiting() -> int:
        async with database.transaction() as connection:
            return await connection.scalar(text("SELECT count(*) FROM ingestions WHERE status = 'queued'"))

    many = [await ask("a") for _ in range(WAITING)]
    single = await ask("b")
    options = ("--concurrency", "1")
    with (
        Celery(broker=broker_url, backend=broker_url) as client,
        WorkerProcess(environment, tmp_path / "worker.log", *options),
    ):
        assert (await get(client, str(single), 60))["status"] == "success"
        assert await count_waiting() >= WAITING - 10
        by_path = await ingest(client, write_pdf(tmp_path / "two.pdf", pages=3))
        assert by_path["status"] == "success"
        left = await count_waiting()
        assert 50 < left < WAITING
        results = await asyncio.gather(*(get(client, str(one), 120) for one in many))
    queue.close()
    await database.close()
    assert {result["status"] for result in results} == {"success"}
