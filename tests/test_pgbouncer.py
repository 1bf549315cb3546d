"""The service behind a real PgBouncer, where each transaction may have another server connection."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey, free_port
from app.resources import open_services
from app.services.searching import Found, Mode, Search
from app.storage.database import A_PERSON_WAITS, Database
from app.storage.reach import EVERYTHING, TENANT_ROLE, Reach
from tests.databases import empty_broker, migrated
from tests.processes import WorkerProcess, started
from tests.stacks import pdf_ingest_alone
from tests.test_worker import ingest, write_pdf

pytestmark = [pytest.mark.heavy, pytest.mark.program("pgbouncer")]


@pytest.fixture
async def pgbouncer_url(postgres: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[str]:
    """Three server connections for everybody."""
    server = urlsplit(await migrated(postgres, f"bouncer_{uuid4().hex}"))
    port = free_port()
    (tmp_path / "users.txt").write_text(f'"{server.username}" "{server.password}"\n')
    (tmp_path / "pgbouncer.ini").write_text(f"""
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {tmp_path}/users.txt
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
""")
    command = ["pgbouncer", str(tmp_path / "pgbouncer.ini")]
    if os.geteuid() == 0:
        for path in (tmp_path / "users.txt", Path(command[1]), tmp_path, *tmp_path.parents[:3]):
            path.chmod(path.stat().st_mode | 0o005)
        nobody = ("--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=TERM")
        command = ["setpriv", *nobody, *command]
    process = started(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await asyncio.sleep(0.5)
    assert process.poll() is None, "pgbouncer did not start"
    yield f"postgresql+asyncpg://{server.username}:{server.password}@127.0.0.1:{port}{server.path}"
    process.terminate()
    process.wait(10)


async def test_limits_hold_behind_pgbouncer_and_stay_with_nobody(pgbouncer_url: str) -> None:
    limits = replace(A_PERSON_WAITS, statement_seconds=0.5)
    database = Database(pgbouncer_url, limits=limits, is_pgbouncer=True)
    for opened in (database.transaction, database.autocommit):
        async with asyncio.timeout(8), opened() as connection:
            with pytest.raises(DBAPIError, match="statement timeout"):
                await connection.execute(text("SELECT pg_sleep(60)"))
    await database.close()
    other = await asyncpg.connect(pgbouncer_url.replace("+asyncpg", ""), statement_cache_size=0)
    assert await other.fetchval("SHOW statement_timeout") == "0"
    await other.close()


async def test_a_reach_holds_behind_pgbouncer_and_stays_with_nobody(pgbouncer_url: str) -> None:
    database = Database(pgbouncer_url, is_pgbouncer=True)

    async def role(reach: Reach) -> tuple[Reach, object]:
        async with database.transaction(reach) as connection:
            return reach, await connection.scalar(text("SELECT current_user"))

    roles = await asyncio.gather(*(role(one) for one in [EVERYTHING, Reach(("a*",))] * 50))
    assert {(reach.is_bound, user == TENANT_ROLE) for reach, user in roles} == {(False, False), (True, True)}
    await database.close()


async def test_ingesting_and_searching_work_behind_pgbouncer(
    pgbouncer_url: str, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    broker_url = empty_broker(valkey, 2)
    (tmp_path / "incoming").mkdir()
    environment = {
        "DATABASE_URL": pgbouncer_url,
        "DATABASE_PGBOUNCER": "true",
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (tmp_path / "files").as_uri(),
        "INGEST_FOLDERS": str(tmp_path / "incoming"),
    }
    paths = [write_pdf(tmp_path / "incoming" / f"{number}.pdf", pages=30) for number in range(12)]
    with (
        Celery(broker=broker_url, backend=broker_url) as client,
        WorkerProcess(environment, tmp_path / "log", "--concurrency", "4") as worker,
    ):
        worker.wait_until_ready(client)
        results = await asyncio.gather(*(ingest(client, path) for path in paths))
        output = worker.output()
    assert {result["status"] for result in results} == {"success"}
    assert "Traceback" not in output
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    async with open_services(settings) as services:
        started = time.monotonic()
        at_once = asyncio.Semaphore(20)  # the last of 180 wait for over 5 s on a busy machine

        async def search(query: str, mode: Mode) -> Found:
            async with at_once:
                return await services.rag.search(Search(query=query, mode=mode))

        queries = [f"page {number} line 3" for number in range(60)]
        answers = await asyncio.gather(*(search(query, mode) for query in queries for mode in get_args(Mode)))
        assert {len(found.hits) for found in answers} == {10}
        assert time.monotonic() - started < 60


async def test_migrating_works_behind_pgbouncer_as_often_as_wanted(
    pgbouncer_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", pgbouncer_url)
    monkeypatch.setenv("DATABASE_PGBOUNCER", "true")
    for _ in range(3):
        finished = await asyncio.to_thread(pdf_ingest_alone, "migrate")
        assert (finished.returncode, finished.stderr) == (0, "")
