"""Turns on a real worker of one process."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from celery import Celery
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.local.chaos.embedding_stub import EmbeddingStub, serving
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage import documents
from app.storage.database import Database
from app.storage.documents import NewIngestion
from app.task_queue import TaskQueue
from tests.databases import empty_broker, migrated
from tests.processes import WorkerProcess
from tests.test_worker import get, ingest, row_of, wait_for_row, write_pdf

WAITING = 200


@dataclass
class Line:
    """Where work waits."""

    folder: Path
    environment: dict[str, str]
    database: Database
    queue: TaskQueue
    client: Celery

    def worker(self, pool: str = "prefork", **environment: str) -> WorkerProcess:
        options = ("--pool", pool, "--concurrency", "1")
        return WorkerProcess(self.environment | environment, self.folder / "worker.log", *options)

    async def ask(self, collection: str, content: bytes) -> UUID:
        """As an upload does it, but for its message."""
        ingestion_id = uuid7()
        new = NewIngestion(ingestion_id, "a.pdf", uuid4().bytes, len(content), f"{ingestion_id}.pdf")
        (self.folder / "files" / new.storage_key).write_bytes(content)
        async with self.database.transaction() as connection:
            await documents.add_document(
                connection, uuid7(), collection, None, new, max_queued=10_000, unless_known=False
            )
        return ingestion_id

    async def count_waiting(self) -> int:
        async with self.database.transaction() as connection:
            return await connection.scalar(text("SELECT count(*) FROM ingestions WHERE status = 'queued'"))


def slow_embedder(url: str) -> dict[str, str]:
    return {
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": url,
        "EMBEDDING_API_KEY": "x",
        "EMBEDDING_DIMENSIONS": "64",
        "EMBEDDING_TIMEOUT_SECONDS": "90",
    }


@pytest.fixture
async def line(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path) -> AsyncIterator[Line]:
    broker_url = empty_broker(valkey, 12)
    environment = {
        "DATABASE_URL": await migrated(postgres, f"turns_{uuid4().hex}"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (tmp_path / "files").as_uri(),
        "INGEST_FOLDERS": str(tmp_path),
    }
    (tmp_path / "files").mkdir()
    database, queue = Database(environment["DATABASE_URL"]), TaskQueue(broker_url)
    with Celery(broker=broker_url, backend=broker_url) as client:
        yield Line(tmp_path, environment, database, queue, client)
    queue.close()
    await database.close()


@pytest.mark.heavy
async def test_a_document_waits_for_no_other_collection_and_a_path_for_one_document(line: Line) -> None:
    content = write_pdf(line.folder / "one.pdf", pages=3).read_bytes()
    many = [await line.ask("a", content) for _ in range(WAITING)]
    single = await line.ask("b", content)
    for one in (*many, single):
        assert await line.queue.enqueue(one)
    with line.worker():
        assert (await get(line.client, str(single), 60))["status"] == "success"
        assert await line.count_waiting() >= WAITING - 10
        by_path = await ingest(line.client, write_pdf(line.folder / "two.pdf", pages=3))
        assert by_path["status"] == "success"
        assert 50 < await line.count_waiting() < WAITING
        results = await asyncio.gather(*(get(line.client, str(one), 120) for one in many))
    assert {result["status"] for result in results} == {"success"}


@pytest.mark.heavy
@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_a_path_whose_message_let_another_go_first_is_not_lost_with_its_worker(
    line: Line, pool: str
) -> None:
    """The worker is told to stop before it has taken in the path's file; killed, it would leave the row."""
    stub = EmbeddingStub(dimensions=64, delay_seconds=60)
    first = await line.ask("a", write_pdf(line.folder / "one.pdf", pages=1).read_bytes())
    with serving(stub.app) as url:
        embedder = slow_embedder(url) | {"SHUTDOWN_GRACE_SECONDS": "0.5"}
        path = write_pdf(line.folder / "two.pdf", pages=1)
        sent = line.client.send_task("ingest_pdf_task", args=[str(path)])
        with line.worker(pool, **embedder) as worker:
            await wait_for_row(line.database, str(first), lambda row: row.status == "processing", 40)
            row = await row_of(line.database, sent.id)
            assert (row.status, row.path) == ("queued", str(path))
            await asyncio.to_thread(worker.stop)
        stub.behaviour.delay_seconds = 0
        with line.worker(pool, **embedder):
            for task_id in (sent.id, str(first)):
                assert (await get(line.client, task_id, 60))["status"] == "success"


@pytest.mark.heavy
async def test_the_time_limit_of_a_run_taken_in_its_turn_is_its_own_verdict(line: Line) -> None:
    stub = EmbeddingStub(dimensions=64, delay_seconds=60)
    first, second = [
        await line.ask("a", write_pdf(line.folder / f"{number}.pdf", pages=1).read_bytes())
        for number in range(2)
    ]
    with serving(stub.app) as url:
        embedder = slow_embedder(url) | {"TASK_SOFT_LIMIT_SECONDS": "4"}
        assert await line.queue.enqueue(second)
        with line.worker(**embedder):
            result = await get(line.client, str(first), 60)
    assert (result["status"], result["code"]) == ("error", "timed_out")
