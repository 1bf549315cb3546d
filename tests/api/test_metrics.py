"""What Prometheus sees of an API and a prefork worker with two processes, over a server that embeds."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from celery import Celery
from fpdf import FPDF
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from app.main import create_app
from app.services.figures import Figures
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.embedding_servers import EmbeddingHandler, served_by, vectors_for
from tests.processes import WorkerProcess

TOKENS = 7

Samples = dict[str, float]


class BillingServer(EmbeddingHandler):
    """The first request gets 429, later ones vectors and a bill of TOKENS."""

    asked = 0

    def embed(self, texts: list[str]) -> None:
        type(self).asked += 1
        body = {"data": vectors_for(texts), "usage": {"total_tokens": TOKENS}}
        self.answer(429 if self.asked == 1 else 200, body)


@dataclass(frozen=True)
class Watched:
    """An API and a worker whose metrics are read."""

    client: httpx.AsyncClient
    figures: Figures
    worker: WorkerProcess
    worker_url: str
    database: Database

    async def of_service(self) -> Samples:
        while self.figures.is_fresh:  # noqa: ASYNC110 - it is a poll
            await asyncio.sleep(0.05)
        return samples((await self.client.get("/metrics")).text)

    async def of_worker(self) -> Samples:
        async with httpx.AsyncClient() as client:
            return samples((await client.get(self.worker_url)).text)

    async def ingest(self, content: bytes) -> dict[str, Any]:
        answer = await self.client.post("/documents", files={"file": ("a.pdf", content)})
        task = await self.client.get(f"/tasks/{answer.json()['task_id']}?wait=30")
        await self._until_counted()
        found: dict[str, Any] = task.json()
        return found

    async def _until_counted(self) -> None:
        """A worker counts a verdict after its commit."""
        async with self.database.autocommit() as connection:
            ended = await connection.scalar(
                text("SELECT count(*) FROM ingestions WHERE status IN ('success', 'error')")
            )
        async with asyncio.timeout(20):
            while verdicts(await self.of_worker()) < ended:  # noqa: ASYNC110 - it is a poll
                await asyncio.sleep(0.05)


def samples(exposition: str) -> Samples:
    """By name and value of the label; raises ValueError when Prometheus could not read it."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }


def verdicts(of_worker: Samples) -> float:
    return sum(value for name, value in of_worker.items() if "_verdicts_total" in name)


def pdf(pages: int) -> bytes:
    document = FPDF()
    document.set_font("helvetica", size=10)
    for _ in range(pages):
        document.add_page()
        document.cell(text=f"This page speaks of {uuid4()} and of nothing else.")
    return bytes(document.output())


@pytest.fixture(scope="module")
def embedding_url() -> Iterator[str]:
    with served_by(BillingServer) as url:
        yield url


@pytest.fixture(scope="module")
async def watched(
    settings: Settings,
    serve: Any,
    postgres: EmbeddedPostgres,
    valkey: EmbeddedValkey,
    embedding_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Watched]:
    folder, port = tmp_path_factory.mktemp("metrics"), free_port()
    broker_url = empty_broker(valkey, 12)
    environment = {
        "DATABASE_URL": await migrated(postgres, "metrics"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (folder / "files").as_uri(),
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": embedding_url,
        "EMBEDDING_DIMENSIONS": "4",
        "WORKER_METRICS_PORT": str(port),
    }
    ours = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    worker = WorkerProcess(environment, folder / "worker.log", "--concurrency", "2")
    database = Database(environment["DATABASE_URL"])
    with worker, Celery(broker=broker_url) as celery:
        await asyncio.to_thread(worker.wait_until_ready, celery)
        async with (
            serve(create_app(ours)) as served,
            httpx.AsyncClient(base_url=served.url, timeout=40) as client,
        ):
            yield Watched(
                client, served.services.figures, worker, f"http://127.0.0.1:{port}/metrics", database
            )
    await database.close()


async def test_the_work_of_all_processes_is_counted(watched: Watched) -> None:
    at_first = await watched.of_worker()
    assert at_first["pdf_ingest_process_lease_losses_total"] == 0
    tasks = await asyncio.gather(*(watched.ingest(pdf(pages)) for pages in (1, 2, 3, 4)))
    damaged = await watched.ingest(b"%PDF-1.4 damaged")
    assert [task["status"] for task in tasks] == ["success"] * 4
    chunks = sum(task["progress"]["chunks"] for task in tasks)
    service, worker = await watched.of_service(), await watched.of_worker()
    for prefix, counted in (("pdf_ingest_", service), ("pdf_ingest_process_", worker)):
        assert counted[f"{prefix}verdicts_total success"] == 4
        assert counted[f"{prefix}verdicts_total {damaged['result']['code']}"] == 1
        assert counted[f"{prefix}pages_total"] == 10
        assert counted[f"{prefix}chunks_total"] == chunks
        for stage in ("reading", "embedding", "storing"):
            assert 0 < counted[f"{prefix}stage_seconds_total {stage}"] < 60
    assert service["pdf_ingest_stage_seconds_total embedding"] == pytest.approx(
        worker["pdf_ingest_process_stage_seconds_total embedding"], rel=0.01
    )
    assert service["pdf_ingest_database_up"] == 1
    assert (service["pdf_ingest_sandbox full"], service["pdf_ingest_sandbox none"]) == (1, 0)
    assert service["pdf_ingest_queue_length"] == service["pdf_ingest_queue_oldest_seconds"] == 0


async def test_calls_tokens_and_429s_of_the_embedder_are_counted(watched: Watched) -> None:
    await watched.ingest(pdf(1))
    before = await watched.of_worker()
    await watched.ingest(pdf(1))
    after = await watched.of_worker()
    calls, tokens = (
        "pdf_ingest_process_embedding_requests_total 200",
        "pdf_ingest_process_embedding_tokens_total",
    )
    assert after["pdf_ingest_process_embedding_requests_total 429"] == 1
    assert after[calls] == before[calls] + 1
    assert after[tokens] == after[calls] * TOKENS
    before = await watched.of_service()
    await watched.client.post("/search", json={"query": "of nothing else"})
    after = await watched.of_service()
    assert after[calls] == before.get(calls, 0) + 1, "the API counts what it asks itself"


async def test_what_a_replaced_process_counted_is_not_forgotten(watched: Watched) -> None:
    before = await watched.of_worker()
    for child in watched.worker.children():
        child.kill()
    await watched.ingest(pdf(1))
    after = await watched.of_worker()
    pages = "pdf_ingest_process_pages_total"
    assert after[pages] == before[pages] + 1 > 1


async def test_the_queue_and_its_age_are_seen(watched: Watched) -> None:
    await watched.ingest(pdf(1))
    children = watched.worker.children()
    for child in children:
        child.suspend()
    try:
        files = {"file": ("a.pdf", pdf(1))}
        waiting = (await watched.client.post("/documents", files=files)).json()["task_id"]
        await asyncio.sleep(0.5)
        service = await watched.of_service()
    finally:
        for child in children:
            child.resume()
    assert service["pdf_ingest_queue_length"] == service["pdf_ingest_unfinished queued"] == 1
    assert 0.5 < service["pdf_ingest_queue_oldest_seconds"] < 30
    await watched.client.get(f"/tasks/{waiting}?wait=30")
    assert (await watched.of_service())["pdf_ingest_queue_length"] == 0


async def test_a_lease_that_is_taken_away_is_counted(watched: Watched) -> None:
    lost = "pdf_ingest_process_lease_losses_total"
    before = await watched.of_worker()
    async with watched.database.transaction() as connection:  # batches of chunks wait for this lock
        await connection.execute(text("LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE"))
        answer = await watched.client.post("/documents", files={"file": ("a.pdf", pdf(1))})
        task_id = answer.json()["task_id"]
        async with asyncio.timeout(20):
            while (await watched.client.get(f"/tasks/{task_id}")).json()["status"] != "processing":  # noqa: ASYNC110 - it is a poll
                await asyncio.sleep(0.05)
        await connection.execute(
            text(
                "UPDATE ingestions SET status = 'cancelled', finished_at = now() WHERE id = CAST(:id AS uuid)"
            ),
            {"id": task_id},
        )
    async with asyncio.timeout(20):
        while (await watched.of_worker())[lost] != before[lost] + 1:  # noqa: ASYNC110 - it is a poll
            await asyncio.sleep(0.1)


async def test_without_a_database_there_are_still_counts(
    settings: Settings, serve: Any, postgres: EmbeddedPostgres
) -> None:
    ours = settings.model_copy(update={"database_url": await migrated(postgres, "vanishing")})
    control = Database(postgres.url("postgres"))
    async with (
        serve(create_app(ours)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        async with control.transaction() as connection:
            await connection.execute(text("ALTER DATABASE vanishing ALLOW_CONNECTIONS false"))
            await connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'vanishing'")
            )
        told = await client.get("/metrics")
        assert told.status_code == 200
        assert samples(told.text)["pdf_ingest_database_up"] == 0
        assert "pdf_ingest_process_lease_losses_total" in samples(told.text)
    await control.close()


async def test_metrics_have_a_switch_and_want_no_key(settings: Settings, serve: Any) -> None:
    locked = settings.model_copy(update={"api_keys": SecretStr("alice:key")})
    async with serve(create_app(locked)) as served, httpx.AsyncClient() as client:
        assert (await client.get(f"{served.url}/metrics")).status_code == 200
    silent = settings.model_copy(update={"metrics_enabled": False})
    async with serve(create_app(silent)) as served, httpx.AsyncClient() as client:
        assert (await client.get(f"{served.url}/metrics")).status_code == 404


async def test_a_port_in_use_is_said_in_a_sentence(broker_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        environment = {"CELERY_BROKER_URL": broker_url, "WORKER_METRICS_PORT": str(taken.getsockname()[1])}
        with WorkerProcess(environment, tmp_path / "worker.log", "--concurrency", "1") as worker:
            assert worker.process is not None
            assert await asyncio.to_thread(worker.process.wait, 30) != 0
    assert (
        f"WORKER_METRICS_PORT {environment['WORKER_METRICS_PORT']}: Address already in use."
        in worker.output()
    )
    assert "Traceback" not in worker.output()


async def test_only_the_parent_holds_the_port(watched: Watched) -> None:
    """Or a child that outlived it would keep the next worker from starting."""
    listening = [
        process.pid
        for process in (psutil.Process(watched.worker.pid), *watched.worker.children())
        if any(one.status == psutil.CONN_LISTEN for one in process.net_connections(kind="inet"))
    ]
    assert listening == [watched.worker.pid]
