"""Messages of tasks that name a path: nobody else knows of them, so none may be lost on its way."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from celery import Celery
from kombu.connection import Connection
from kombu.transport import redis as kombu_redis

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.redis_broker import KeepingQoS
from app.storage.database import Database
from tests.databases import migrated
from tests.processes import WorkerProcess
from tests.test_worker import get, row_of, wait_for_row, write_pdf

# Before a message reaches a process of the worker, timers of kombu (bindings, heartbeat, mutex) wait 5 to
# 10 s for a Redis that is silent: 40 to 60 s were seen, with 0.1 s of CPU in them.
SILENCE_SECONDS = 180.0


@dataclass
class Delivery:
    """A broker of the test's own, to be broken, and what workers and clients of it need."""

    folder: Path
    environment: dict[str, str]
    database: Database
    broker: redis.Redis
    client: Celery

    def worker(self, **environment: str) -> WorkerProcess:
        options = ("--concurrency", "1", "--without-mingle", "--without-gossip")
        return WorkerProcess(self.environment | environment, self.folder / "worker.log", *options)

    def send(self) -> str:
        path = write_pdf(self.folder / f"{uuid4()}.pdf", pages=1)
        return str(self.client.send_task("ingest_pdf_task", args=[str(path)]).id)

    async def hand_out(self, worker: WorkerProcess) -> str:
        """Stop a worker while it waits for messages, and have Redis give it one."""
        deadline = time.monotonic() + 60
        while True:
            os.kill(worker.pid, signal.SIGSTOP)
            task_id = self.send()
            await asyncio.sleep(0.1)
            if self.broker.llen("celery") == 0 == self.broker.hlen("pdf_ingest_unacked"):
                return task_id
            os.kill(worker.pid, signal.SIGCONT)  # it waited for none at that moment, and takes this one now
            await wait_for_row(self.database, task_id, lambda row: row.status == "success")
            assert time.monotonic() < deadline


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "valkey", is_durable=False) as server:
        yield server


@pytest.fixture
async def delivery(
    postgres: EmbeddedPostgres, broken: EmbeddedValkey, tmp_path: Path
) -> AsyncIterator[Delivery]:
    environment = {
        "DATABASE_URL": await migrated(postgres, f"deliveries_{uuid4().hex}"),
        "CELERY_BROKER_URL": broken.url,
        "CELERY_RESULT_BACKEND": broken.url,
        "STORAGE_URL": (tmp_path / "files").as_uri(),
        "INGEST_FOLDERS": str(tmp_path),
    }
    database = Database(environment["DATABASE_URL"])
    with (
        redis.Redis.from_url(broken.url) as broker,
        Celery(broker=broken.url, backend=broken.url) as client,
    ):
        yield Delivery(tmp_path, environment, database, broker, client)
    await database.close()


@contextmanager
def full(broker: redis.Redis) -> Iterator[None]:
    broker.config_set("maxmemory", 1)
    yield
    broker.config_set("maxmemory", 0)


@contextmanager
def without_replicas(broker: redis.Redis) -> Iterator[None]:
    broker.config_set("min-replicas-to-write", 1)
    yield
    broker.config_set("min-replicas-to-write", 0)


@contextmanager
def silent(broker: redis.Redis) -> Iterator[None]:
    broker.client_pause(int(SILENCE_SECONDS * 1000), all=False)
    yield
    broker.client_unpause()


def test_a_redis_that_does_not_take_an_acknowledgement_ends_nobody(
    broken: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kombu_redis.Channel, "QoS", KeepingQoS)
    with Connection(broken.url) as connection, redis.Redis.from_url(broken.url) as broker:
        queue = connection.SimpleQueue("told")
        queue.put({"told": 1})
        message = queue.get(timeout=10)
        with without_replicas(broker):
            message.ack()
        assert message.acknowledged
        assert broker.hlen("unacked") == 1, "it is handed out again"
        queue.put({"told": 2})
        queue.get(timeout=10).ack()
        assert broker.hlen("unacked") == 1
        queue.close()


@pytest.mark.heavy
@pytest.mark.parametrize("harmed", [full, without_replicas, silent])
async def test_a_message_that_redis_has_handed_out_and_not_noted_is_worked_on(
    delivery: Delivery, harmed: Callable[[redis.Redis], AbstractContextManager[None]]
) -> None:
    """It is popped, and then the broker takes no writes, such as this note. The worker goes on."""
    with delivery.worker() as worker:
        worker.wait_until_ready(delivery.client)
        task_id = await delivery.hand_out(worker)
        with harmed(delivery.broker):
            os.kill(worker.pid, signal.SIGCONT)
            await wait_for_row(
                delivery.database, task_id, lambda row: row.status == "success", SILENCE_SECONDS - 30
            )
        await wait_for_row(delivery.database, delivery.send(), lambda row: row.status == "success", 60)
        assert worker.children()


@pytest.mark.heavy
async def test_what_a_killed_worker_had_not_begun_is_redelivered_after_a_minute(delivery: Delivery) -> None:
    delivery.broker.config_set("maxmemory-policy", "allkeys-lru")  # which a worker warns of
    with delivery.worker() as worker:
        worker.wait_until_ready(delivery.client)
        assert '"policy": "allkeys-lru"' in worker.output()
        (child,) = worker.children()
        child.suspend()
        task_id = delivery.send()
        deadline = time.monotonic() + 10
        while not delivery.broker.hlen("pdf_ingest_unacked"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        worker.kill()
    assert await row_of(delivery.database, task_id) is None
    (tag,) = delivery.broker.hkeys("pdf_ingest_unacked")
    delivery.broker.zincrby("pdf_ingest_unacked_index", -60, tag)  # a minute goes by
    with delivery.worker():
        await wait_for_row(delivery.database, task_id, lambda row: row.status == "success", 60)


@pytest.mark.heavy
async def test_a_limit_shorter_than_the_start_of_a_process_ends_nothing_without_a_row(
    delivery: Delivery,
) -> None:
    with delivery.worker(TASK_SOFT_LIMIT_SECONDS="0.5", TASK_HARD_LIMIT_SECONDS="60") as worker:
        worker.wait_until_ready(delivery.client)
        task_id = delivery.send()
        result = await get(delivery.client, task_id)
    row = await row_of(delivery.database, task_id)
    assert (row.status, row.error_code) == (result["status"], result.get("code"))
