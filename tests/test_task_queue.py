"""The doorbell, on a real broker."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis

from app.local.embedded import EmbeddedValkey
from app.task_queue import QUEUE, TaskQueue, new_celery
from tests.databases import empty_broker


@pytest.fixture
def broker_url(valkey: EmbeddedValkey) -> str:
    return empty_broker(valkey, 14)


@pytest.fixture
def queue(broker_url: str) -> Iterator[TaskQueue]:
    queue = TaskQueue(broker_url)
    yield queue
    queue.close()


def receive(broker_url: str, count: int) -> list[UUID]:
    """The ids of the next messages, in the order in which a worker gets them."""
    with new_celery(broker_url, None) as celery, celery.connection_for_read() as connection:
        messages = connection.SimpleQueue(QUEUE)
        received = []
        for _ in range(count):
            message = messages.get(timeout=5)
            message.ack()
            received.append(UUID(message.headers["id"]))
        messages.close()
        return received


async def test_work_that_was_begun_is_heard_before_new_work(queue: TaskQueue, broker_url: str) -> None:
    new, begun = [uuid4() for _ in range(3)], uuid4()
    for ingestion_id in new:
        assert await queue.enqueue(ingestion_id)
    assert await queue.enqueue(begun, is_begun=True)
    assert await queue.length() == 4
    assert receive(broker_url, 4) == [begun, *new]


def test_code_without_a_loop_rings_too(queue: TaskQueue, broker_url: str) -> None:
    ingestion_id = uuid4()
    assert queue.enqueue_from_sync(ingestion_id)
    assert receive(broker_url, 1) == [ingestion_id]


async def test_a_running_loop_is_not_blocked_but_told_what_to_call(queue: TaskQueue) -> None:
    with pytest.raises(RuntimeError, match=r"await enqueue\(\) instead"):
        queue.enqueue_from_sync(uuid4())
    assert await queue.length() == 0


async def test_asking_again_and_again_takes_no_new_connections(queue: TaskQueue, broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as broker:
        assert await queue.enqueue(uuid4())
        before = broker.info()["total_connections_received"]
        for _ in range(20):
            assert await queue.length() == 1
            assert await queue.ping()
        assert broker.info()["total_connections_received"] - before <= 1
    receive(broker_url, 1)


async def test_an_open_connection_survives_a_restart_of_the_broker(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "valkey", is_durable=False) as valkey:
        queue = TaskQueue(valkey.url)
        assert await queue.length() == 0
        valkey.stop()
        assert await queue.length() is None
        valkey.start()
        assert await queue.length() == 0
        assert await queue.enqueue(uuid4())
        assert await queue.length() == 1
        queue.close()


async def test_a_broker_that_is_down_is_said_and_not_raised() -> None:
    queue = TaskQueue("redis://127.0.0.1:1/0")
    try:
        assert await queue.enqueue(uuid4()) is False
        assert await asyncio.to_thread(queue.enqueue_from_sync, uuid4()) is False
        assert await queue.length() is None
    finally:
        queue.close()


@pytest.mark.parametrize("turns", range(4))
async def test_a_sender_cancelled_just_when_the_broker_answers_does_stop(
    queue: TaskQueue, turns: int
) -> None:
    """asyncio.wait_for loses that cancellation before Python 3.12: a sweeper then swept for ever."""

    async def send_and_go_on() -> None:
        await queue.length()
        await asyncio.sleep(5)

    sending = asyncio.create_task(send_and_go_on())
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the answer arrives meanwhile, and the loop has not heard of it
    for _ in range(turns):
        await asyncio.sleep(0)
    sending.cancel()
    await asyncio.wait([sending], timeout=1)
    assert sending.cancelled()
