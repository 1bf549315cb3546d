"""How a PDF becomes searchable: read, split, embed, store, publish."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import structlog

from app.embeddings.base import Embedder
from app.errors import ChunksDiffer, EmbeddingFailed, FileNotFound, NoText, StorageFailed, Temporary, WorkHeld
from app.metrics import counters
from app.pdf.pages import Page
from app.pdf.reader import PDFReader, Reading, ReadingProgress
from app.services.background import in_background
from app.services.detection import LanguageDetector
from app.services.outages import Outages
from app.services.pace import ReadingPace
from app.services.prefetch import in_order
from app.services.resuming import ChunkChain, behind
from app.services.splitter import Splitter
from app.services.stage_clock import Embedded, StageClock
from app.storage import canonical, languages, runs
from app.storage.chunks import Chunk
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.languages import TextLanguage, TextSearch
from app.storage.passwords import PasswordCipher
from app.storage.runs import Lease, Progress, StoredChunks
from app.storage.title_words import count_title

EMBEDDING_BATCHES_AT_ONCE = 4  # of one document: three are embedded while one is stored
BATCH_SECONDS = 0.5
LARGE_PAGE_CHARACTERS = 20_000  # split in 8 ms; a usual page in 1, and a thread would take 0.2 more
FEWEST_CHUNKS = 8  # in a batch of what is read slowly: enough to tell the language from the first one
LOOK_SECONDS = 0.25
DATABASE_PAUSE_SECONDS = 1.0
MAX_OUTAGE_PAUSE_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What each ingestion goes through. Whose work it is, and how it ends, is not decided here."""

    database: Database
    files: FileStore
    reader: PDFReader
    splitter: Splitter
    embedder: Embedder
    detector: LanguageDetector
    text_search: TextSearch
    space_id: int
    cipher: PasswordCipher | None
    outages: Outages
    batch_chunks: int

    async def ingest(self, lease: Lease, progress: Progress) -> int:
        """All of it, or what earlier attempts have left of it; the number of the document's chunks."""
        try:
            return await self._ingest(lease, progress)
        except ChunksDiffer:
            await self._begin_anew(lease)
            return await self._ingest(lease, progress)

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
                    with clock.storing():
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
        return await self._publish(lease, reading, notes, clock)

    async def _publish(self, lease: Lease, reading: Reading, notes: "PageNotes", clock: StageClock) -> int:
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
            in_background(self._make_way(lease, pace)),
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

    async def _begin(self, lease: Lease, reading: Reading) -> StoredChunks:
        """The chunks that an earlier attempt has stored, cut by the same recipe."""
        recipe = (
            f"{self.reader.fingerprint} {self.splitter.fingerprint} {reading.facts.engine} {self.space_id}"
            f"{canonical.RECIPE}"
        )
        async with self.database.autocommit() as connection:
            return await runs.begin(connection, lease, self.space_id, reading.facts, recipe)

    async def _begin_anew(self, lease: Lease) -> None:
        log.warning("beginning anew", reason="an earlier attempt has read something else")
        async with self.database.autocommit() as connection:
            await runs.begin_anew(connection, lease, self.space_id)

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

    async def _embed(self, progress: Progress, batch: Sequence[Chunk]) -> Embedded:
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
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)

    async def _language_of_new(self, lease: Lease, batch: Sequence[Chunk]) -> TextLanguage:
        if lease.language is not None:
            return self.text_search.language(lease.language)
        code = await asyncio.to_thread(self.detector.detect, [chunk.text for chunk in batch])
        return self.text_search.language(code)

    async def _language_of_stored(self, lease: Lease) -> TextLanguage:
        """A document is stemmed in one language, whatever the rest of it looks like."""
        async with self.database.autocommit() as connection:
            return await languages.find_language(connection, lease.ingestion_id)

    def _password(self, lease: Lease) -> str | None:
        return self.cipher.decrypt(lease.password) if self.cipher and lease.password else None


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


def _count_published(pages: int, chunks: int, stage_seconds: dict[str, float]) -> None:
    counted = counters()
    counted.verdicts.labels("success").inc()
    counted.pages.inc(pages)
    counted.chunks.inc(chunks)
    for stage, seconds in stage_seconds.items():
        counted.stage_seconds.labels(stage).inc(seconds)
