"""What one API process stands at once.

2,000 idle event streams, 200 clients that ask for a task each second, 8 uploads of 4 MB under way all the
time (each on a line of 1 MB/s, which takes it 4 s), and 4 searchers, for a minute; then the same while
the embedder takes requests and never answers. The worker is stopped before, so that what waits goes on
waiting. The clients share the machine with the API.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from statistics import median

import httpx
import psutil

from app.local.chaos.pdfs import pdf_of
from benchmarks.clients import Connection, form, queue_tasks, upload, verdict
from benchmarks.report import Cell, Curves, Row, Table, latencies
from benchmarks.run import Run
from benchmarks.stacks import Embedding, Measured, running

STREAMS = 2_000
POLLERS, POLL_SECONDS = 200, 1.0
UPLOADERS, UPLOAD_PIECES, PIECE_BYTES, PIECE_SECONDS = 8, 40, 100_000, 0.1
SEARCHERS = 4
DOCUMENTS = 20
DIMENSIONS = 384
WORDS = ("salt", "marsh", "grass", "wave", "tide", "mud", "storm", "crab", "heron", "creek", "dyke", "silt")
FOREVER = 1e6
SECONDS, QUICK_SECONDS = 60.0, 8.0
QUICK_STREAMS = 100


@dataclass
class Seen:
    """What the clients met."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    api_cpu_share: float = 0.0

    async def timed(self, what: str, asking: Awaitable[int]) -> None:
        began = time.perf_counter()
        with self.noting_breaks(what):
            status = await asking
            self.milliseconds[what].append(1000 * (time.perf_counter() - began))
            self.statuses[f"{what}: {status}"] += 1

    @contextmanager
    def noting_breaks(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.broken[f"{what}: {type(error).__name__}"] += 1


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


async def upload_slowly(url: str, seen: Seen) -> None:
    async with Connection(url) as connection:
        while True:
            content = b"%PDF-1.7 " + os.urandom(UPLOAD_PIECES * PIECE_BYTES)
            with seen.noting_breaks("an upload's bytes"):
                await send_slowly(connection, *form(content))
            await seen.timed("POST /documents, from its last byte", connection.answer())


async def send_slowly(connection: Connection, body: bytes, kind: str) -> None:
    connection.begin("POST", "/documents", len(body), kind)
    for start in range(0, len(body), PIECE_BYTES):
        connection.writer.write(body[start : start + PIECE_BYTES])
        await connection.writer.drain()
        await asyncio.sleep(PIECE_SECONDS)


async def watch(api: psutil.Process, seen: Seen) -> None:
    while True:
        seen.memory.append(api.memory_info().rss)
        await asyncio.sleep(0.5)


async def load(measured: Measured, task_ids: list[str], seconds: float) -> Seen:
    """What the clients saw."""
    seen, url = Seen(), measured.url
    api = psutil.Process(measured.stack.part("api").pid)
    async with idle_streams(url, task_ids, seen):
        with measured.processes() as processes:
            clients: list[Callable[[int], Awaitable[None]]] = [
                *[lambda number: poll(url, task_ids[number % len(task_ids)], seen)] * POLLERS,
                *[lambda _: search(url, seen)] * SEARCHERS,
                *[lambda _: upload_slowly(url, seen)] * UPLOADERS,
                lambda _: watch(api, seen),
            ]
            tasks = [asyncio.ensure_future(client(number)) for number, client in enumerate(clients)]
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
    seen.api_cpu_share = processes.use["api"].cpu_seconds / seconds
    return seen


async def publish_documents(run: Run, measured: Measured) -> None:
    """Something to search in; then nobody works any more."""
    path = run.folder / "one.pdf"
    for _ in range(DOCUMENTS):
        pages = [[" ".join(random.choices(WORDS, k=12)) for _ in range(40)] for _ in range(10)]
        path.write_bytes(pdf_of(pages))
        await verdict(measured.url, await upload(measured.url, path))
    await measured.stack.part("worker").stop()


def measure(run: Run) -> list[Table | Curves]:
    seen = asyncio.run(_measure(run))
    rows = [row for what, one in seen.items() for row in _rows(what, one)]
    summary = [{"while": what, **_summary(one)} for what, one in seen.items()]
    streams = QUICK_STREAMS if run.is_quick else STREAMS
    note = (
        f"{streams:,} event streams, {POLLERS} pollers, {UPLOADERS} uploads, {SEARCHERS} searchers, one API."
    )
    return [Table("Everything at once", rows, note), Table("The API meanwhile", summary, "")]


async def _measure(run: Run) -> dict[str, Seen]:
    seconds = QUICK_SECONDS if run.is_quick else SECONDS
    embedding = Embedding(dimensions=DIMENSIONS, delay_ms=0)
    async with running(run, embedding, workers=1) as measured:
        await publish_documents(run, measured)
        task_ids = await queue_tasks(measured.url, QUICK_STREAMS if run.is_quick else STREAMS)
        answering = await load(measured, task_ids, seconds)
        server = measured.stack.environment["EMBEDDING_BASE_URL"].removesuffix("/v1")
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{server}/stub", json={"delay_seconds": FOREVER})).raise_for_status()
        return {"the embedder answers": answering, "it hangs": await load(measured, task_ids, seconds)}


def _rows(what: str, seen: Seen) -> list[Row]:
    return [
        {"while": what, "request": name, "answers": len(values), **latencies(values), "max ms": max(values)}
        for name, values in sorted(seen.milliseconds.items())
    ]


def _summary(seen: Seen) -> dict[str, Cell]:
    third = max(1, len(seen.memory) // 3)
    first, last = (median(part) / 1e6 for part in (seen.memory[:third], seen.memory[-third:]))
    errors = {name: count for name, count in seen.statuses.items() if name[-3:-2] in "45"} | seen.broken
    return {
        "of a core": seen.api_cpu_share,
        "MB at first": first,
        "MB at last": last,
        "searches by words only": seen.statuses["searches by words only"],
        "errors": str(dict(errors) or "none"),
    }
