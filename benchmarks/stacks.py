"""Stacks for measuring: the whole service in a folder of its own, an embedding server beside it."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import asyncpg
import httpx

from app.local.embedded import free_port
from app.local.stack import Stack
from benchmarks.processes import Processes
from benchmarks.run import Run

OURS = ("api", "worker", "reader", "postgres", "valkey")
START_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Who embeds: the built-in model, or a server of our own with so many dimensions and so slow."""

    dimensions: int = 256
    delay_ms: float | None = None
    """None: built in."""

    @property
    def name(self) -> str:
        return "built in" if self.delay_ms is None else f"server, {self.delay_ms:g} ms"


BUILT_IN = Embedding()


@dataclass(frozen=True, slots=True)
class Measured:
    """A running stack."""

    stack: Stack
    parts: tuple[str, ...]
    embedder_pid: int | None

    @property
    def url(self) -> str:
        return self.stack.url

    def processes(self) -> Processes:
        """To be entered while they run; the embedding server is not ours, and counted apart."""
        roots = {name: self.stack.part(name).pid for name in self.parts}
        return Processes(**roots, embedder=self.embedder_pid)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        url = self.stack.environment["DATABASE_URL"].replace("+asyncpg", "")
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def running(
    run: Run, embedding: Embedding = BUILT_IN, *, workers: int = 2, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Measured]:
    """A stack, durable as `pdf-ingest up` is, with a worker of so many processes; 0: without a worker."""
    with serving(embedding) as (pid, embedder):
        said: list[str] = []
        worker_names = ("worker",) if workers else ()
        stack = Stack(
            run.fresh("stack"),
            port=free_port(),
            workers=workers,
            say=lambda name, line: said.append(f"{name}: {line}"),
            worker_names=worker_names,
            settings={"LOG_LEVEL": "WARNING"} | embedder | dict(settings or {}),
        )
        try:
            async with stack:
                yield Measured(stack, ("api", *worker_names, "postgres", "valkey"), pid)
        except Exception:
            run.say("\n".join(said[-20:]))
            raise


@contextmanager
def serving(embedding: Embedding) -> Iterator[tuple[int | None, dict[str, str]]]:
    """(its process, what the service has to be told)."""
    if embedding.delay_ms is None:
        yield None, {"EMBEDDING_PROVIDER": "local"}
        return
    port = free_port()
    command = [sys.executable, "-m", "app.local.chaos.embedding_stub", "--port", str(port)]
    command += ["--dimensions", str(embedding.dimensions), "--delay-ms", str(embedding.delay_ms)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/stub")
        yield process.pid, of_server(port, embedding.dimensions)
    finally:
        process.kill()
        process.wait()


def of_server(port: int, dimensions: int) -> dict[str, str]:
    """Settings for an embedding server on this machine."""
    return {
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "EMBEDDING_API_KEY": "none",
        "EMBEDDING_DIMENSIONS": str(dimensions),
    }


def wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer")
