"""What one API process stands at once: `python -m benchmarks.load`.

2,000 idle event streams, 200 clients that ask for a task each second, 8 uploads of 4 MB under way all the
time (each on a line of 1 MB/s), and 4 searchers, for a minute; then the same while the embedder takes
requests and never answers. Postgres and Valkey are this program's own, no worker runs, so that what waits
goes on waiting. The clients share the machine with the API: their own CPU time is printed, too.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psutil
from rich.console import Console
from rich.table import Table

from app.api.connections import allow_many
from app.config import Settings
from app.local.chaos.audit import percentile
from app.local.chaos.embedding_stub import EmbeddingStub, serving
from app.local.chaos.pdfs import pdf_of
from app.resources import open_rag_service
from benchmarks.upload import running_api

STREAMS = 2_000
POLLERS, POLL_SECONDS = 200, 1.0
UPLOADERS, UPLOAD_PIECES, PIECE_BYTES, PIECE_SECONDS = 8, 40, 100_000, 0.1
SEARCHERS = 4
DOCUMENTS = 20
DIMENSIONS = 384
WORDS = ("salt", "marsh", "grass", "wave", "tide", "mud", "storm", "crab", "heron", "creek", "dyke", "silt")
FOREVER = 1e6


@dataclass
class Seen:
    """What the clients met."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)

    async def timed(self, what: str, asking: Awaitable[int]) -> None:
        began = time.perf_counter()
        try:
            status = await asking
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.broken[f"{what}: {type(error).__name__}"] += 1
            return
        self.milliseconds[what].append(1000 * (time.perf_counter() - began))
        self.statuses[f"{what}: {status}"] += 1


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


def form(*contents: bytes) -> tuple[bytes, str]:
    """(body, its media type)."""
    boundary = uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'.encode()
    body = b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


async def queue_tasks(url: str, count: int) -> list[str]:
    """Ids of tasks that nobody works on."""
    task_ids: list[str] = []
    async with Connection(url) as connection:
        while len(task_ids) < count:
            body, kind = form(*(f"%PDF-1.7 {uuid4()}".encode() for _ in range(min(500, count))))
            assert await connection.ask("POST", "/documents", body, kind) == 202
            task_ids += [entry["task_id"] for entry in json.loads(connection.body)["data"]]
    return task_ids


async def publish_documents(url: str, settings: dict[str, str]) -> None:
    """Something to search in, ingested by this process."""
    lines = [[" ".join(random.choices(WORDS, k=12)) for _ in range(40)] for _ in range(10)]
    ours = Settings.model_validate({name.lower(): value for name, value in settings.items()})
    async with open_rag_service(ours) as rag:
        for _ in range(DOCUMENTS):
            body, kind = form(pdf_of([*lines, [str(uuid4())]]))
            async with Connection(url) as connection:
                assert await connection.ask("POST", "/documents", body, kind) == 202
                await rag.ingest_pdf("", UUID(json.loads(connection.body)["task_id"]))


@asynccontextmanager
async def idle_streams(url: str, task_ids: list[str], seen: Seen) -> AsyncIterator[None]:
    """Open until the block ends; whatever ends before is noted."""

    async def follow(task_id: str) -> None:
        async with Connection(url) as connection:
            connection.begin("GET", f"/tasks/{task_id}/events")
            try:
                status, _ = await connection.head()
                seen.statuses[f"event streams: {status}"] += 1
                while await connection.reader.read(65_536):
                    pass
                seen.broken["event streams: ended"] += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                seen.broken[f"event streams: {type(error).__name__}"] += 1

    streams = []
    for task_id in task_ids:
        streams.append(asyncio.create_task(follow(task_id)))
        await asyncio.sleep(0.003)
    while seen.statuses.total() + seen.broken.total() < len(task_ids):  # noqa: ASYNC110 - of all at once
        await asyncio.sleep(0.1)
    yield
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)


async def poll(url: str, task_id: str, seen: Seen) -> None:
    await asyncio.sleep(random.uniform(0, POLL_SECONDS))
    async with Connection(url) as connection:
        while True:
            began = time.monotonic()
            await seen.timed("GET /tasks/{id}", connection.ask("GET", f"/tasks/{task_id}"))
            await asyncio.sleep(max(0, POLL_SECONDS - (time.monotonic() - began)))


async def search(url: str, seen: Seen) -> None:
    async with Connection(url) as connection:
        while True:
            question = json.dumps({"query": " ".join(random.choices(WORDS, k=4))}).encode()
            await seen.timed("POST /search", connection.ask("POST", "/search", question))
            seen.statuses["searches by words only"] += b'"embedder"' in connection.body


async def upload(url: str, seen: Seen) -> None:
    async with Connection(url) as connection:
        while True:
            content = b"%PDF-1.7 " + os.urandom(UPLOAD_PIECES * PIECE_BYTES)
            await seen.timed("POST /documents", send_slowly(connection, *form(content)))


async def send_slowly(connection: Connection, body: bytes, kind: str) -> int:
    connection.begin("POST", "/documents", len(body), kind)
    for start in range(0, len(body), PIECE_BYTES):
        connection.writer.write(body[start : start + PIECE_BYTES])
        await connection.writer.drain()
        await asyncio.sleep(PIECE_SECONDS)
    return await connection.answer()


async def watch(api: psutil.Process, seen: Seen) -> None:
    while True:
        seen.memory.append(api.memory_info().rss)
        await asyncio.sleep(0.5)


async def load(url: str, task_ids: list[str], seconds: float) -> tuple[Seen, float]:
    """What the clients saw, and the CPU seconds that the API used in each second."""
    seen = Seen()
    (api,) = (child for child in psutil.Process().children() if "uvicorn" in child.cmdline())
    async with idle_streams(url, task_ids, seen):
        used, began = sum(api.cpu_times()[:2]), time.monotonic()
        clients: list[Callable[[int], Awaitable[None]]] = [
            *[lambda number: poll(url, task_ids[number], seen)] * POLLERS,
            *[lambda _: search(url, seen)] * SEARCHERS,
            *[lambda _: upload(url, seen)] * UPLOADERS,
            lambda _: watch(api, seen),
        ]
        tasks = [asyncio.ensure_future(client(number)) for number, client in enumerate(clients)]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        return seen, (sum(api.cpu_times()[:2]) - used) / (time.monotonic() - began)


def report(console: Console, title: str, seen: Seen, cpu_share: float) -> bool:
    table = Table("milliseconds", "answers", "median", "p99", "max", box=None, title=title)
    for name, values in sorted(seen.milliseconds.items()):
        figures = (median(values), percentile(values, 0.99), max(values))
        table.add_row(name, f"{len(values):,}", *(f"{figure:,.1f}" for figure in figures))
    console.print(table)
    third = max(1, len(seen.memory) // 3)
    first, last = (median(part) / 1e6 for part in (seen.memory[:third], seen.memory[-third:]))
    console.print(f"memory: {first:.0f} MB in the first third, {last:.0f} MB in the last")
    console.print(f"the API used {100 * cpu_share:.0f} % of a core")
    console.print(f"answers: {dict(sorted(seen.statuses.items()))}")
    errors = {name: count for name, count in seen.statuses.items() if name[-3:-2] in "45"} | seen.broken
    console.print(f"errors: {errors or 'none'}\n")
    return not errors


async def measure(seconds: float) -> bool:
    console = Console(width=110)
    stub = EmbeddingStub(dimensions=DIMENSIONS)
    with tempfile.TemporaryDirectory() as folder, serving(stub.app) as embedder:
        embedding = {"EMBEDDING_PROVIDER": "openai", "EMBEDDING_BASE_URL": embedder}
        embedding |= {"EMBEDDING_API_KEY": "none", "EMBEDDING_DIMENSIONS": str(DIMENSIONS)}
        with running_api(Path(folder), **embedding) as (url, settings):
            await publish_documents(url, settings)
            task_ids = await queue_tasks(url, STREAMS)
            console.print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            is_good = report(console, "the embedder answers", *await load(url, task_ids, seconds))
            stub.behaviour.delay_seconds = FOREVER
            return report(console, "the embedder hangs", *await load(url, task_ids, seconds)) and is_good


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    allow_many()
    if not asyncio.run(measure(arguments.parse_args().seconds)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
