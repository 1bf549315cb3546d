"""An API and a worker that share no folder, only three URLs: database, broker, bucket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from celery import Celery
from cryptography.fernet import Fernet

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage.files import FileStore
from tests.buckets import Bucket, S3Server
from tests.databases import empty_broker, migrated
from tests.processes import PROJECT, ApiProcess, WorkerProcess
from tests.stacks import until

SAMPLE = PROJECT / "samples" / "annual-report.pdf"
MAX_UPLOAD_BYTES = 1_000_000
LOCKED = PROJECT / "samples" / "board-minutes-locked.pdf"


class Machine:
    """Folders of its own, empty at first, and the settings that all machines have in common."""

    def __init__(self, folder: Path, common: dict[str, str]) -> None:
        self.folder = folder
        for name in ("home", "temporary", "incoming"):
            (folder / name).mkdir(parents=True)
        self.environment = common | {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temporary"),
            "INGEST_FOLDERS": str(folder / "incoming"),
        }

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def common_bucket(s3_server: S3Server) -> Bucket:
    return s3_server.bucket()


@pytest.fixture(scope="module")
async def common(postgres: EmbeddedPostgres, valkey: EmbeddedValkey, common_bucket: Bucket) -> dict[str, str]:
    broker_url = empty_broker(valkey, 11)
    return common_bucket.environment | {
        "DATABASE_URL": await migrated(postgres, "several_machines"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": common_bucket.url,
        "MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
        "SECRET_KEY": Fernet.generate_key().decode(),
    }


@pytest.fixture(scope="module")
def celery(common: dict[str, str]) -> Iterator[Celery]:
    with Celery(broker=common["CELERY_BROKER_URL"], backend=common["CELERY_RESULT_BACKEND"]) as client:
        yield client


@pytest.fixture(scope="module")
def worker_machine(
    common: dict[str, str], celery: Celery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine of the worker"), common)
    log = tmp_path_factory.mktemp("worker-log") / "worker.log"
    with WorkerProcess(machine.environment, log, "--concurrency", "2") as worker:
        worker.wait_until_ready(celery)
        yield machine


@pytest.fixture(scope="module")
def api_machine(common: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine of the api"), common)


@pytest.fixture(scope="module")
def api(api_machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    log = tmp_path_factory.mktemp("api-log") / "api.log"
    with (
        ApiProcess(api_machine.environment, log) as api,
        httpx.Client(base_url=api.url, timeout=60) as client,
    ):
        yield client


def upload(api: httpx.Client, path: Path, **fields: str) -> dict[str, str]:
    with path.open("rb") as file:
        return dict(api.post("/documents", files={"file": file}, data=fields).raise_for_status().json())


def end_of(api: httpx.Client, task_id: str) -> dict[str, object]:
    return dict(api.get(f"/tasks/{task_id}?wait=30").json()["result"])


def test_a_worker_elsewhere_ingests_what_the_api_received(
    api: httpx.Client, api_machine: Machine, worker_machine: Machine, common_bucket: Bucket
) -> None:
    accepted = upload(api, SAMPLE)
    result = end_of(api, accepted["task_id"])
    assert result["status"] == "success"
    hits = api.post("/search", json={"query": "how many eagles were killed by the turbines?"}).json()["data"]
    assert hits[0]["document_id"] == accepted["document_id"]
    assert api.get(f"/documents/{accepted['document_id']}/file").content == SAMPLE.read_bytes()
    assert common_bucket.objects() == [f"pdfs/{accepted['task_id']}.pdf"]
    assert (api_machine.files(), worker_machine.files()) == ([], [])

    api.delete(f"/documents/{accepted['document_id']}").raise_for_status()
    until(lambda: common_bucket.objects() == [])  # it is deleted after the answer
    assert common_bucket.unfinished_uploads() == []


def test_a_worker_elsewhere_opens_an_encrypted_pdf(api: httpx.Client, worker_machine: Machine) -> None:
    accepted = upload(api, LOCKED, password="lighthouse")
    assert end_of(api, accepted["task_id"])["status"] == "success"
    assert worker_machine.files() == []
    api.delete(f"/documents/{accepted['document_id']}").raise_for_status()


@pytest.fixture
def files(common_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    for name, value in common_bucket.environment.items():
        monkeypatch.setenv(name, value)
    return FileStore(common_bucket.url)


async def test_anybody_can_name_a_file_of_the_bucket_to_a_worker(
    worker_machine: Machine, celery: Celery, common_bucket: Bucket, files: FileStore
) -> None:
    await files.write("report.pdf", parts_of(await asyncio.to_thread(SAMPLE.read_bytes)))
    result = await send(celery, f"{common_bucket.url}/report.pdf")
    assert result["status"] == "success"
    assert result["pages"] > 1
    assert worker_machine.files() == []


@pytest.mark.usefixtures("worker_machine")
@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("{bucket}/missing.pdf", "file_not_found"),
        ("{bucket}/large.pdf", "too_large"),
        ("{bucket}/folder/report.pdf", "path_not_allowed"),
        ("{bucket}/../letters/secret.pdf", "path_not_allowed"),
        ("s3://another-bucket/pdfs/report.pdf", "path_not_allowed"),
    ],
)
async def test_what_is_not_in_the_bucket_or_too_large_is_refused(
    celery: Celery,
    common_bucket: Bucket,
    files: FileStore,
    address: str,
    code: str,
) -> None:
    await files.write("large.pdf", parts_of(b"%PDF-1.7".ljust(MAX_UPLOAD_BYTES + 1)))
    assert (await send(celery, address.format(bucket=common_bucket.url)))["code"] == code
    await files.delete("large.pdf")


async def parts_of(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def send(celery: Celery, path: str) -> dict[str, Any]:
    sent = celery.send_task("ingest_pdf_task", args=[path], task_id=str(uuid4()))
    return dict(await asyncio.to_thread(sent.get, timeout=30))
