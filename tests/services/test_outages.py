"""A service that is out is nobody's verdict: documents wait, and go on by themselves."""

import asyncio
import re
import resource
import shutil
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from app.config import Settings
from app.errors import (
    DiskFull,
    EmbeddingFailed,
    EmbeddingRefused,
    EmptyFile,
    PathNotAllowed,
    PDFIngestError,
    StorageFailed,
    TextRefused,
    WorkHeld,
)
from app.local.chaos.embedding_stub import EmbeddingStub, Failure
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.metrics import Figure, counters
from app.resources import Services, open_services
from app.services.detection import LanguageDetector
from app.services.readiness import check_readiness
from app.services.retries import MAX_RETRIES
from app.services.searching import Search
from app.services.uploads import AcceptedFile, UploadOptions
from app.services.verdicts import DISK_OF_WORKER
from app.storage import runs
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.pdfs.hostile import pages as pages_of
from tests.pdfs.hostile import prose, shown
from tests.services.workshop import eventually, in_parts, outcomes_as_answer

KEY = "the right key"
FULL_DISK = Path("/dev/full")


@pytest.fixture(scope="module")
async def own_database_url(postgres: EmbeddedPostgres) -> str:
    """An outage stops the work of all."""
    return await migrated(postgres, f"outages_{uuid4().hex}")


@pytest.fixture(autouse=True)
async def _nothing_is_out(own_database_url: str) -> None:
    """Nor is anything known of files, which each test keeps in a folder of its own."""
    database = Database(own_database_url)
    async with database.transaction() as connection:
        await connection.execute(text("TRUNCATE outages, documents, ingestions CASCADE"))
    await database.close()


@pytest.fixture
def settings(own_database_url: str, valkey: EmbeddedValkey, embedding_url: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        database_url=own_database_url,
        celery_broker_url=empty_broker(valkey, 11),
        storage_url=(tmp_path / "files").as_uri(),
        embedding_provider="openai",
        embedding_base_url=embedding_url,
        embedding_api_key=SecretStr(KEY),
        embedding_dimensions=64,
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    async with open_services(settings) as services:
        yield services


async def upload(services: Services, pages: int = 2, content: bytes | None = None) -> UUID:
    accepted: list[Any] = []

    def answer(outcomes: Any) -> Any:
        accepted.extend(outcomes)
        return outcomes_as_answer(outcomes)

    async with services.documents.uploading() as upload:
        content = (content or prose(pages)) + f"\n%{uuid4()}".encode()
        file = await upload.receive("a.pdf", in_parts(content, 65_536))
        await services.documents.add(upload, [file], UploadOptions(), answer)
    (one,) = accepted
    assert isinstance(one, AcceptedFile)
    return one.task_id


async def row_of(services: Services, task_id: UUID) -> Any:
    async with services.database.autocommit() as connection:
        return await runs.find(connection, task_id)


async def degraded(services: Services) -> list[str]:
    async def is_up() -> bool:
        return True

    return (await check_readiness(services.database, services.space_id, is_up)).degraded


async def until_degraded(services: Services, names: list[str], seconds: float = 20) -> None:
    async def is_so() -> bool:
        return await degraded(services) == names

    await eventually(is_so, seconds)


async def search(services: Services, query: str = "the tide", **options: Any) -> tuple[int, tuple[str, ...]]:
    found = await services.rag.search(Search(query=query, limit=5, **options))
    return len(found.hits), found.degraded


async def test_a_revoked_key_fails_nothing_and_work_goes_on_by_itself(
    services: Services, stub: EmbeddingStub
) -> None:
    stub.behaviour.key = "another key"
    waiting, queued = await upload(services), await upload(services)
    with capture_logs() as logs:
        run = asyncio.create_task(services.rag.ingest_pdf("", waiting))
        async with asyncio.timeout(20):
            while not await degraded(services):  # noqa: ASYNC110 - it is in the database
                await asyncio.sleep(0.05)
        with pytest.raises(WorkHeld):
            await services.rag.ingest_pdf("", queued)
        assert (await row_of(services, waiting)).status == "processing", "what is read is kept"
        assert (await row_of(services, queued)).attempt == 0, "it was never begun"
        asked = len(stub.requests)
        await asyncio.sleep(4)
        assert len(stub.requests) - asked <= 3, "only probes, and fewer and fewer"
        stub.behaviour.key = KEY
        async with asyncio.timeout(40):
            assert await run > 0
    assert await services.rag.ingest_pdf("", queued) > 0
    for task_id in (waiting, queued):
        row = await row_of(services, task_id)
        assert (row.status, row.attempt, row.retries, row.deaths) == ("success", 1, 0, 0)
    assert await degraded(services) == []
    events = [entry["event"] for entry in logs]
    assert (events.count("outage"), events.count("outage over")) == (1, 1)


async def test_readiness_and_metrics_say_why_and_since_when(services: Services, stub: EmbeddingStub) -> None:
    async def is_up() -> bool:
        return True

    stub.behaviour.failures = [Failure(status=402)] * 10
    assert await services.rag.outages.report("embedder", EmbeddingFailed())
    readiness = await check_readiness(services.database, services.space_id, is_up)
    assert (readiness.faults, readiness.degraded) == ({}, ["embedder"])
    assert "credit" in readiness.outages[0].reason
    since = readiness.outages[0].since
    assert await outage_seconds(services) > 0
    stub.behaviour.failures = [Failure(status=401)] * 10

    async def is_key_refused() -> bool:
        (outage,) = (await check_readiness(services.database, services.space_id, is_up)).outages
        assert outage.since == since
        return "EMBEDDING_API_KEY" in outage.reason

    await eventually(is_key_refused)
    stub.behaviour.failures = []

    await until_degraded(services, [])
    await asyncio.sleep(1)
    assert await outage_seconds(services) == 0


async def outage_seconds(services: Services) -> float:
    figures: dict[str, Figure] = {figure.name: figure for figure in await services.figures.read()}
    values = figures["outage_seconds"].values
    assert not isinstance(values, float | int)
    return values["embedder"]


@pytest.mark.parametrize(
    "failure",
    [
        *(Failure(status=status) for status in (401, 405, 429, 500)),
        Failure(garbage="not json"),
    ],
    ids=lambda failure: failure.garbage or str(failure.status),
)
async def test_what_the_embedder_says_to_everything_is_its_own_fault(
    services: Services, stub: EmbeddingStub, failure: Failure
) -> None:
    stub.behaviour.failures = [failure] * 100
    assert await services.rag.outages.report("embedder", EmbeddingFailed())
    stub.behaviour.failures = []


async def test_vectors_of_another_size_stop_all_work(settings: Settings, stub: EmbeddingStub) -> None:
    stub.behaviour.refused_fields = ("dimensions",)
    stub.behaviour.dimensions = 48
    async with open_services(settings) as services:
        task_id = await upload(services)
        run = asyncio.create_task(services.rag.ingest_pdf("", task_id))

        await until_degraded(services, ["embedder"])
        stub.behaviour.dimensions = 64
        async with asyncio.timeout(30):
            assert await run > 0


async def test_one_text_that_is_refused_is_the_documents_verdict(
    services: Services, stub: EmbeddingStub
) -> None:
    stub.behaviour.refused_texts = ("the",)
    task_id = await upload(services)
    with pytest.raises(TextRefused):
        await services.rag.ingest_pdf("", task_id)
    row = await row_of(services, task_id)
    assert (row.status, row.error_code) == ("error", "embedding_failed")
    assert await degraded(services) == []


async def test_a_refusal_of_one_text_with_a_status_that_means_all_is_not_believed_at_once(
    services: Services, stub: EmbeddingStub
) -> None:
    """It may have been the last one before the key was mended."""
    stub.behaviour.failures = [Failure(status=401)]
    task_id = await upload(services)
    with pytest.raises(EmbeddingRefused):
        await services.rag.ingest_pdf("", task_id)
    assert (await row_of(services, task_id)).status == "retrying"
    for _ in range(3):
        stub.behaviour.failures = [Failure(status=401)]
        await make_due(services)
        with pytest.raises(EmbeddingRefused):
            await services.rag.ingest_pdf("", task_id)
    row = await row_of(services, task_id)
    assert (row.status, row.error_code, row.attempt) == ("error", "embedding_failed", 4)


async def test_an_embedder_that_fails_now_and_then_is_no_outage(
    services: Services, stub: EmbeddingStub
) -> None:
    stub.behaviour.failures = [Failure(garbage="nan")]
    task_id = await upload(services)
    with pytest.raises(EmbeddingFailed):
        await services.rag.ingest_pdf("", task_id)
    assert (await row_of(services, task_id)).status == "retrying"
    assert await degraded(services) == []


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
async def test_a_search_waits_three_seconds_for_the_embedder_then_words_have_to_do(
    services: Services, stub: EmbeddingStub, mode: str
) -> None:
    await services.rag.ingest_pdf("", await upload(services))
    found, left_out = await search(services, mode=mode)
    assert (found > 0, left_out) == (True, ())
    stub.behaviour.delay_seconds = 60
    began = time.monotonic()
    found, left_out = await search(services, "which tide", mode=mode)
    assert time.monotonic() - began < 4
    assert (found > 0, left_out) == (True, ("embedder",))
    found, left_out = await search(services, mode=mode)
    assert (found > 0, left_out) == (True, ()), "it was asked before, and its vector is known"
    stub.behaviour.delay_seconds = 0


async def test_a_search_asks_a_failing_embedder_twice(services: Services, stub: EmbeddingStub) -> None:
    await services.rag.ingest_pdf("", await upload(services))
    stub.requests.clear()
    stub.behaviour.failures = [Failure(status=500)] * 9
    assert (await search(services))[1] == ("embedder",)
    assert len(stub.requests) == 2
    stub.behaviour.failures = [Failure(status=500)]
    assert (await search(services))[1] == ()


async def test_while_the_embedder_is_known_to_be_out_a_search_does_not_wait(
    services: Services, stub: EmbeddingStub
) -> None:
    await services.rag.ingest_pdf("", await upload(services))
    stub.behaviour.key = "another key"
    assert await services.rag.outages.report("embedder", EmbeddingFailed())
    asked = len(stub.requests)
    assert (await search(services))[1] == ("embedder",)
    assert len(stub.requests) - asked <= 1, "a probe of the sweeper's, at most"


async def test_a_file_store_that_is_away_fails_nothing(
    services: Services, settings: Settings, tmp_path: Path
) -> None:
    task_id = await upload(services)
    shutil.move(tmp_path / "files", tmp_path / "unmounted")
    with pytest.raises(StorageFailed):
        await services.rag.ingest_pdf("", task_id)
    row = await row_of(services, task_id)
    assert (row.status, row.attempt) == ("queued", 0)
    assert await degraded(services) == ["file_store"]
    shutil.move(tmp_path / "unmounted", tmp_path / "files")

    await until_degraded(services, [], 30)
    assert await services.rag.ingest_pdf("", task_id) > 0


async def test_a_machine_without_room_for_temporary_files_fails_nothing(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that tells languages apart is unpacked into one, when a text is not plain English."""
    german = pages_of([shown("Die Wildbienen des Gartens fliegen im Fruehling von Bluete zu Bluete.")])
    task_id = await upload(services, content=german)
    with monkeypatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(StorageFailed):
            await services.rag.ingest_pdf("", task_id)
    assert (await row_of(services, task_id)).status == "retrying"
    await make_due(services)
    assert await services.rag.ingest_pdf("", task_id) > 0


class DetectorOnAFullDisk(LanguageDetector):
    """Unpacks its model where the kernel says that there is no room."""

    def detect(self, texts: Iterable[str]) -> str | None:
        FULL_DISK.write_bytes(b"model")
        return super().detect(texts)


@pytest.mark.skipif(not FULL_DISK.exists(), reason="there is no full disk on this system")
async def test_a_full_disk_of_a_worker_is_waited_for_however_long_it_takes(services: Services) -> None:
    there = replace(services.rag, pipeline=replace(services.rag.pipeline, detector=DetectorOnAFullDisk()))
    task_id = await upload(services)
    for _ in range(MAX_RETRIES + 2):
        with pytest.raises(DiskFull, match=DISK_OF_WORKER):
            await there.ingest_pdf("", task_id)
        row = await row_of(services, task_id)
        assert (row.status, row.error_code) == ("retrying", "storage_failed")
        assert row.error_message == DISK_OF_WORKER
        await make_due(services)
    assert await degraded(services) == [], "the disk of the file store has room"
    assert await services.rag.ingest_pdf("", task_id) > 0


@pytest.fixture
async def services_with_folder(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Services, Path]]:
    folder = tmp_path / "incoming"
    folder.mkdir()
    async with open_services(settings.model_copy(update={"ingest_folders": (folder,)})) as services:
        yield services, folder


async def test_a_full_disk_of_the_store_charges_no_task_that_names_a_path(
    services_with_folder: tuple[Services, Path],
) -> None:
    services, folder = services_with_folder
    waiting = await upload(services)
    task_id, path = uuid4(), folder / "large.pdf"
    path.write_bytes(prose(2) + b"%" * 800_000)
    with no_file_may_be_larger_than(500_000):
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await services.rag.ingest_pdf(str(path), task_id)
            row = await row_of(services, task_id)
            assert (row.status, row.error_code, row.retries) == ("retrying", "storage_failed", 0)
            await make_due(services)
        assert await degraded(services) == ["file_store"]
        with pytest.raises(WorkHeld):
            await services.rag.ingest_pdf("", waiting)

    await until_degraded(services, [], 40)
    assert await services.rag.ingest_pdf(str(path), task_id) > 0
    assert await services.rag.ingest_pdf("", waiting) > 0
    assert len(list((path.parent.parent / "files").iterdir())) == 2, "a probe has left its file"


@contextmanager
def no_file_may_be_larger_than(size: int) -> Iterator[None]:
    """To this process it is like a disk on which there is no more room than that."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def make_due(services: Services) -> None:
    async with services.database.transaction() as connection:
        await connection.execute(text("UPDATE ingestions SET next_attempt_at = clock_timestamp()"))


async def test_a_file_that_is_missing_for_a_while_is_no_verdict(services: Services, tmp_path: Path) -> None:
    """As of a disk that is not mounted: its folder is there, and empty."""
    task_id = await upload(services)
    (file,) = (tmp_path / "files").iterdir()
    file.rename(tmp_path / file.name)
    with pytest.raises(StorageFailed):
        await services.rag.ingest_pdf("", task_id)
    row = await row_of(services, task_id)
    assert (row.status, row.error_code) == ("retrying", "storage_failed")
    (tmp_path / file.name).rename(file)
    await make_due(services)
    assert await services.rag.ingest_pdf("", task_id) > 0


async def test_a_folder_of_files_that_is_not_that_of_the_others_fails_nothing(
    services: Services, tmp_path: Path
) -> None:
    """As of a worker on another machine, or of a disk that is not mounted: the folder is there, and empty."""
    task_ids = [await upload(services, content=pages_of([shown(f"File {one}.")])) for one in range(4)]
    files = tmp_path / "files"
    files.rename(tmp_path / "elsewhere")
    files.mkdir()
    with pytest.raises(StorageFailed):
        await services.rag.ingest_pdf("", task_ids[0])
    assert await degraded(services) == ["file_store"]
    row = await row_of(services, task_ids[0])
    assert (row.status, row.attempt, row.retries) == ("queued", 0, 0)
    async with services.database.transaction() as connection:
        reason = await connection.scalar(text("SELECT reason FROM outages"))
    assert "STORAGE_URL" in reason
    files.rmdir()
    (tmp_path / "elsewhere").rename(files)

    await until_degraded(services, [], 30)
    assert await services.rag.ingest_pdf("", task_ids[0]) > 0


async def test_a_folder_that_was_never_made_is_no_outage(services: Services, tmp_path: Path) -> None:
    """The first task of all may name a file in it that is not there."""
    assert not (tmp_path / "files").exists()
    assert not await services.rag.outages.report("file_store", StorageFailed())
    await upload(services)
    shutil.rmtree(tmp_path / "files")
    assert await services.rag.outages.report("file_store", StorageFailed())


async def test_a_time_limit_that_is_reached_in_an_outage_is_no_verdict(
    services: Services, stub: EmbeddingStub
) -> None:
    stub.behaviour.key = "another key"
    task_id = await upload(services)
    run = asyncio.create_task(services.rag.ingest_pdf("", task_id))

    await until_degraded(services, ["embedder"])
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await services.rag.give_up(task_id)
    assert (await row_of(services, task_id)).status == "queued"


async def test_a_time_limit_is_counted_once_among_the_verdicts(services: Services) -> None:
    task_id = await upload(services)
    before = counted("timed_out")
    for _ in range(2):  # of two deliveries
        await services.rag.give_up(task_id)
    assert (await row_of(services, task_id)).error_code == "timed_out"
    assert counted("timed_out") == before + 1


async def test_what_becomes_of_a_path_without_being_read_is_counted_among_the_verdicts(
    services_with_folder: tuple[Services, Path],
) -> None:
    services, folder = services_with_folder
    before = {verdict: counted(verdict) for verdict in ("path_not_allowed", "empty_file", "success")}
    (folder / "empty.pdf").touch()
    for path, error in ((Path("/etc/hostname"), PathNotAllowed), (folder / "empty.pdf", EmptyFile)):
        task_id = uuid4()
        for _ in range(2):  # of two deliveries
            with pytest.raises(PDFIngestError, match=re.escape(error.default_message)):
                await services.rag.ingest_pdf(str(path), task_id)
    (folder / "known.pdf").write_bytes(prose(2))
    for _ in range(2):  # the second one shares what the first has stored
        assert await services.rag.ingest_pdf(str(folder / "known.pdf"), uuid4()) > 0
    after = {verdict: counted(verdict) for verdict in before}
    grown = {verdict: after[verdict] - before[verdict] for verdict in before}
    assert grown == {"path_not_allowed": 1, "empty_file": 1, "success": 2}


def counted(verdict: str) -> float:
    """How many ingestions have ended so in this process."""
    found = counters().registry.get_sample_value("pdf_ingest_process_verdicts_total", {"verdict": verdict})
    return found or 0.0
