"""Where the parts are put together: the only place that knows them all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from app.config import Settings
from app.embeddings import EmbedderOptions, open_embedder
from app.embeddings.base import PROBE, Embedder
from app.embeddings.budget import Budget
from app.pdf.reader import PDFReader
from app.reranking import open_reranker
from app.reranking.reranker import Reranker
from app.services.admission import Admission
from app.services.backfill import all_duties
from app.services.collection_service import CollectionService
from app.services.detection import LanguageDetector
from app.services.document_service import DocumentService
from app.services.embedding_budget import FleetBudget, ToldPauses
from app.services.embedding_cache import CachedEmbedder
from app.services.figures import Figures
from app.services.holder import Processes
from app.services.incoming import IncomingFiles
from app.services.outages import Outages, Probe, probe_file_store
from app.services.pictures import PagePictures
from app.services.pipeline import Pipeline
from app.services.progress import ProgressWatcher
from app.services.query_vectors import QueryVectors
from app.services.rag_service import RAGService
from app.services.readiness import check_sandbox
from app.services.reranking import Reranking
from app.services.roster import Roster
from app.services.searching import Searcher
from app.services.splitter import Splitter
from app.services.sweeper import Sweeper
from app.services.verdicts import Verdicts
from app.services.webhook_delivery import WebhookDispatcher
from app.services.webhook_sender import WebhookSender
from app.services.webhook_service import WebhookService
from app.storage.database import A_PERSON_WAITS, WORK, Database, Limits
from app.storage.files import FileStore
from app.storage.languages import TextSearch, open_text_search
from app.storage.passwords import PasswordCipher
from app.storage.spaces import open_space
from app.task_queue import TaskQueue
from app.temporary import remove_abandoned

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the API and the worker use. All of it belongs to the event loop that opened it."""

    rag: RAGService
    documents: DocumentService
    collections: CollectionService
    progress: ProgressWatcher
    pictures: PagePictures
    webhooks: WebhookService
    database: Database
    files: FileStore
    queue: TaskQueue
    figures: Figures
    roster: Roster
    space_id: int
    sandbox: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resources:
    """What the services stand on: whatever has connections, processes or files of its own."""

    database: Database
    queue: TaskQueue
    files: FileStore
    reader: PDFReader
    embedder: Embedder
    budget: Budget
    text_search: TextSearch
    reranker: Reranker | None
    space_id: int
    cipher: PasswordCipher | None
    outages: Outages
    admission: Admission
    processes: Processes
    webhook_sender: WebhookSender


@asynccontextmanager
async def open_services(settings: Settings, limits: Limits = A_PERSON_WAITS) -> AsyncIterator[Services]:
    """Open everything, sweep while open, close everything. `limits` are those of the database.

    Raises DatabaseUnavailable, EmbeddingSpaceMismatch when the data belongs to another model, and
    SandboxIncomplete.
    """
    for name in await asyncio.to_thread(remove_abandoned):
        log.info("removed what a killed process left", folder=name)
    async with _open_resources(settings, limits) as resources, AsyncExitStack() as closing:
        database, files = resources.database, resources.files
        sandbox = await check_sandbox(resources.reader, is_required=settings.sandbox == "require")
        await closing.enter_async_context(_sweeping(_sweeper(settings, resources)))
        documents = _documents(settings, resources)
        closing.push_async_callback(documents.close)
        progress = ProgressWatcher(database)
        closing.push_async_callback(progress.close)
        pictures = PagePictures(
            database=database, files=files, reader=resources.reader, cipher=resources.cipher
        )
        closing.push_async_callback(pictures.close)
        yield Services(
            rag=_rag(settings, resources, documents),
            documents=documents,
            collections=CollectionService(database),
            progress=progress,
            pictures=pictures,
            webhooks=WebhookService(database, resources.webhook_sender, resources.cipher),
            database=database,
            files=files,
            queue=resources.queue,
            figures=Figures(database),
            roster=Roster(database, resources.queue.workers),
            space_id=resources.space_id,
            sandbox=sandbox,
        )


@asynccontextmanager
async def open_rag_service(settings: Settings) -> AsyncIterator[RAGService]:
    """The service alone, for a worker or a script."""
    async with open_services(settings, WORK) as services:
        yield services.rag


async def require_sandbox(settings: Settings) -> None:
    """For who opens services later. Raises SandboxIncomplete where the settings want what is not here."""
    if settings.sandbox == "require":
        reader = _reader(settings)
        try:
            await check_sandbox(reader, is_required=True)
        finally:
            await reader.close()


@asynccontextmanager
async def _open_resources(settings: Settings, limits: Limits) -> AsyncIterator[_Resources]:
    async with AsyncExitStack() as closing:
        database = Database(
            settings.database_url,
            limits=limits,
            pool_size=settings.database_pool_size,
            is_pgbouncer=settings.database_pgbouncer,
        )
        closing.push_async_callback(database.close)
        queue = TaskQueue(settings.celery_broker_url)
        closing.callback(queue.close)
        reader = _reader(settings)
        closing.push_async_callback(reader.close)
        budget = _budget(settings, database)
        embedder = await closing.enter_async_context(_embedder(settings, budget))
        sender = WebhookSender(allow_private=settings.webhook_allow_private)
        closing.push_async_callback(sender.close)
        files = FileStore(settings.storage_url)
        probes: dict[str, Probe] = {
            "embedder": partial(embedder.embed, PROBE),
            "file_store": partial(probe_file_store, database, files),
        }
        yield _Resources(
            database=database,
            queue=queue,
            files=files,
            reader=reader,
            embedder=_cached(settings, embedder, database),
            budget=budget,
            reranker=await closing.enter_async_context(_reranker(settings)),
            space_id=await open_space(database, embedder.identity),
            text_search=await open_text_search(database, settings.text_search_languages),
            cipher=PasswordCipher(settings.secret_key) if settings.secret_key else None,
            outages=Outages(database, probes),
            admission=Admission(
                database, max_queued=settings.max_queued, max_store_bytes=settings.max_store_bytes
            ),
            processes=Processes.of_this_host(),
            webhook_sender=sender,
        )


def _reader(settings: Settings) -> PDFReader:
    return PDFReader(
        max_pages=settings.max_pages,
        max_characters=settings.max_characters,
        engines=settings.pdf_engines,
        ocr_languages=settings.ocr_languages if settings.ocr == "auto" else None,
        ocr_pages=settings.ocr_max_pages,
        memory_bytes=settings.reading_memory_mb * 2**20,
        longest_seconds=settings.reading_max_seconds,
    )


def _budget(settings: Settings, database: Database) -> Budget:
    requests, tokens = settings.embedding_requests_per_minute, settings.embedding_tokens_per_minute
    if requests == tokens == 0:
        return ToldPauses(database)
    return FleetBudget(database, requests_per_minute=requests, tokens_per_minute=tokens)


def _embedder(settings: Settings, budget: Budget) -> AbstractAsyncContextManager[Embedder]:
    batch_tokens = settings.embedding_batch_tokens
    options = EmbedderOptions(
        provider=settings.embedding_provider,
        model=settings.embedding_model,
        dimensions=settings.embedding_dimensions,
        base_url=settings.embedding_base_url,
        api_key=settings.embedding_api_key,
        tokenizer=settings.embedding_tokenizer,
        batch_inputs=settings.embedding_batch_inputs,
        # Servers refuse a request with more than a minute's.
        batch_tokens=min(batch_tokens, settings.embedding_tokens_per_minute or batch_tokens),
        timeout_seconds=settings.embedding_timeout_seconds,
        query_prefix=settings.embedding_query_prefix,
        passage_prefix=settings.embedding_passage_prefix,
        model_path=settings.embedding_model_path,
        threads=settings.embedding_threads,
    )
    return open_embedder(options, budget)


def _cached(settings: Settings, embedder: Embedder, database: Database) -> Embedder:
    if settings.embedding_provider != "openai" or settings.embedding_cache_rows == 0:
        return embedder
    return CachedEmbedder(embedder, database)


def _reranker(settings: Settings) -> AbstractAsyncContextManager[Reranker | None]:
    return open_reranker(
        provider=settings.rerank_provider,
        base_url=settings.rerank_base_url,
        api_key=settings.rerank_api_key,
        model=settings.rerank_model,
        model_path=settings.rerank_model_path,
        threads=settings.embedding_threads,
    )


def _documents(settings: Settings, resources: _Resources) -> DocumentService:
    return DocumentService(
        database=resources.database,
        files=resources.files,
        enqueue=resources.queue.enqueue,
        cipher=resources.cipher,
        admission=resources.admission,
        max_upload_bytes=settings.max_upload_bytes,
        space_id=resources.space_id,
    )


def _rag(settings: Settings, resources: _Resources, documents: DocumentService) -> RAGService:
    database, outages, space_id = resources.database, resources.outages, resources.space_id
    return RAGService(
        database=database,
        incoming=_incoming(settings, resources, documents),
        pipeline=_pipeline(settings, resources),
        verdicts=Verdicts(database, outages, space_id),
        searcher=_searcher(settings, resources),
        budget=resources.budget,
        outages=outages,
        processes=resources.processes,
        holder=resources.processes.name_of_this(),
        space_id=space_id,
    )


def _pipeline(settings: Settings, resources: _Resources) -> Pipeline:
    return Pipeline(
        database=resources.database,
        files=resources.files,
        reader=resources.reader,
        splitter=_splitter(resources.embedder, settings.chunk_tokens),
        embedder=resources.embedder,
        detector=LanguageDetector(),
        text_search=resources.text_search,
        space_id=resources.space_id,
        cipher=resources.cipher,
        outages=resources.outages,
        batch_chunks=settings.embedding_batch_inputs,
    )


def _searcher(settings: Settings, resources: _Resources) -> Searcher:
    reranker = resources.reranker
    return Searcher(
        database=resources.database,
        embedder=resources.embedder,
        space_id=resources.space_id,
        query_vectors=QueryVectors(resources.embedder),
        outages=resources.outages,
        reranking=Reranking(reranker, settings.rerank_timeout_seconds) if reranker else None,
    )


def _splitter(embedder: Embedder, chunk_tokens: int) -> Splitter:
    return Splitter(
        embedder.tokenizer,
        min(chunk_tokens, embedder.max_tokens or chunk_tokens),
        passage_prefix=embedder.passage_prefix,
        has_headers=embedder.is_contextual,
    )


def _incoming(settings: Settings, resources: _Resources, documents: DocumentService) -> IncomingFiles:
    return IncomingFiles(
        folders=settings.ingest_folders,
        storage_url=settings.storage_url,
        uploading=documents.uploading,
        database=resources.database,
        files=resources.files,
        outages=resources.outages,
        admission=resources.admission,
        space_id=resources.space_id,
    )


def _sweeper(settings: Settings, resources: _Resources) -> Sweeper:
    database = resources.database
    return Sweeper(
        database=database,
        files=resources.files,
        queue=resources.queue,
        outages=resources.outages,
        processes=resources.processes,
        webhooks=WebhookDispatcher(database, resources.webhook_sender, resources.cipher),
        space_id=resources.space_id,
        retention_days=settings.retention_days,
        embedding_cache_rows=settings.embedding_cache_rows,
        duties=all_duties(database, resources.text_search),
    )


@asynccontextmanager
async def _sweeping(sweeper: Sweeper) -> AsyncIterator[None]:
    task = asyncio.create_task(sweeper.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
