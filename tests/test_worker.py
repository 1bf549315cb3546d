"""A real prefork worker, driven by a plain Celery client that knows nothing of the API."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
import redis
from celery import Celery
from fpdf import FPDF
from sqlalchemy import text

from app.local.chaos.cable import Cable
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.services.progress import ingestion_id_of
from app.storage import runs
from app.storage.database import Database
from app.task_queue import TaskQueue
from tests.databases import empty_broker, migrated
from tests.processes import PROJECT, WorkerProcess

ALONE = ("--without-mingle", "--without-gossip")  # looks for no other workers: starts a second sooner


@pytest.fixture(scope="module")
async def environment(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("worker")
    for name in ("incoming", "files"):
        (folder / name).mkdir()
    broker_url = empty_broker(valkey, 7)
    return {
        "DATABASE_URL": await migrated(postgres, "worker"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (folder / "files").as_uri(),
        "INGEST_FOLDERS": str(folder / "incoming"),
    }


@pytest.fixture(scope="module")
def incoming(environment: dict[str, str]) -> Path:
    return Path(environment["INGEST_FOLDERS"])


@pytest.fixture(scope="module")
def client(environment: dict[str, str]) -> Iterator[Celery]:
    """Anybody's Celery: it shares nothing with the worker but the broker's URL and the task's name."""
    with client_of(environment) as client:
        yield client


@pytest.fixture(scope="module")
async def worker_database(environment: dict[str, str]):
    database = Database(environment["DATABASE_URL"])
    yield database
    await database.close()


@pytest.fixture(scope="module")
def worker(
    environment: dict[str, str], client: Celery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("worker-log") / "worker.log"
    with WorkerProcess(environment, log, "--concurrency", "2") as worker:
        yield worker.wait_until_ready(client)


def on_broker(environment: dict[str, str], number: int) -> dict[str, str]:
    """The environment with another of the broker's databases."""
    url = environment["CELERY_BROKER_URL"].removesuffix("/7") + f"/{number}"
    return environment | {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}


def client_of(environment: dict[str, str]) -> Celery:
    return Celery(broker=environment["CELERY_BROKER_URL"], backend=environment["CELERY_RESULT_BACKEND"])


def write_pdf(path: Path, pages: int, lines: int = 40) -> Path:
    """A PDF whose text is not in any other one."""
    pdf = FPDF()
    pdf.set_font("helvetica", size=10)
    for page in range(pages):
        pdf.add_page()
        for line in range(lines):
            pdf.cell(
                text=f"Page {page + 1} line {line + 1} speaks of {uuid4().hex}.",
                new_x="LMARGIN",
                new_y="NEXT",
            )
    pdf.output(str(path))
    return path


async def get(client: Celery, task_id: str, seconds: float = 120) -> dict:
    return await asyncio.to_thread(client.AsyncResult(task_id).get, timeout=seconds)


async def ingest(client: Celery, path: Path | str, task_id: str | None = None) -> dict:
    sent = client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id or str(uuid4()))
    return await get(client, sent.id)


async def row_of(database: Database, task_id: str):
    async with database.autocommit() as connection:
        return await runs.find(connection, ingestion_id_of(task_id))


async def wait_for_row(database: Database, task_id: str, condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while True:
        row = await row_of(database, task_id)
        if row is not None and condition(row):
            return row
        assert time.monotonic() < deadline, row
        await asyncio.sleep(0.02)


async def test_a_plain_client_has_a_path_ingested(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    path = write_pdf(incoming / "plain.pdf", pages=12)
    task_id = str(uuid4())
    result = await ingest(client, path, task_id)
    row = await row_of(worker_database, task_id)
    assert result["status"] == "success"
    assert result["pages"] == 12
    assert result["chunks"] == row.chunks > 0
    assert result["document_id"] == str(row.document_id)
    assert (row.id, row.status, row.filename) == (UUID(task_id), "success", "plain.pdf")


async def test_a_task_id_that_is_no_uuid_works_too(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    task_id = f"nightly-import-{uuid4().hex}"
    result = await ingest(client, write_pdf(incoming / "named.pdf", pages=1), task_id)
    assert result["status"] == "success"
    assert (await row_of(worker_database, task_id)).status == "success"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/etc/passwd", "path_not_allowed"),
        ("{incoming}/../../outside.pdf", "path_not_allowed"),
        ("{incoming}/missing.pdf", "file_not_found"),
        ("{incoming}", "file_not_found"),
        ("", "path_not_allowed"),
        ("{incoming}/nul\0byte.pdf", "file_not_found"),
        ("{store}/", "path_not_allowed"),
        ("{store}/..", "path_not_allowed"),
        ("{store}/missing.pdf", "file_not_found"),
    ],
)
@pytest.mark.usefixtures("worker")
async def test_a_path_that_may_not_be_read_is_an_error_with_a_code(
    client: Celery,
    worker_database: Database,
    environment: dict[str, str],
    incoming: Path,
    path: str,
    code: str,
) -> None:
    task_id = str(uuid4())
    result = await ingest(client, path.format(incoming=incoming, store=environment["STORAGE_URL"]), task_id)
    assert (result["status"], result["code"], result["retryable"]) == ("error", code, False)
    assert (await row_of(worker_database, task_id)).error_code == code


async def test_a_message_of_another_installation_gets_no_row_and_no_verdict(
    worker: WorkerProcess, client: Celery, worker_database: Database
) -> None:
    task_id = str(uuid4())
    client.send_task("ingest_pdf_task", args=[f"{task_id}.pdf"], task_id=task_id)
    async with asyncio.timeout(60):
        while "no such run here" not in worker.output():  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.05)
    assert (await ingest(client, "/etc/passwd"))["code"] == "path_not_allowed", (
        "what comes later is worked on"
    )
    assert await row_of(worker_database, task_id) is None
    assert client.AsyncResult(task_id).state == "PENDING"


async def test_a_link_that_leads_out_of_the_folder_is_not_followed(
    worker: WorkerProcess, client: Celery, incoming: Path
) -> None:
    (incoming / "link.pdf").symlink_to("/etc/passwd")
    assert (await ingest(client, incoming / "link.pdf"))["code"] == "path_not_allowed"


async def test_links_in_a_circle_lead_to_no_file(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    (incoming / "circle.pdf").symlink_to("circle.pdf")
    task_id = str(uuid4())
    assert (await ingest(client, incoming / "circle.pdf", task_id))["code"] == "file_not_found"
    assert (await row_of(worker_database, task_id)).error_code == "file_not_found"


@pytest.mark.parametrize("argument", [7, None, ["/data/a.pdf"], {"path": "/data/a.pdf"}])
async def test_an_argument_that_is_no_path_ends_in_a_verdict(
    worker: WorkerProcess, client: Celery, worker_database: Database, argument: object
) -> None:
    sent = client.send_task("ingest_pdf_task", args=[argument])
    assert (await get(client, sent.id))["code"] == "path_not_allowed"
    assert (await row_of(worker_database, sent.id)).error_code == "path_not_allowed"


async def test_a_file_that_is_no_pdf_ends_in_its_verdict(
    worker: WorkerProcess, client: Celery, incoming: Path
) -> None:
    (incoming / "letter.pdf").write_text("Dear reader, this is no PDF.")
    result = await ingest(client, incoming / "letter.pdf")
    assert (result["status"], result["code"], result["retryable"]) == ("error", "not_a_pdf", False)


async def test_the_same_content_under_other_ids_is_ingested_once(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    path = write_pdf(incoming / "same.pdf", pages=8)
    first, second, third = await asyncio.gather(*(ingest(client, path) for _ in range(3)))
    later = await ingest(client, path)
    assert {result["status"] for result in (first, second, third, later)} == {"success"}
    assert len({(result["document_id"], result["chunks"]) for result in (first, second, third, later)}) == 1


async def test_a_second_delivery_of_a_finished_task_stores_no_second_result(
    worker: WorkerProcess, client: Celery, incoming: Path
) -> None:
    task_id = str(uuid4())
    path = write_pdf(incoming / "twice.pdf", pages=1)
    await ingest(client, path, task_id)
    finished = client.AsyncResult(task_id).date_done
    client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
    await ingest(client, write_pdf(incoming / "after.pdf", pages=1))
    assert client.AsyncResult(task_id).date_done == finished


async def test_deliveries_of_one_task_at_the_same_time_ingest_once(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    task_id = str(uuid4())
    path = write_pdf(incoming / "raced.pdf", pages=20)
    for _ in range(4):
        client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
    result = await get(client, task_id)
    row = await row_of(worker_database, task_id)
    assert (result["status"], row.attempt) == ("success", 1)


async def test_a_killed_child_is_replaced_and_its_work_continued(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    task_id = str(uuid4())
    path = write_pdf(incoming / "killed.pdf", pages=150, lines=60)
    client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
    row = await wait_for_row(worker_database, task_id, lambda row: row.chunks > 0)
    psutil.Process(int(row.worker.split("/")[-2])).kill()
    result = await get(client, task_id)
    row = await row_of(worker_database, task_id)
    assert (result["status"], row.attempt, row.deaths) == ("success", 2, 0)


@pytest.mark.heavy
async def test_a_document_whose_reader_is_killed_is_read_again(
    worker: WorkerProcess, client: Celery, worker_database: Database, incoming: Path
) -> None:
    task_id = str(uuid4())
    path = write_pdf(incoming / "reader-killed.pdf", pages=150, lines=60)
    client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
    row = await wait_for_row(worker_database, task_id, lambda row: row.status == "processing")
    holder = psutil.Process(int(row.worker.split("/")[-2]))
    deadline = time.monotonic() + 10
    while not (readers := [reader for parent in holder.children() for reader in parent.children()]):
        assert time.monotonic() < deadline
    readers[0].kill()
    result = await get(client, task_id)
    row = await row_of(worker_database, task_id)
    assert (result["status"], row.attempt, row.pages_failed) == ("success", 2, [])


@pytest.mark.heavy
@pytest.mark.parametrize(
    "limit", ["WORKER_MAX_TASKS", pytest.param("WORKER_MAX_MEMORY_MB", marks=pytest.mark.heavy)]
)
async def test_a_process_is_replaced_after_its_share_of_work_and_nothing_is_lost(
    environment: dict[str, str], worker_database: Database, incoming: Path, tmp_path: Path, limit: str
) -> None:
    own = on_broker(environment, 3) | {limit: "1"}
    task_ids = [str(uuid4()) for _ in range(3)]
    with client_of(own) as client, WorkerProcess(own, tmp_path / "log", "--concurrency", "1", *ALONE):
        results = await asyncio.gather(
            *(
                ingest(client, write_pdf(incoming / f"{limit}-{number}.pdf", pages=2), task_id)
                for number, task_id in enumerate(task_ids)
            )
        )
    rows = [await row_of(worker_database, task_id) for task_id in task_ids]
    assert {result["status"] for result in results} == {"success"}
    assert len({row.worker for row in rows}) == 3
    assert [(row.status, row.attempt) for row in rows] == [("success", 1)] * 3


@pytest.mark.heavy
@pytest.mark.parametrize("pool", [pytest.param("solo", marks=pytest.mark.heavy), "threads"])
async def test_other_pools_do_the_same(
    environment: dict[str, str], client: Celery, incoming: Path, tmp_path: Path, pool: str
) -> None:
    own = on_broker(environment, 6)
    with (
        client_of(own) as other_client,
        WorkerProcess(own, tmp_path / "log", "--pool", pool, "--concurrency", "3") as worker,
    ):
        worker.wait_until_ready(other_client)
        paths = [write_pdf(incoming / f"{pool}-{number}.pdf", pages=3) for number in range(4)]
        results = await asyncio.gather(*(ingest(other_client, path) for path in paths))
        assert {result["status"] for result in results} == {"success"}
        assert worker.stop() == 0


async def test_a_hard_limit_is_refused_where_it_cannot_be_kept(
    environment: dict[str, str], tmp_path: Path
) -> None:
    own = environment | {"TASK_HARD_LIMIT_SECONDS": "60"}
    worker = WorkerProcess(own, tmp_path / "log", "--pool", "threads").start()
    assert worker.process is not None
    assert await asyncio.to_thread(worker.process.wait, 20) != 0
    assert "TASK_HARD_LIMIT_SECONDS cannot be kept in the threads pool" in worker.output()


@pytest.fixture
async def stuck_environment(
    environment: dict[str, str], postgres: EmbeddedPostgres
) -> AsyncIterator[dict[str, str]]:
    """An embedder that takes connections and never answers: work that does not end by itself."""
    embedder = socket.create_server(("127.0.0.1", 0))
    own = on_broker(environment, 5)
    yield own | {
        "DATABASE_URL": await migrated(postgres, f"stuck_{uuid4().hex}"),
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": f"http://127.0.0.1:{embedder.getsockname()[1]}",
    }
    embedder.close()
    with redis.Redis.from_url(own["CELERY_BROKER_URL"]) as broker:
        broker.flushdb()


@pytest.fixture
def stuck_client(stuck_environment: dict[str, str]) -> Iterator[Celery]:
    with client_of(stuck_environment) as client:
        yield client


@pytest.fixture
async def stuck_database(stuck_environment: dict[str, str]) -> AsyncIterator[Database]:
    database = Database(stuck_environment["DATABASE_URL"])
    yield database
    await database.close()


async def test_a_time_limit_is_a_verdict(
    stuck_environment: dict[str, str],
    stuck_client: Celery,
    stuck_database: Database,
    incoming: Path,
    tmp_path: Path,
) -> None:
    own = stuck_environment | {"TASK_SOFT_LIMIT_SECONDS": "3"}
    task_id = str(uuid4())
    with WorkerProcess(own, tmp_path / "log", "--concurrency", "1") as worker:
        worker.wait_until_ready(stuck_client)
        result = await ingest(stuck_client, write_pdf(incoming / "slow.pdf", pages=2), task_id)
    row = await row_of(stuck_database, task_id)
    assert (result["status"], result["code"], result["retryable"]) == ("error", "timed_out", False)
    assert (row.status, row.error_code) == ("error", "timed_out")


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(pool, marks=pytest.mark.heavy) for pool in ("threads", "solo"))]
)
async def test_a_worker_told_to_end_releases_what_does_not_finish(
    stuck_environment: dict[str, str],
    stuck_client: Celery,
    stuck_database: Database,
    incoming: Path,
    tmp_path: Path,
    pool: str,
) -> None:
    own = stuck_environment | {"SHUTDOWN_GRACE_SECONDS": "1"}
    path = write_pdf(incoming / f"released-{pool}.pdf", pages=2)
    task_id = str(uuid4())
    with WorkerProcess(own, tmp_path / "log", "--concurrency", "1", "--pool", pool) as worker:
        stuck_client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
        await wait_for_row(stuck_database, task_id, lambda row: row.status == "processing")
        started = time.monotonic()
        await asyncio.to_thread(worker.stop)
        assert time.monotonic() - started < 8
    row = await row_of(stuck_database, task_id)
    assert (row.status, row.fruitless_attempts, row.worker) == ("queued", 0, None)


async def connections_of_others(database: Database) -> int:
    async with database.autocommit() as connection:
        return await connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
                " AND pid <> pg_backend_pid()"
            )
        )


async def wait_until_nobody_is_connected(database: Database, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while count := await connections_of_others(database):
        assert time.monotonic() < deadline, f"{count} connections are still open"
        await asyncio.sleep(0.05)


@pytest.mark.heavy
async def test_celerys_own_soft_limit_is_a_verdict_too(
    stuck_environment: dict[str, str],
    stuck_client: Celery,
    stuck_database: Database,
    incoming: Path,
    tmp_path: Path,
) -> None:
    path = write_pdf(incoming / "soft-limit.pdf", pages=2)
    with WorkerProcess(stuck_environment, tmp_path / "log", "--concurrency", "1", *ALONE):
        before = await ingest(stuck_client, incoming / "not-there.pdf")
        sent = stuck_client.send_task("ingest_pdf_task", args=[str(path)], soft_time_limit=2)
        result = await get(stuck_client, sent.id)
        row = await row_of(stuck_database, sent.id)
        after = await ingest(stuck_client, incoming / "not-there.pdf")
    assert (result["status"], result["code"], result["retryable"]) == ("error", "timed_out", False)
    assert (row.status, row.error_code, row.chunks) == ("error", "timed_out", 0)
    assert before["code"] == after["code"] == "file_not_found"
    assert await row_of(stuck_database, sent.id) == row


@pytest.mark.heavy
async def test_a_revoked_task_releases_its_work_to_whoever_hears_the_next_ring(
    stuck_environment: dict[str, str],
    stuck_client: Celery,
    stuck_database: Database,
    incoming: Path,
    tmp_path: Path,
) -> None:
    own = stuck_environment | {"SHUTDOWN_GRACE_SECONDS": "0"}
    path = write_pdf(incoming / "revoked.pdf", pages=2)
    with WorkerProcess(own, tmp_path / "log", "--concurrency", "1", *ALONE) as worker:
        sent = stuck_client.send_task("ingest_pdf_task", args=[str(path)])
        await wait_for_row(stuck_database, sent.id, lambda row: row.status == "processing")
        family = worker.descendants()
        await asyncio.to_thread(stuck_client.control.revoke, sent.id, terminate=True)
        row = await wait_for_row(stuck_database, sent.id, lambda row: row.status == "queued")
        assert (row.losses, row.worker) == (0, None)
        await asyncio.to_thread(psutil.wait_procs, family, timeout=5)
        assert not [process for process in family if process.is_running()]
        await wait_until_nobody_is_connected(stuck_database)
        stuck_client.send_task("ingest_pdf_task", args=[str(path)], task_id=sent.id)
        again = await wait_for_row(stuck_database, sent.id, lambda row: row.status == "processing")
    assert (again.attempt, again.losses) == (2, 0)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "signals",
    [[signal.SIGQUIT], pytest.param([signal.SIGTERM, signal.SIGTERM], marks=pytest.mark.heavy)],
    ids=["cold", "warm-told-twice"],
)
async def test_a_worker_ended_in_a_hurry_leaves_its_work_queued_and_nothing_else(
    stuck_environment: dict[str, str],
    stuck_client: Celery,
    stuck_database: Database,
    incoming: Path,
    tmp_path: Path,
    signals: list[signal.Signals],
) -> None:
    own = stuck_environment | {"SHUTDOWN_GRACE_SECONDS": "0.5"}
    task_ids = [str(uuid4()) for _ in range(3)]
    worker = WorkerProcess(own, tmp_path / "log", "--concurrency", "2", *ALONE).start()
    for task_id in task_ids:
        path = write_pdf(incoming / f"{task_id}.pdf", pages=2)
        stuck_client.send_task("ingest_pdf_task", args=[str(path)], task_id=task_id)
    for task_id in task_ids[:2]:
        await wait_for_row(stuck_database, task_id, lambda row: row.status == "processing")
    family = worker.descendants()
    for one in signals:
        os.kill(worker.pid, one)
        await asyncio.sleep(0.01)
    assert worker.process is not None
    await asyncio.to_thread(worker.process.wait, 15)
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=5)
    assert not alive
    begun = [await row_of(stuck_database, task_id) for task_id in task_ids[:2]]
    assert [(row.status, row.losses, row.worker) for row in begun] == [("queued", 0, None)] * 2
    await wait_until_nobody_is_connected(stuck_database)
    queue = TaskQueue(own["CELERY_BROKER_URL"])
    assert (await queue.length() or 0) >= 3  # more when a sweeper has rung already
    queue.close()


@pytest.mark.heavy
async def test_a_database_that_is_down_fails_a_task_and_not_the_worker(
    environment: dict[str, str], incoming: Path, tmp_path: Path
) -> None:
    own = on_broker(environment, 4) | {"DATABASE_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"}
    with (
        client_of(own) as client,
        WorkerProcess(own, tmp_path / "log", "--concurrency", "1") as worker,
    ):
        worker.wait_until_ready(client)
        result = await ingest(client, write_pdf(incoming / "down.pdf", pages=1))
        assert (result["status"], result["code"], result["retryable"]) == ("error", "storage_failed", True)
        assert client.control.inspect(timeout=2).ping()


SCRIPT = """
import asyncio, sys, threading
from app.config import get_settings
from app.resources import open_rag_service
from app.worker import bridge, celery_app, ingest_pdf_task

called, twice, asked, eager = sys.argv[1:]
print("first", ingest_pdf_task(called))
print("second", ingest_pdf_task(called))

async def call():
    try:
        ingest_pdf_task(called)
    except RuntimeError as error:
        print("in a loop", error)

def call_at_once():
    print(f"at once {ingest_pdf_task(twice)}\\n", end="")  # in one piece

asyncio.run(call())
calls = [threading.Thread(target=call_at_once) for _ in range(4)]
[call.start() for call in calls]
[call.join() for call in calls]

async def ingest():
    async with open_rag_service(get_settings()) as service:
        return await asyncio.gather(*(service.ingest_pdf(asked) for _ in range(4)))

chunks = asyncio.run(ingest())
print("asked", len(chunks), len(set(chunks)), min(chunks) > 0)
celery_app.conf.task_always_eager = True
print("eager", ingest_pdf_task.delay(eager).get())
bridge.close()
"""


@pytest.fixture(scope="module")
async def printed(environment: dict[str, str], worker_database: Database, incoming: Path) -> str:
    """What a script without a worker prints: one for all, since each imports for two seconds."""
    paths = [write_pdf(incoming / f"{name}.pdf", pages=2) for name in ("called", "twice", "asked", "eager")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SCRIPT, *paths),
        cwd=PROJECT,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_eager_mode_ingests_in_the_calling_process(printed: str) -> None:
    assert "eager {'status': 'success'" in printed


async def test_the_task_can_be_called_like_any_function(printed: str) -> None:
    assert "first {'status': 'success'" in printed
    assert "second {'status': 'success'" in printed


async def test_a_call_whose_content_another_one_has_in_work_says_so(printed: str) -> None:
    said = [line for line in printed.splitlines() if line.startswith("at once")]
    successes = sum("'status': 'success'" in line for line in said)
    assert successes >= 1
    assert successes + sum("'code': 'already_in_work'" in line for line in said) == len(said) == 4


async def test_a_service_asked_many_times_at_once_for_one_file_tells_each_its_chunks(printed: str) -> None:
    assert "asked 4 1 True" in printed


async def test_a_call_inside_a_running_loop_is_refused_loudly(printed: str) -> None:
    assert re.search("in a loop .*would block the running event loop", printed)


@pytest.mark.heavy
async def test_a_worker_leaves_a_broker_that_has_fallen_silent(
    environment: dict[str, str], incoming: Path, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """A message that is on its way then may be lost; the sweeper rings again, here the next file comes."""
    direct = on_broker(environment, 8)
    async with Cable(valkey.port) as cable:
        url = direct["CELERY_BROKER_URL"].replace(f":{valkey.port}/", f":{cable.port}/")
        worker = WorkerProcess(direct | {"CELERY_BROKER_URL": url}, tmp_path / "log", "--concurrency", "1")
        with client_of(direct) as client, worker:
            await asyncio.to_thread(worker.wait_until_ready, client)
            cable.cut()
            cable.mend()
            files = (write_pdf(incoming / f"silent{number}.pdf", pages=1) for number in range(12))
            sent = [client.send_task("ingest_pdf_task", args=[str(next(files))])]
            began = time.monotonic()
            while not any(one.ready() for one in sent):
                assert time.monotonic() - began < 60, worker.output()
                await asyncio.sleep(5)
                sent.append(client.send_task("ingest_pdf_task", args=[str(next(files))]))
            await asyncio.to_thread(worker.stop)


async def test_a_stopped_worker_leaves_no_process(
    worker: WorkerProcess, client: Celery, incoming: Path
) -> None:
    """The last that needs the worker of all."""
    await ingest(client, write_pdf(incoming / "last.pdf", pages=1))
    family = worker.descendants()
    assert await asyncio.to_thread(worker.stop) == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
