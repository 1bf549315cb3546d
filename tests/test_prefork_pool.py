"""Results that the processes of a worker send it, when the broker is lost in the middle of one."""

import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

import app.worker  # noqa: F401 - it is what makes the pool keep results


class Process:
    """A process of a pool, as its worker sees it: the end of a pipe, which never keeps the worker waiting."""

    def __init__(self) -> None:
        self.fd, self._other = os.pipe()
        os.set_blocking(self.fd, False)

    def send(self, part: bytes) -> None:
        os.write(self._other, part)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._other)


class Worker:
    """What of a worker listens to one process."""

    def __init__(self, process: Process) -> None:
        self.heard: list[Any] = []
        self._process = process
        self._hub = Hub()
        self._handler = AsynPool.ResultHandler(
            *[None] * 9, fileno_to_outq={process.fd: process}, on_process_alive=None
        )
        self._handler.on_state_change = self.heard.append
        self.connect()

    def connect(self) -> None:
        """To the broker, for the first time or again, as Celery does it."""
        self._hub.reset()
        self._handler.register_with_event_loop(self._hub)
        self._hub.add_reader(self._process.fd, self._handler.handle_event, self._process.fd)

    def listen(self) -> None:
        while self._process.fd in self._hub.readers and self._hub.poller.poll(0):
            callback, arguments = self._hub.readers[self._process.fd]
            try:
                next(callback) if hasattr(callback, "send") else callback(*arguments)
            except StopIteration:
                continue


def message(content: object) -> bytes:
    body = pickle.dumps(content, protocol=4)
    return len(body).to_bytes(4, "big") + body


@pytest.fixture
def process() -> Iterator[Process]:
    opened = Process()
    yield opened
    opened.close()


@pytest.mark.parametrize("read", [1, 4, 9, 60])
def test_a_result_of_which_a_part_was_read_when_the_broker_was_lost_is_read_to_its_end(
    process: Process, read: int
) -> None:
    worker = Worker(process)
    sent = message({"result": "x" * 100})
    process.send(sent[:read])
    worker.listen()
    worker.connect()
    worker.listen()
    process.send(sent[read:] + message("the next"))
    worker.listen()
    assert worker.heard == [{"result": "x" * 100}, "the next"]
