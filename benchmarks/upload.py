"""What the promise costs an upload: `python -m benchmarks.upload`.

Small PDFs go to a real API, one after the other, on a durable Postgres and Valkey of its own; no worker
runs, and this process takes each message from the queue itself. For each upload it measures the time until
the 202 is here and until the message is. Then the same without HTTP and without the file: rows and message
only. Beside it, in the same run: a request that does nothing (`GET /livez`), and Celery's plain
`send_task`, which promises less.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import orjson
import redis
from rich.console import Console
from rich.table import Table

from app.config import Settings
from app.local.chaos.audit import percentile
from app.local.chaos.pdfs import pdf_of
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from app.resources import open_services
from app.services.document_service import UploadOptions
from app.services.idempotency import Answer
from app.task_queue import BEGUN_PRIORITY, NEW_PRIORITY, QUEUE, new_celery

WARM_UP = 50
SECONDS_TO_START = 30
KOMBU_SEPARATOR = "\x06\x16"


def queues() -> list[str]:
    """Kombu's lists in Redis, one for each priority."""
    return [
        f"{QUEUE}{KOMBU_SEPARATOR}{priority}" if priority else QUEUE
        for priority in (BEGUN_PRIORITY, NEW_PRIORITY)
    ]


class Bell:
    """Takes messages as they come, and notes when each was heard first: the sweeper rings again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.is_enough = False
        self.heard: dict[str, float] = {}

    def listen(self) -> None:
        with redis.Redis.from_url(self._url, socket_timeout=None) as client:
            while not self.is_enough:
                if (popped := client.blpop(queues(), timeout=1)) is not None:
                    task_id = orjson.loads(popped[1])["headers"]["id"]
                    self.heard.setdefault(task_id, time.perf_counter())


@contextmanager
def running_api(folder: Path, **more: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(URL of the API, its settings), of which `more` are the caller's."""
    with EmbeddedPostgres(folder / "postgres") as postgres, EmbeddedValkey(folder / "valkey") as valkey:
        postgres.create_database("upload")
        settings = {
            "DATABASE_URL": postgres.url("upload"),
            "CELERY_BROKER_URL": valkey.url,
            "CELERY_RESULT_BACKEND": valkey.url,
            "STORAGE_URL": (folder / "files").as_uri(),
            "MAX_QUEUED": "1000000",
            "LOG_LEVEL": "WARNING",
            **more,
        }
        environment = os.environ | settings
        (folder / "files").mkdir()
        subprocess.run([sys.executable, "-m", "app.local.cli", "migrate"], env=environment, check=True)
        port = free_port()
        server = ("uvicorn", "--factory", "app.main:create_app", "--no-access-log", "--port", str(port))
        timed = ("--http", "app.api.connections:TimedHTTP")
        api = subprocess.Popen([sys.executable, "-m", *server, *timed], env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}", settings
        finally:
            api.terminate()
            api.wait(30)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the API did not start")


def measure_uploads(url: str, broker_url: str, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the request to its 202, and to its message in the queue."""
    bell = Bell(broker_url)
    listener = threading.Thread(target=bell.listen)
    listener.start()
    answered, asked = [], {}
    with httpx.Client(base_url=url, trust_env=False) as client:
        for _ in range(WARM_UP + count):
            content = pdf_of([[f"A page of its own: {uuid4()}."]])
            started = time.perf_counter()
            response = client.post("/documents", files={"file": ("one.pdf", content)})
            answered.append(1000 * (time.perf_counter() - started))
            asked[response.raise_for_status().json()["task_id"]] = started
    while not asked.keys() <= bell.heard.keys():
        time.sleep(0.05)
    bell.is_enough = True
    listener.join()
    enqueued = [1000 * (bell.heard[task_id] - started) for task_id, started in asked.items()]
    return answered[WARM_UP:], enqueued[WARM_UP:]


async def measure_rows(environment: dict[str, str], count: int) -> list[float]:
    """Milliseconds from a file that is stored until the message that announces its row."""
    bell = Bell(environment["CELERY_BROKER_URL"])
    listener = threading.Thread(target=bell.listen)
    listener.start()
    asked: dict[str, float] = {}
    settings = Settings(**{name.lower(): value for name, value in environment.items()})
    async with open_services(settings) as services:
        for _ in range(WARM_UP + count):
            async with services.documents.uploading() as upload:
                file = await upload.receive("one.pdf", one_part(f"%PDF {uuid4()}".encode()))
                started = time.perf_counter()
                await services.documents.add(upload, [file], UploadOptions(), lambda _: Answer(202, {}))
            task_id = str(file.ingestion_id)
            asked[task_id] = started
            while task_id not in bell.heard:  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(0.001)
    bell.is_enough = True
    listener.join()
    return [1000 * (bell.heard[task_id] - started) for task_id, started in asked.items()][WARM_UP:]


async def one_part(content: bytes) -> AsyncIterator[bytes]:
    yield content


def measure_requests(url: str, count: int) -> list[float]:
    with httpx.Client(base_url=url, trust_env=False) as client:
        return [timed(lambda: client.get("/livez").raise_for_status()) for _ in range(count)]


def measure_sending(broker_url: str, count: int) -> list[float]:
    with new_celery(broker_url, None) as celery:
        return [timed(lambda: celery.send_task("nothing", args=["a.pdf"])) for _ in range(count)]


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def measure(count: int) -> dict[str, list[float]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_api(Path(folder)) as (url, settings),
    ):
        broker_url = settings["CELERY_BROKER_URL"]
        answered, enqueued = measure_uploads(url, broker_url, count)
        nothing = measure_requests(url, count)
        rows = asyncio.run(measure_rows(settings, count))
        sent = measure_sending(broker_url, count)
    return {
        "POST /documents until enqueued": enqueued,
        "POST /documents until its 202": answered,
        "rows and message, without HTTP and file": rows,
        "GET /livez": nothing,
        "Celery's send_task alone": sent,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--uploads", type=int, default=500)
    measured = measure(arguments.parse_args().uploads)
    table = Table("milliseconds", "median", "p99", "max", box=None)
    for name, values in measured.items():
        table.add_row(
            name,
            *(f"{value:.1f}" for value in (statistics.median(values), percentile(values, 0.99), max(values))),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
