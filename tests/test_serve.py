"""More than one API process behind one port, as `python -m app.serve` starts them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import uuid4

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.processes import api_processes, ended_unless_ready, started
from tests.services.workshop import pdf
from tests.stacks import until


class Served:
    """A parent and its API processes; what they log goes to a file."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment = os.environ | environment
        self.log = log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            serve = ("-m", "app.serve", "--port", str(self.port))
            self.parent = started(
                sys.executable, *serve, env=self.environment, stderr=log, stdout=subprocess.DEVNULL
            )
        with ended_unless_ready(self.parent):
            until(lambda: self.started() == 2, 120)  # 60 are not enough on two cores with thirty at work
        return self

    def __exit__(self, *_: object) -> None:
        if self.parent.poll() is None:
            self.parent.terminate()
            self.parent.wait(30)

    def processes(self) -> list[psutil.Process]:
        return api_processes(psutil.Process(self.parent.pid))

    def started(self) -> int:
        """How many processes have ever been ready."""
        return self.log.read_text().count("Application startup complete")

    def get(self, path: str) -> httpx.Response:
        """On a connection of its own: any process may answer."""
        return httpx.get(f"{self.url}{path}", timeout=70)

    def search(self, times: int) -> None:
        for _ in range(times):
            asked = {"query": str(uuid4()), "mode": "vector"}
            assert httpx.post(f"{self.url}/search", json=asked, timeout=20).status_code == 200

    def searches_told(self) -> set[float]:
        """What the processes say of how often all of them have embedded a query."""
        return {
            sample.value
            for _ in range(10)
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
            if sample.name == "pdf_ingest_process_embedding_requests_total"
        }


@pytest.fixture(scope="module")
async def environment(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    broker_url = empty_broker(valkey, 14)
    return {
        "API_PROCESSES": "2",
        "DATABASE_URL": await migrated(postgres, f"serve_{uuid4().hex}"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (tmp_path_factory.mktemp("serve") / "files").as_uri(),
        "TMPDIR": str(tmp_path_factory.mktemp("temporary")),
    }


@pytest.fixture(scope="module")
def served(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(environment, tmp_path_factory.mktemp("served") / "log") as served:
        yield served


async def test_counts_are_the_sum_of_all_processes_whoever_tells_them(served: Served) -> None:
    for silent in served.processes():
        silent.suspend()
        await asyncio.to_thread(served.search, 2)
        silent.resume()
    assert await asyncio.to_thread(served.searches_told) == {4}


async def test_one_of_the_processes_leads(served: Served, environment: dict[str, str]) -> None:
    database = Database(environment["DATABASE_URL"])
    async with asyncio.timeout(20), database.autocommit() as connection:
        while not (holders := list(await connection.scalars(text("SELECT holder FROM leaders")))):  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(0.1)
    await database.close()
    (holder,) = holders
    assert int(holder.split("/")[-2]) in {process.pid for process in served.processes()}


async def test_a_killed_process_is_missed_by_nobody_and_comes_back(served: Served) -> None:
    before = served.processes()
    counted = await asyncio.to_thread(served.searches_told)
    before[0].kill()
    assert (await asyncio.to_thread(served.get, "/livez")).status_code == 200
    await asyncio.to_thread(until, lambda: served.started() == 3, 120)
    after = served.processes()
    assert len(after) == 2
    assert before[0] not in after
    assert before[1] in after
    assert await asyncio.to_thread(served.searches_told) == counted, "what it counted is not forgotten"


async def test_every_log_line_is_json_the_parents_too(served: Served) -> None:
    events = [json.loads(line)["event"] for line in served.log.read_text().splitlines()]
    assert [event for event in events if event.startswith("Started parent process")]


@pytest.mark.heavy
async def test_sigterm_ends_all_soon_and_loses_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    with Served(environment | {"TMPDIR": str(tmp_path)}, tmp_path / "log") as served:
        processes = served.processes()
        async with httpx.AsyncClient(base_url=served.url, timeout=70) as client:
            accepted = (await client.post("/documents", files={"file": ("a.pdf", pdf())})).json()
            waiting = asyncio.create_task(client.get(f"/tasks/{accepted['task_id']}?wait=60"))
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            served.parent.send_signal(signal.SIGTERM)
            assert (await waiting).json()["status"] == "queued"
        assert await asyncio.to_thread(served.parent.wait, 30) == 0
        assert time.monotonic() - begun < 20
        assert not [one for one in processes if one.is_running()]
        assert "Traceback" not in served.log.read_text()
    assert os.listdir(tmp_path) == ["log"], "counts end with their parent"
    database = Database(environment["DATABASE_URL"])
    async with database.autocommit() as connection:
        found = await connection.scalar(
            text("SELECT status FROM ingestions WHERE id = CAST(:id AS uuid)"), {"id": accepted["task_id"]}
        )
    await database.close()
    assert found == "queued"


@pytest.mark.heavy
async def test_who_kills_the_parent_kills_all(environment: dict[str, str], tmp_path: Path) -> None:
    with Served(environment, tmp_path / "log") as served:
        processes = served.processes()
        assert len(processes) == 2
        served.parent.kill()
        served.parent.wait(10)
        await asyncio.to_thread(until, lambda: not [one for one in processes if is_alive(one)], 10)
        with pytest.raises(httpx.ConnectError):
            served.get("/livez")


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
