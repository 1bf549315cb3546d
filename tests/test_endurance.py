"""Ten thousand tasks through one worker process leave nothing behind."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery, group

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.databases import empty_broker
from tests.processes import WorkerProcess

pytestmark = pytest.mark.heavy
TASKS = 10_000


@pytest.fixture
def client(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[Celery]:
    broker_url = empty_broker(valkey, 1)
    environment = {"DATABASE_URL": postgres.url("postgres"), "CELERY_BROKER_URL": broker_url}
    worker = WorkerProcess(
        environment, tmp_path / "log", "--concurrency", "1", app="tests.bridge_tasks", level="warning"
    )
    with Celery(broker=broker_url, backend=broker_url) as client, worker:
        worker.wait_until_ready(client)
        yield client


def run_queries(client: Celery, numbers: range) -> list[int]:
    sent = group(client.signature("query", args=[number]) for number in numbers).apply_async()
    return list(sent.get(timeout=300))


async def test_ten_thousand_tasks_leak_nothing(client: Celery) -> None:
    assert await asyncio.to_thread(run_queries, client, range(200)) == list(range(200))
    before = await asyncio.to_thread(client.send_task("count").get, timeout=10)
    assert await asyncio.to_thread(run_queries, client, range(TASKS)) == list(range(TASKS))
    assert await asyncio.to_thread(client.send_task("count").get, timeout=10) == before
