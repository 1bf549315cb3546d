"""What the promise costs an upload.

Small PDFs go to a real API, one after the other, on a durable Postgres and Valkey; no worker runs, and this
process takes each message from the queue itself. For each upload it measures the time until the 202 is here
and until the message is. Then the same without HTTP and without the file: rows and message only. Beside it,
in the same run: a request that does nothing (`GET /livez`), and Celery's plain `send_task`, which promises
less.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from uuid import uuid4

import httpx
import orjson
import redis

from app.config import Settings
from app.local.chaos.pdfs import pdf_of
from app.logs import configure_logging
from app.resources import open_services
from app.services.idempotency import Answer
from app.services.uploads import UploadOptions
from app.task_queue import BEGUN_PRIORITY, NEW_PRIORITY, QUEUE, new_celery
from benchmarks.report import Curves, Table, latencies
from benchmarks.run import Run
from benchmarks.stacks import running

WARM_UP = 50
UPLOADS, QUICK_UPLOADS = 500, 20
KOMBU_SEPARATOR = "\x06\x16"


def measure(run: Run) -> list[Table | Curves]:
    measured = asyncio.run(_measure(run, QUICK_UPLOADS if run.is_quick else UPLOADS))
    rows = [{"what": what, **latencies(values), "max ms": max(values)} for what, values in measured.items()]
    return [
        Table("One upload after the other", list(rows), f"{len(next(iter(measured.values()))):,} of each.")
    ]


async def _measure(run: Run, count: int) -> dict[str, list[float]]:
    async with running(run, workers=0, settings={"MAX_QUEUED": "1000000"}) as measured:
        settings = measured.stack.environment
        broker_url = settings["CELERY_BROKER_URL"]
        answered, enqueued = await asyncio.to_thread(measure_uploads, measured.url, broker_url, count)
        nothing = await asyncio.to_thread(measure_requests, measured.url, count)
        rows = await measure_rows(settings, count)
        sent = await asyncio.to_thread(measure_sending, broker_url, count)
    return {
        "POST /documents until enqueued": enqueued,
        "POST /documents until its 202": answered,
        "rows and message, without HTTP and file": rows,
        "GET /livez": nothing,
        "Celery's send_task alone": sent,
    }


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


async def measure_rows(environment: Mapping[str, str], count: int) -> list[float]:
    """Milliseconds from a file that is stored until the message that announces its row."""
    bell = Bell(environment["CELERY_BROKER_URL"])
    listener = threading.Thread(target=bell.listen)
    listener.start()
    asked: dict[str, float] = {}
    configure_logging("WARNING", "console")
    settings = Settings.model_validate({name.lower(): value for name, value in environment.items()})
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
