"""Every hostile file is uploaded, and a real worker gives each its verdict and is none the worse for it.

All of them are in its queue before the first test looks at what became of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from celery import Celery
from cryptography.fernet import Fernet

from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.main import create_app
from tests.databases import empty_broker, migrated
from tests.pdfs.builder import pages, shown
from tests.pdfs.hostile import CASES, READY, Case, written
from tests.processes import WorkerProcess
from tests.programs import PATH

PROCESSES = 2
VERDICT_SECONDS = 300.0
"""For the whole queue, on a busy machine."""
MOST_GROWTH_BYTES = 50_000_000
MOST_NEW_DESCRIPTORS = 10
"""Connections to the database, opened when first needed; a leak of one a document would be over 30."""


@dataclass(frozen=True)
class Census:
    """A worker's processes between two documents, and what they hold; files are those of all its folders.

    The memory is without that of the parents of reading processes, which load another engine when idle.
    """

    pids: list[int]
    reader_parents: list[psutil.Process]
    memory_bytes: int
    descriptors: dict[int, int]
    files: set[str]


class Watched:
    """A worker and its folders: the file store, and the one for temporary files."""

    def __init__(self, worker: WorkerProcess, *folders: Path) -> None:
        self._worker = worker
        self._folders = folders

    def census(self) -> Census:
        pool = self._worker.children()
        reader_parents = [started for process in pool for started in process.children()]
        workers = [psutil.Process(self._worker.pid), *pool]
        processes = [*workers, *reader_parents]
        return Census(
            [process.pid for process in processes],
            reader_parents,
            sum(process.memory_info().rss for process in workers),
            {process.pid: process.num_fds() for process in processes},
            {path.name for folder in self._folders for path in folder.iterdir()},
        )


class Service:
    """The API, as its clients see it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def upload(self, path: Path, **fields: str) -> httpx.Response:
        with path.open("rb") as file:
            return await self._client.post(
                "/documents", files={"file": file}, data={"on_duplicate": "keep", **fields}
            )

    async def verdict(self, accepted: httpx.Response) -> dict[str, Any]:
        """The document, once its task has ended."""
        async with asyncio.timeout(VERDICT_SECONDS):
            while not (await self._get(f"/tasks/{accepted.json()['task_id']}?wait=60"))["finished_at"]:
                pass
        return await self._get(f"/documents/{accepted.json()['document_id']}")

    async def task(self, accepted: httpx.Response) -> dict[str, Any]:
        """As it is listed, with what it took."""
        listed = await self._get(f"/tasks?document_id={accepted.json()['document_id']}")
        (task,) = listed["data"]
        return dict(task)

    async def chunks(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        page = await self._get(f"/documents/{document['document_id']}/chunks?limit=100")
        chunks: list[dict[str, Any]] = page["data"]
        return chunks

    async def _get(self, path: str) -> dict[str, Any]:
        answer = await self._client.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
async def environment(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    broker_url = empty_broker(valkey, 8)
    return {
        "DATABASE_URL": await migrated(postgres, "hostile"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": tmp_path_factory.mktemp("files").as_uri(),
        "SECRET_KEY": Fernet.generate_key().decode(),
        "MAX_UPLOAD_BYTES": "250000000",
        "READING_MEMORY_MB": "572",  # less than by default: bombs go off sooner
    }


@pytest.fixture(scope="module")
async def service(environment: dict[str, str]) -> AsyncIterator[Service]:
    settings: dict[str, Any] = {name.lower(): value for name, value in environment.items()}
    app = create_app(Settings(_env_file=None, **settings))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=90
        ) as client,
    ):
        yield Service(client)


@pytest.fixture(scope="module")
async def watched(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Watched]:
    temporary = tmp_path_factory.mktemp("temporary")
    log = tmp_path_factory.mktemp("worker") / "log"
    with (
        Celery(broker=environment["CELERY_BROKER_URL"]) as celery,
        WorkerProcess(
            environment | {"TMPDIR": str(temporary), "PATH": PATH}, log, "--concurrency", str(PROCESSES)
        ) as worker,
    ):
        await asyncio.to_thread(worker.wait_until_ready, celery)
        yield Watched(worker, Path(urlsplit(environment["STORAGE_URL"]).path), temporary)


@pytest.fixture(scope="module")
async def before(watched: Watched, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Census:
    """When each process of the worker has ingested a harmless file, in a language that takes its model."""
    path = tmp_path_factory.mktemp("harmless") / "prose.pdf"
    path.write_bytes(pages([shown("Les sociétés étrangères ont déclaré leurs dépenses.")] * 200))
    async with asyncio.timeout(VERDICT_SECONDS):
        while len(watched.census().reader_parents) < PROCESSES:
            accepted = [await service.upload(path) for _ in range(PROCESSES)]
            assert [(await service.verdict(one))["status"] for one in accepted] == [READY] * PROCESSES
    return watched.census()


@pytest.fixture(scope="module")
async def answers(
    service: Service, before: Census, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, httpx.Response]:
    """What was answered to the upload of each case, by its name; heavy ones when their tests are run."""
    folder = tmp_path_factory.mktemp("hostile")
    has_heavy = any(
        item.path == request.path and item.get_closest_marker("heavy") for item in request.session.items
    )
    answers = {}
    for case in CASES:
        if has_heavy or not case.is_heavy:
            path = await asyncio.to_thread(written, case, folder)
            fields = {"password": case.password} if case.password else {}
            answers[case.name] = await service.upload(path, **fields)
            path.unlink()
    return answers


def _marked(case: Case) -> object:
    marks = [pytest.mark.heavy] * case.is_heavy + [pytest.mark.program("tesseract")] * case.needs_ocr
    return pytest.param(case, id=case.name, marks=marks)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
async def test_a_hostile_file_ends_in_its_verdict(
    case: Case, answers: dict[str, httpx.Response], service: Service
) -> None:
    answer = answers[case.name]
    assert answer.status_code == case.status_code, answer.text
    if answer.status_code != 202:
        assert answer.json()["code"] == case.verdict
        return
    document = await service.verdict(answer)
    verdict = document["error"]["code"] if document["error"] else document["status"]
    assert verdict in (case.verdict, *case.verdicts_when_slow), document
    if verdict == READY:
        assert len(document["pages_failed"]) == case.pages_failed
        check_text(case, await service.chunks(document))
    else:
        assert not document["error"]["retryable"]


def check_text(case: Case, chunks: list[dict[str, Any]]) -> None:
    text = "\n".join(chunk["text"] for chunk in chunks)
    places = [text.find(expected) for expected in case.text]
    assert -1 not in places, f"{case.text} in {text!r}"
    assert places == sorted(places)
    flagged = "\n".join(chunk["text"] for chunk in chunks if chunk["hidden_text"])
    assert bool(flagged) == bool(case.hidden)
    assert [hidden for hidden in case.hidden if hidden not in flagged] == []


async def test_hostile_files_leave_the_worker_as_it_was(
    answers: dict[str, httpx.Response], service: Service, watched: Watched, before: Census
) -> None:
    accepted = [answer for answer in answers.values() if answer.status_code == 202]
    documents = [await service.verdict(answer) for answer in accepted]
    after = watched.census()
    assert after.pids == before.pids
    assert [parent.children() for parent in after.reader_parents] == [[]] * PROCESSES
    assert after.memory_bytes - before.memory_bytes < MOST_GROWTH_BYTES
    grown = {pid: after.descriptors[pid] - number for pid, number in before.descriptors.items()}
    assert max(grown.values()) <= MOST_NEW_DESCRIPTORS, grown
    assert after.files - before.files == {f"{document['task_id']}.pdf" for document in documents}


async def test_what_is_recognised_says_that_it_needs_tesseract(
    answers: dict[str, httpx.Response], service: Service
) -> None:
    """Else it passes here, and fails where that is not installed."""
    recognised = set()
    for case in CASES:
        if (answer := answers.get(case.name)) is not None and answer.status_code == 202:
            await service.verdict(answer)
            if (await service.task(answer))["seconds"].get("ocr"):
                recognised.add(case.name)
    is_ready_without = {"partly-garbled"}
    assert recognised - is_ready_without <= {case.name for case in CASES if case.needs_ocr}
