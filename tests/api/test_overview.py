"""Who works and how much is there, with a worker of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from celery import Celery

from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.main import create_app
from tests.databases import empty_broker, migrated
from tests.processes import WorkerProcess

SAMPLES = Path(__file__).parent.parent.parent / "samples"


@pytest.fixture(scope="module")
async def service(
    serve: Any, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("overview")
    broker_url = empty_broker(valkey, 13)
    environment = {
        "DATABASE_URL": await migrated(postgres, "overview"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (folder / "files").as_uri(),
    }
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    worker = WorkerProcess(environment, folder / "worker.log", "--concurrency", "2")
    with worker, Celery(broker=broker_url) as celery:
        await asyncio.to_thread(worker.wait_until_ready, celery)
        async with (
            serve(create_app(settings)) as served,
            httpx.AsyncClient(base_url=served.url, timeout=40) as client,
        ):
            yield client


async def ingest(client: httpx.AsyncClient, name: str, collection: str) -> dict[str, Any]:
    files = {"file": (name, (SAMPLES / name).read_bytes())}
    answer = await client.post("/documents", files=files, data={"collection": collection})
    task = await client.get(f"/tasks/{answer.json()['task_id']}?wait=30")
    return task.json()


async def test_every_process_of_a_worker_is_shown_idle_or_with_its_work(service: httpx.AsyncClient) -> None:
    idle = (await service.get("/workers")).json()["data"]
    assert len(idle) == 2
    assert len({one["pid"] for one in idle}) == 2
    assert {one["worker"].partition("@")[2] for one in idle} == {one["host"] for one in idle}
    assert [one["task"] for one in idle] == [None, None]


async def test_counts_are_those_of_what_was_ingested(service: httpx.AsyncClient) -> None:
    mine = f"c-{uuid4()}"
    good = await ingest(service, "annual-report.pdf", mine)
    bad = await ingest(service, "damaged.pdf", mine)
    assert (good["status"], bad["result"]["code"]) == ("success", "corrupted")

    async def stats() -> dict[str, Any]:
        return (await service.get("/stats")).json()

    async with asyncio.timeout(20):
        while (await stats())["verdicts"].get("corrupted") != 1:  # noqa: ASYNC110 - it is a poll
            await asyncio.sleep(0.1)
    now = await stats()
    assert now["documents"] == {"queued": 0, "processing": 0, "ready": 1, "failed": 1, "cancelled": 0}
    chunks = good["result"]["chunks"]
    assert (now["pages"], now["chunks"]) == (6, chunks)
    assert now["bytes"] == sum((SAMPLES / one).stat().st_size for one in ("annual-report.pdf", "damaged.pdf"))
    assert now["tasks"] == {"queued": 0, "processing": 0, "retrying": 0}
    assert now["queue_oldest_seconds"] == 0
    assert now["verdicts"] == {"success": 1, "corrupted": 1}
    assert now["seconds"]["reading"] > 0
    assert len(now["pages_per_minute"]) == 60
    assert sum(now["pages_per_minute"][-2:]) == 6


async def test_a_run_says_how_long_each_stage_took(service: httpx.AsyncClient) -> None:
    done = await ingest(service, "wildbienen.pdf", f"c-{uuid4()}")
    listed = (await service.get("/tasks", params={"document_id": done["document_id"]})).json()["data"]
    (task,) = listed
    assert UUID(task["task_id"]) == UUID(done["task_id"])
    assert (task["filename"], task["is_served"], task["is_latest"]) == ("wildbienen.pdf", True, True)
    assert set(task["seconds"]) >= {"reading", "embedding", "storing"}
    assert all(seconds >= 0 for seconds in task["seconds"].values())


async def test_documents_of_a_collection_with_a_language_are_taken_to_be_in_it(
    service: httpx.AsyncClient,
) -> None:
    german = f"c-{uuid4()}"
    await service.post("/collections", json={"name": german, "language": "de"})
    for collection, language in ((german, "de"), (f"c-{uuid4()}", "en")):
        done = await ingest(service, "annual-report.pdf", collection)
        document = (await service.get(f"/documents/{done['document_id']}")).json()
        assert document["language"] == language
    counted = (await service.get(f"/collections/{german}")).json()
    assert (counted["documents"]["ready"], counted["pages"]) == (1, 6)
    assert counted["chunks"] == done["result"]["chunks"]
