"""The product in one class: a PDF goes in, its chunks can be searched."""

import asyncio
import errno
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import structlog
from numpy.typing import NDArray
from structlog.contextvars import bound_contextvars
from uuid_utils.compat import uuid7

from app.embeddings.base import Embedder
from app.embeddings.budget import Budget
from app.errors import (
    ChunksDiffer,
    DatabaseUnavailable,
    DiskFull,
    EmbeddingFailed,
    FileNotFound,
    InternalError,
    Interrupted,
    LeaseLost,
    NoText,
    PDFIngestError,
    StorageFailed,
    TaskNotFound,
    TaskTimedOut,
    Temporary,
    WorkHeld,
    error_for_code,
)
from app.metrics import counters
from app.pdf.pages import Page
from app.pdf.reader import PDFReader, Reading, ReadingProgress
from app.services.detection import LanguageDetector
from app.services.holder import Processes
from app.services.incoming import IncomingFiles
from app.services.outages import Outages
from app.services.pace import ReadingPace
from app.services.prefetch import in_order
from app.services.resuming import ChunkChain, behind
from app.services.retries import most_retries, pause_seconds
from app.services.searching import Found, Search, Searcher
from app.services.splitter import Splitter
from app.services.sweeper import find_lost, free
from app.storage import canonical, languages, runs
from app.storage.chunks import Chunk
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.languages import TextLanguage, TextSearch
from app.storage.marks import Span, find_marks
from app.storage.passwords import PasswordCipher
from app.storage.runs import Lease, Progress, StoredChunks
from app.storage.runs.conditions import FINAL, UNCLAIMED
from app.storage.tasks import result_of
from app.storage.title_words import count_title

T = TypeVar("T")

EMBEDDING_BATCHES_AT_ONCE = 4  # of one document: three are embedded while one is stored
BATCH_SECONDS = 0.5
LARGE_PAGE_CHARACTERS = 20_000  # split in 8 ms; a usual page in 1, and a thread would take 0.2 more
FEWEST_CHUNKS = 8  # in a batch of what is read slowly: enough to tell the language from the first one
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_OF_WORKER = "The disk of a worker is full, or that of its temporary files."
FAULT_OF_WORKER = "The machine of a worker did not do its work. The log has the details."
HEARTBEAT_SECONDS = 1.0
# Soon after the start: then the number of pages is known.
FIRST_HEARTBEAT_SECONDS = 0.25
DATABASE_PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.25
MAX_OUTAGE_PAUSE_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RAGService:
    """Ingests and searches. Everything it uses is opened by `resources.open_services`."""

    database: Database
    files: FileStore
    incoming: IncomingFiles
    reader: PDFReader
    splitter: Splitter
    embedder: Embedder
    budget: Budget
    detector: LanguageDetector
    text_search: TextSearch
    space_id: int
    cipher: PasswordCipher | None
    outages: Outages
    processes: Processes
    holder: str
    batch_chunks: int
    searcher: Searcher

    async def ingest_pdf(self, file_path: str, ingestion_id: UUID | None = None) -> int:
        """Read, split, embed, store and publish a PDF; the number of its chunks.

        The verdict is in the row before this returns or raises a PDFIngestError (for a Temporary one: the
        time of the next attempt). For a known id the ingestion's stored file counts, not the path, and this
        raises WorkHeld or LeaseLost when another delivery has, or took, the work; without an id it waits for
        the verdict.
        """
        if ingestion_id is not None:
            return await self._ingest_delivery(file_path, ingestion_id)
        ingestion_id = uuid7()
        while True:
            try:
                return await self._ingest_delivery(file_path, ingestion_id)
            except (WorkHeld, LeaseLost):
                await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _ingest_delivery(self, file_path: str, ingestion_id: UUID) -> int:
        lease = await self._claim(ingestion_id, file_path)
        if lease is None:
            return await self._chunks_of_final(ingestion_id)
        return await self.ingest_claimed(lease)

    async def is_bell(self, ingestion_id: UUID, file_path: str) -> bool:
        """Whether a message about this run says no more than that there is work: it waits for its turn.

        Else the message is for this run: it was asked for by its path, or has ended. The first message of a
        path makes its row, so that the sweeper knows of it from now on.
        """
        row = await self._find(ingestion_id)
        if row is None:
            await self.incoming.ask(ingestion_id, file_path)
            return False
        if row.status == "processing":
            await self._free_if_dead(ingestion_id)
        return row.turn is not None and row.status not in FINAL

    async def claim_next(self) -> Lease | None:
        """Take the work whose turn it is, for `ingest_claimed`; None when there is none that may be begun."""
        async with self.database.autocommit() as connection:
            return await runs.claim_next(connection, self.holder)

    async def ingest_claimed(self, lease: Lease) -> int:
        """As `ingest_pdf`, of what has been claimed."""
        request = {"request_id": lease.request_id} if lease.request_id else {}
        with bound_contextvars(
            task_id=str(lease.ingestion_id), document_id=str(lease.document_id), **request
        ):
            log.info("claimed", attempt=lease.attempt)
            try:
                return await self._ingest_to_verdict(lease)
            except LeaseLost:  # somebody else has the work now, or it was cancelled or superseded
                counters().lease_losses.inc()
                log.warning("lease lost")
                raise

    async def search(self, wanted: Search) -> Found:
        """The best chunks of the documents that pass the filter; no match is an empty list."""
        return await self.searcher.search(wanted)

    async def marks(self, found: Found, wanted: Search) -> Mapping[UUID, Sequence[Span]]:
        """Where in the text of each chunk that was found the words of the question stand."""
        async with self.database.transaction(wanted.filter.reach) as connection:
            return await find_marks(connection, found.hits, wanted.query)

    async def result(self, ingestion_id: UUID) -> dict[str, Any] | None:
        """The structured result of an ingestion, None as long as it is not final. Raises TaskNotFound."""
        row = await self._find(ingestion_id)
        if row is None:
            raise TaskNotFound
        return result_of(row) if row.status in FINAL else None

    async def give_up(self, ingestion_id: UUID) -> None:
        """End an ingestion that ran into its time limit, whoever holds it.

        Not so in an outage, or where embedding waits for turns: somebody goes on with what is stored.
        """
        if await self.outages.has_any() or await self.budget.is_used_up():
            log.info("time limit reached while waiting", task_id=str(ingestion_id))
            return
        async with self.database.autocommit() as connection:
            if await runs.end(connection, ingestion_id, self.space_id, TaskTimedOut()):
                counters().verdicts.labels(TaskTimedOut.code).inc()
        log.warning("time limit reached", task_id=str(ingestion_id))

    async def _ingest_to_verdict(self, lease: Lease) -> int:
        progress = Progress()
        try:
            async with beside(self._renew_for_ever(lease, progress)):
                try:
                    return await self._ingest(lease, progress)
                except ChunksDiffer:
                    await self._begin_anew(lease)
                    return await self._ingest(lease, progress)
        except (LeaseLost, WorkHeld):
            raise
        except DatabaseUnavailable:
            await self._release_when_possible(lease)
            raise
        except Interrupted as error:
            await self._try_again_or_fail(lease, error)
            raise
        except Temporary as error:
            await self._retry_or_fail(lease, error)
            raise
        except PDFIngestError as error:
            await self._fail(lease, error)
            raise
        except asyncio.CancelledError:
            await self._release(lease)
            raise
        except OSError as error:  # this machine's: what a document can do is in the reading process
            log.exception("the machine failed")
            failure = DiskFull(DISK_OF_WORKER) if error.errno in NO_ROOM else StorageFailed(FAULT_OF_WORKER)
            await self._retry_or_fail(lease, failure)
            raise failure from error
        except Exception as error:
            log.exception("ingestion failed")
            await self._fail(lease, InternalError())
            raise InternalError from error

    async def _ingest(self, lease: Lease, progress: Progress) -> int:
        clock = StageClock()
        notes, pace = PageNotes(), ReadingPace()
        async with (
            self._local_file(lease) as path,
            self._opened(path, lease, progress, pace) as reading,
        ):
            earlier = await self._begin(lease, reading)
            stored, chain = earlier.count, ChunkChain(earlier.digest)
            language = await self._language_of_stored(lease) if stored else None
            chunks = behind(self._split(lease.filename, reading, notes, pace), earlier)
            batches = in_batches(chunks, self.batch_chunks)
            embed = partial(self._embed, progress)
            async with in_order(batches, embed, EMBEDDING_BATCHES_AT_ONCE) as embedded:
                async for batch, vectors in clock.embedding(embedded):
                    language = language or await self._language_of_new(lease, batch)
                    # Its last page may go on in the next batch.
                    done = replace(progress, pages_done=batch[-1].page_end - 1)
                    with clock.stage("storing"):
                        async with self.database.autocommit() as connection:
                            await runs.store(
                                *(connection, lease, self.space_id, batch, vectors, done),
                                language=language,
                                digest=chain.add(batch),
                            )
                    progress.advance(done.pages_done)
                    stored = batch[-1].ordinal + 1
        if stored == 0:
            raise NoText
        log.info("stored", chunks=stored, language=language and language.code)
        progress.stage = "publishing"
        stage_seconds = clock.seconds(reading.ocr_seconds)
        async with self.database.autocommit() as connection:
            await runs.count_words(connection, lease, canonical.canonical(lease.filename, is_name=True))
            await count_title(connection, lease.ingestion_id)
            published = await runs.publish(
                connection,
                lease,
                self.space_id,
                engines=reading.engines,
                pages_failed=notes.failed,
                pages_without_text=notes.without_text,
                stage_seconds=stage_seconds,
            )
        _count_published(reading.facts.pages_total, published, stage_seconds)
        log.info("published", chunks=published, seconds=stage_seconds)
        return published

    @asynccontextmanager
    async def _local_file(self, lease: Lease) -> AsyncIterator[Path]:
        """It was stored before its row was made: that it is gone is the file store's fault, of a disk that is
        not mounted, say. Raises StorageFailed.
        """
        async with AsyncExitStack() as opened:
            try:
                path = await opened.enter_async_context(self.files.local_file(lease.storage_key))
            except FileNotFound as error:
                raise StorageFailed(error.message) from error
            yield path

    async def _embed(self, progress: Progress, batch: Sequence[Chunk]) -> "Embedded":
        """Waits, with what is read already, as long as the embedder is out.

        It may be out for this process only, which has another key than the one whose probe succeeds: the
        pauses keep it from stopping all the others again and again.
        """
        progress.stage = "embedding"
        sent_at = time.monotonic()
        texts = [chunk.embedded_text for chunk in batch]
        for outages in count():
            try:
                vectors = await self.embedder.embed(texts, [chunk.token_ids for chunk in batch])
            except EmbeddingFailed as error:
                if error.owner != "embedder" or not await self.outages.report(error.owner, error):
                    raise
            else:
                return Embedded(vectors, sent_at)
            await self._wait_for_services()
            await asyncio.sleep(min(2.0**outages - 1, MAX_OUTAGE_PAUSE_SECONDS))
        raise AssertionError("count has no end")

    async def _wait_for_services(self) -> None:
        while True:
            try:
                return await self.outages.wait()
            except Temporary:  # the database is away as well
                await asyncio.sleep(HEARTBEAT_SECONDS)

    @asynccontextmanager
    async def _opened(
        self, path: Path, lease: Lease, progress: Progress, pace: ReadingPace
    ) -> AsyncIterator[Reading]:
        """The document, to be read. Raises WorkHeld when it is slow and must wait for its turn."""

        def note(read: ReadingProgress) -> None:
            pace.note(read.pid)
            if read.stage == "ocr":  # else it stays reading, and then embedding
                progress.stage = read.stage
            if read.pages_total:  # 0 before it is open
                progress.pages_total = read.pages_total

        async with (
            beside(self._make_way(lease, pace)),
            self.reader.open(path, self._password(lease), note) as reading,
        ):
            yield reading

    async def _make_way(self, lease: Lease, pace: ReadingPace) -> None:
        """Leaves the work when it is slow, something else waits, and the slow lane is taken."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not pace.is_slow():
                continue
            try:
                async with self.database.autocommit() as connection:
                    if not await runs.enter_slow_lane(connection, lease):
                        await runs.release(connection, lease, is_slow=True, is_counted=False)
                        log.info("made way", reason="slow to read")
                        raise WorkHeld
            except Temporary:
                continue

    async def _split(
        self, filename: str, reading: Reading, notes: "PageNotes", pace: ReadingPace
    ) -> AsyncGenerator[list[Chunk]]:
        splitting = self.splitter.begin(filename, reading.facts)
        async for page in reading:
            notes.add(page)
            if sum(len(line.text) for line in page.lines) > LARGE_PAGE_CHARACTERS:
                yield await asyncio.to_thread(splitting.add, page)
            else:
                yield splitting.add(page)
        pace.stop()
        log.info("read", pages=reading.facts.pages_total, engines=reading.engines)
        yield splitting.finish()

    async def _begin_anew(self, lease: Lease) -> None:
        log.warning("beginning anew", reason="an earlier attempt has read something else")
        async with self.database.autocommit() as connection:
            await runs.begin_anew(connection, lease, self.space_id)

    async def _begin(self, lease: Lease, reading: Reading) -> StoredChunks:
        """The chunks that an earlier attempt has stored, cut by the same recipe."""
        recipe = (
            f"{self.reader.fingerprint} {self.splitter.fingerprint} {reading.facts.engine} {self.space_id}"
            f"{canonical.RECIPE}"
        )
        async with self.database.autocommit() as connection:
            return await runs.begin(connection, lease, self.space_id, reading.facts, recipe)

    async def _language_of_new(self, lease: Lease, batch: Sequence[Chunk]) -> TextLanguage:
        if lease.language is not None:
            return self.text_search.language(lease.language)
        code = await asyncio.to_thread(self.detector.detect, [chunk.text for chunk in batch])
        return self.text_search.language(code)

    async def _language_of_stored(self, lease: Lease) -> TextLanguage:
        """A document is stemmed in one language, whatever the rest of it looks like."""
        async with self.database.autocommit() as connection:
            return await languages.find_language(connection, lease.ingestion_id)

    async def _claim(self, ingestion_id: UUID, file_path: str) -> Lease | None:
        """The lease; None when the ingestion is final. Raises WorkHeld."""
        lease = await self._try_to_claim(ingestion_id)
        if lease is None:
            row = await self._find(ingestion_id)
            if row is None:
                await self.incoming.begin(ingestion_id, file_path)
            elif row.status in UNCLAIMED:
                await self._go_on_if_due(row)
            elif row.status == "processing":
                await self._free_if_dead(ingestion_id)
            elif row.status in FINAL:
                return None
            lease = await self._try_to_claim(ingestion_id)
        if lease is None:
            row = await self._find(ingestion_id)
            if row is None or row.status not in FINAL:
                log.info("held by another worker, or not its turn")
                raise WorkHeld
        return lease

    async def _try_to_claim(self, ingestion_id: UUID) -> Lease | None:
        async with self.database.autocommit() as connection:
            return await runs.claim(connection, ingestion_id, self.holder)

    async def _go_on_if_due(self, row: Any) -> None:
        async with self.database.autocommit() as connection:
            is_due = await runs.is_due(connection, row.id)
        if is_due:
            await self.incoming.go_on(row)

    async def _free_if_dead(self, ingestion_id: UUID) -> None:
        """The sweeper would do it within a second. What else its holder had says whose fault it was."""
        lost = await find_lost(self.database, self.processes)
        mine = [lease for lease in lost if lease.ingestion_id == ingestion_id]
        if mine:
            await free(self.database, self.space_id, mine)

    async def _find(self, ingestion_id: UUID) -> Any:
        async with self.database.autocommit() as connection:
            return await runs.find(connection, ingestion_id)

    async def _chunks_of_final(self, ingestion_id: UUID) -> int:
        row = await self._find(ingestion_id)
        if row is None:
            raise TaskNotFound
        if row.status != "success":
            raise error_for_code(row.error_code or row.status, row.error_message)
        chunks: int = row.chunks
        return chunks

    async def _renew_for_ever(self, lease: Lease, progress: Progress) -> None:
        """The heartbeat. Raises LeaseLost, except while the work is published.

        Publishing ends the lease itself, and may do so while a heartbeat waits for the row; whether the lease
        was ours is proven by what publishes.
        """
        pause_seconds = FIRST_HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = HEARTBEAT_SECONDS
            try:
                async with self.database.autocommit() as connection:
                    await runs.renew(connection, lease, progress)
            except LeaseLost:
                if progress.stage == "publishing":
                    return
                raise
            except Temporary:  # late is not lost: as long as the epoch is ours, we go on
                continue

    async def _retry_or_fail(self, lease: Lease, error: Temporary) -> None:
        if error.owner != "document" and await self.outages.report(error.owner, error):
            await self._release(lease, is_counted=False)
            return
        if lease.retries >= most_retries(error) or error.owner == "document":
            await self._fail(lease, error)
            return
        delay_seconds = pause_seconds(lease.retries)
        async with self.database.autocommit() as connection:
            await runs.retry_later(connection, lease, error, delay_seconds)
        counters().retries.labels(error.code).inc()
        log.warning("retrying later", code=error.code, seconds=round(delay_seconds, 1))

    async def _try_again_or_fail(self, lease: Lease, error: Interrupted) -> None:
        async with self.database.autocommit() as connection:
            seconds = await runs.requeue(connection, lease)
        if seconds is None:
            await self._fail(lease, error)
        else:
            log.warning("interrupted", reason=error.message, seconds=seconds)

    async def _fail(self, lease: Lease, error: PDFIngestError) -> None:
        async with self.database.autocommit() as connection:
            await runs.fail(connection, lease, self.space_id, error)
        counters().verdicts.labels(error.code).inc()
        log.info("failed", code=error.code)

    async def _release(self, lease: Lease, *, is_counted: bool = True) -> None:
        try:
            async with self.database.autocommit() as connection:
                await runs.release(connection, lease, is_counted=is_counted)
            log.info("released")
        except (LeaseLost, Temporary):
            log.info("the lease was not given back; it runs out")

    async def _release_when_possible(self, lease: Lease) -> None:
        """The database was away: nothing is charged for that, unless it stays away and the lease runs out."""
        deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                async with self.database.autocommit() as connection:
                    await runs.release(connection, lease, is_counted=False)
            except LeaseLost:
                return
            except Temporary:
                await asyncio.sleep(HEARTBEAT_SECONDS)
            else:
                log.info("released", reason="the database was not available")
                return

    def _password(self, lease: Lease) -> str | None:
        return self.cipher.decrypt(lease.password) if self.cipher and lease.password else None


@asynccontextmanager
async def beside(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `watch` beside the block. When it raises, the block is cancelled and the error raised here."""
    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch)
            yield
            watching.cancel()
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
        raise error from error.__cause__


@dataclass(slots=True)
class PageNotes:
    """Numbers of the pages that gave no text, and why."""

    failed: list[int] = field(default_factory=list)
    without_text: list[int] = field(default_factory=list)

    def add(self, page: Page) -> None:
        if page.error is not None:
            self.failed.append(page.number)
        elif not page.lines:
            self.without_text.append(page.number)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch's vectors, and when the embedder got it, by the monotonic clock."""

    vectors: NDArray[np.float32]
    sent_at: float


class StageClock:
    """Seconds spent waiting for each stage; reading is what is left, since it runs beside the others."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = {"embedding": 0.0, "storing": 0.0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[name] += time.monotonic() - started

    async def embedding(
        self, items: AsyncGenerator[tuple[list[Chunk], "Embedded"]]
    ) -> AsyncGenerator[tuple[list[Chunk], NDArray[np.float32]]]:
        """Batches with vectors. Waiting for one is embedding from when it was sent, before that reading."""
        while True:
            waited_from = time.monotonic()
            try:
                batch, embedded = await anext(items)
            except StopAsyncIteration:
                return
            self._seconds["embedding"] += time.monotonic() - max(waited_from, embedded.sent_at)
            yield batch, embedded.vectors

    def seconds(self, ocr_seconds: float) -> dict[str, float]:
        left = time.monotonic() - self._started - sum(self._seconds.values())
        ocr = min(left, ocr_seconds)  # some of it ran while others were waited for
        seconds = {"reading": left - ocr, "ocr": ocr, **self._seconds}
        return {name: round(value, 3) for name, value in seconds.items()}


def _count_published(pages: int, chunks: int, stage_seconds: dict[str, float]) -> None:
    counted = counters()
    counted.verdicts.labels("success").inc()
    counted.pages.inc(pages)
    counted.chunks.inc(chunks)
    for stage, seconds in stage_seconds.items():
        counted.stage_seconds.labels(stage).inc(seconds)


async def in_batches(source: AsyncGenerator[list[Chunk]], size: int) -> AsyncGenerator[list[Chunk]]:
    """Batches of `size` chunks; smaller ones of a document that is read slowly, and at its end."""
    batch: list[Chunk] = []
    begun = time.monotonic()
    async with aclosing(source):
        async for chunks in source:
            batch += chunks
            while len(batch) >= size or (len(batch) >= FEWEST_CHUNKS and _is_late(begun)):
                yield batch[:size]
                batch = batch[size:]
                begun = time.monotonic()
    if batch:
        yield batch


def _is_late(begun: float) -> bool:
    return time.monotonic() - begun > BATCH_SECONDS
