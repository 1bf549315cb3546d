"""Clients that cost little: they share the machine with what they measure."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import uvloop

FINAL_SECONDS = 60


class Connection:
    """HTTP/1.1 with the least of a client: httpx would take more of the machine than the API does."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self.body = b""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            self._address.hostname, self._address.port, limit=2**20
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> int:
        self.begin(method, path, len(body), kind)
        self.writer.write(body)
        return await self.answer()

    async def json(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
        """The body of a good answer. Raises AssertionError for a refusal, with it."""
        status = await self.ask(method, path, body, kind)
        assert status < 300, f"{method} {path}: {status} {self.body!r}"
        return json.loads(self.body)

    def begin(self, method: str, path: str, length: int = 0, kind: str = "application/json") -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._address.netloc}"]
        lines += [f"Content-Type: {kind}", f"Content-Length: {length}"] if length else []
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def head(self) -> tuple[int, bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        return int(head.split(None, 2)[1]), head

    async def answer(self) -> int:
        status, head = await self.head()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        self.body = await self.reader.readexactly(length)
        return status


def form(*contents: bytes, **fields: str) -> tuple[bytes, str]:
    """(body, its media type) of an upload."""
    boundary = uuid4().hex
    line = f"--{boundary}\r\nContent-Disposition: form-data; name="
    head = f'{line}"file"; filename="a.pdf"\r\n\r\n'.encode()
    body = b"".join(f'{line}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items())
    body += b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


async def queue_tasks(url: str, count: int) -> list[str]:
    """Ids of tasks that nobody works on."""
    task_ids: list[str] = []
    async with Connection(url) as connection:
        while len(task_ids) < count:
            contents = (f"%PDF-1.7 {uuid4()}".encode() for _ in range(min(500, count - len(task_ids))))
            answer = await connection.json("POST", "/documents", *form(*contents))
            task_ids += [entry["task_id"] for entry in answer.get("data", [answer])]
    return task_ids


async def upload(url: str, path: Path, **fields: str) -> str:
    """The id of its task."""
    content = await asyncio.to_thread(path.read_bytes)
    async with Connection(url) as connection:
        answer = await connection.json("POST", "/documents", *form(content, **fields))
    return str(answer["task_id"])


async def verdict(url: str, task_id: str) -> dict[str, Any]:
    """The task once it is final. Raises AssertionError unless it succeeded: its numbers would be untrue."""
    async with Connection(url) as connection:
        while True:
            task: dict[str, Any] = await connection.json("GET", f"/tasks/{task_id}?wait={FINAL_SECONDS}")
            if task["finished_at"] is not None:
                assert task["status"] == "success", task
                return task


@dataclass(frozen=True, slots=True)
class Hammered:
    """What the clients of `hammer` have seen."""

    milliseconds: list[float]
    seconds: float

    @property
    def a_second(self) -> float:
        return len(self.milliseconds) / self.seconds


async def hammer(
    url: str, ask: Callable[[Connection], Awaitable[object]], *, clients: int, seconds: float
) -> Hammered:
    """Each client asks on a connection of its own, again as soon as it is answered.

    On a uvloop in a thread, whose streams cost half of asyncio's.
    """
    return await asyncio.to_thread(_in_uvloop, _hammer(url, ask, clients, seconds))


def _in_uvloop(hammering: Coroutine[Any, Any, Hammered]) -> Hammered:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hammering)


async def _hammer(
    url: str, ask: Callable[[Connection], Awaitable[object]], clients: int, seconds: float
) -> Hammered:
    milliseconds: list[float] = []

    async def client() -> None:
        async with Connection(url) as connection:
            await ask(connection)  # opens what is opened once
            ready.append(True)
            await start.wait()
            while not is_over.is_set():
                began = time.perf_counter()
                await ask(connection)
                milliseconds.append(1000 * (time.perf_counter() - began))

    start, is_over, ready = asyncio.Event(), asyncio.Event(), list[bool]()
    tasks = [asyncio.ensure_future(client()) for _ in range(clients)]
    while len(ready) < clients and not any(task.done() for task in tasks):  # noqa: ASYNC110 - of all at once
        await asyncio.sleep(0.01)
    start.set()
    began = time.perf_counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.shield(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    is_over.set()
    await asyncio.gather(*tasks)
    return Hammered(milliseconds, time.perf_counter() - began)
