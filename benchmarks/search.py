"""`POST /search`: how many a second, how long they take, and how much of the truth they find.

Libraries are made up and inserted in bulk: words as frequent as in a language, vectors in clusters. An eighth
of the chunks belong to versions that are not published. The truth is what comparing and ranking everything
finds. No question is asked twice: each ends with a word of its own that is nowhere in the library.
"""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import uvicorn
from numpy.typing import NDArray
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.local.chaos.embedding_stub import vector_of
from app.local.embedded import free_port
from app.storage.chunks import embeddings_table
from app.storage.database import WORK, Database, halfvecs
from app.storage.filters import Comparison, SearchFilter
from benchmarks.clients import Connection, hammer, upload, verdict
from benchmarks.pdfs import write_report
from benchmarks.report import Curves, Row, Table, latencies, points
from benchmarks.run import Run
from benchmarks.stacks import Measured, of_server, running, wait_for
from tests.storage.library import SUBJECTS, Library, Shelf

DIMENSIONS = 384
WORDS_A_CHUNK = 150
WORDS_A_QUERY = 8
QUESTIONS, COMPARED = 100, 20
SHORT = Shelf("short", 10, 100)
YEARS = (2021, 2022, 2023, 2024)
LONG_DOCUMENT_CHUNKS = 200
INDEXING_SECONDS = 3_600  # of a million vectors at once; a worker's statement has one minute
SIZES, QUICK_SIZES = (10_000, 100_000), (3_000,)


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to search: a row of the table."""

    name: str
    mode: str = "hybrid"
    fields: dict[str, Any]
    filter: SearchFilter
    clients: int = 4
    is_compared: bool = False
    is_under_ingestion: bool = False
    is_repeated: bool = False


def measure(run: Run) -> list[Table | Curves]:
    sizes = run.chunks or (QUICK_SIZES if run.is_quick else SIZES)
    rows = [row for chunks in sizes for row in asyncio.run(_measure_size(run, chunks))]
    note = (
        f"{DIMENSIONS} dimensions, embedded by a server of our own at 0 ms; {WORDS_A_QUERY} words, none "
        "asked twice; four clients. `recall@10`: the share of what comparing everything finds, over "
        f"{COMPARED} questions."
    )
    found: list[Table | Curves] = [Table("POST /search, one API process, ten hits", rows, note)]
    if len(sizes) > 1:
        ways = dict.fromkeys(str(row["search"]) for row in rows)
        lines = {
            way: points([row for row in rows if row["search"] == way], "chunks", "p50 ms") for way in ways
        }
        found.append(Curves("Milliseconds of a search, median", "chunks", "ms", lines))
    return found


async def _measure_size(run: Run, chunks: int) -> list[Row]:
    random = np.random.default_rng(chunks)
    port = free_port()
    settings = of_server(port, DIMENSIONS)
    async with running(run, workers=1, settings=settings) as measured, library_in(measured) as library:
        await fill(library, chunks)
        questions = [_question(library, int(random.integers(SUBJECTS))) for _ in range(QUESTIONS)]
        run.say(f"{chunks:,} chunks are there")
        with _answering({question.text: question.vector for question in questions}, port):
            ways = _ways(await _one_document(library))
            return [await _measure_way(run, measured, library, questions, way, chunks) for way in ways]


def _ways(document_id: UUID) -> list[Way]:
    everything = SearchFilter()
    year = {"filter": {"type": "eq", "key": "year", "value": YEARS[0]}}
    one = {"document_ids": [str(document_id)]}
    return [
        Way(name="all", fields={}, filter=everything, is_compared=True),
        Way(name="all, the same questions", fields={}, filter=everything, is_repeated=True),
        Way(name="all", clients=1, fields={}, filter=everything),
        Way(name="all", clients=16, fields={}, filter=everything),
        Way(name="all, under ingestion", fields={}, filter=everything, is_under_ingestion=True),
        Way(
            name="a year of four",
            fields=year,
            filter=SearchFilter(condition=Comparison("eq", "year", YEARS[0])),
            is_compared=True,
        ),
        Way(
            name="a short collection",
            fields={"collection": "short"},
            filter=SearchFilter(collection="short"),
            is_compared=True,
        ),
        Way(
            name="one document",
            fields=one,
            filter=SearchFilter(document_ids=(document_id,)),
            is_compared=True,
        ),
        Way(name="all", mode="vector", fields={}, filter=everything, is_compared=True),
        Way(name="all", mode="text", fields={}, filter=everything, is_compared=True),
    ]


async def _measure_way(
    run: Run, measured: Measured, library: Library, questions: list[Question], way: Way, chunks: int
) -> Row:
    numbers = count()
    asked = cycle(questions)

    async def ask(connection: Connection) -> None:
        ending = "" if way.is_repeated else f" zq{next(numbers)}"
        await _found(connection, way, next(asked), ending)

    async def under_load() -> tuple[Any, Any]:
        with measured.processes() as processes:
            seen = await hammer(measured.url, ask, clients=way.clients, seconds=2 if run.is_quick else 6)
        return seen, processes

    if way.is_under_ingestion:
        async with _ingesting(run, measured):
            seen, processes = await under_load()
    else:
        seen, processes = await under_load()
    recall = await _recall(measured, library, questions, way) if way.is_compared else None
    name = f"{way.mode}, {way.name}"
    run.say(f"{name}, {way.clients} clients: {seen.a_second:.0f}/s, recall {recall}")
    number = len(seen.milliseconds)
    return {
        "search": name if way.clients == 4 else f"{name}, {way.clients} clients",
        "chunks": chunks,
        "searches/s": seen.a_second,
        **latencies(seen.milliseconds),
        "recall@10": recall,
        "CPU ms of the API": processes.cpu_ms("api", number),
        "of Postgres": processes.cpu_ms("postgres", number),
    }


async def _found(connection: Connection, way: Way, question: Question, ending: str = "") -> list[UUID]:
    body = orjson.dumps({"query": question.text + ending, "mode": way.mode, "limit": 10, **way.fields})
    answer = await connection.json("POST", "/search", body)
    assert not answer["degraded"], answer["degraded"]
    return [UUID(hit["chunk_id"]) for hit in answer["data"]]


async def _recall(measured: Measured, library: Library, questions: list[Question], way: Way) -> float:
    """Over what the truth has: a short list may have fewer than ten."""
    found = expected = 0
    async with Connection(measured.url) as connection:
        for question in questions[:COMPARED]:
            truth = await _truth(library, question, way)
            found += len(set(truth) & set(await _found(connection, way, question)))
            expected += len(truth)
    return found / expected


async def _truth(library: Library, question: Question, way: Way) -> list[UUID]:
    if way.mode == "vector":
        return await _nearest_of_all(library, question)
    vector = None if way.mode == "text" else question.vector
    return await library.compared_entirely(question.text, way.filter, vector, is_contextual=True)


async def _nearest_of_all(library: Library, question: Question) -> list[UUID]:
    statement = f"""
        SELECT chunk_id FROM {embeddings_table(library.space_id)}
        JOIN documents d ON d.live_ingestion_id = ingestion_id
        ORDER BY embedding <#> (CAST(:vectors AS halfvec[]))[1] LIMIT 10
    """
    async with library.database.transaction() as connection:
        await connection.execute(text("SET LOCAL enable_indexscan = off"))
        vectors = halfvecs(question.vector[np.newaxis])
        return [row.chunk_id for row in await connection.execute(text(statement), {"vectors": vectors})]


@asynccontextmanager
async def library_in(measured: Measured) -> AsyncIterator[Library]:
    """An empty one, in the stack's database."""
    limits = replace(WORK, statement_seconds=INDEXING_SECONDS, answer_seconds=INDEXING_SECONDS)
    database = Database(measured.stack.environment["DATABASE_URL"], limits=limits)
    try:
        async with measured.database() as connection:
            space_id = await connection.fetchval("SELECT id FROM embedding_spaces WHERE is_live")
        yield Library(database, space_id, DIMENSIONS, words=WORDS_A_CHUNK)
    finally:
        await database.close()


async def fill(library: Library, chunks: int) -> None:
    """Add so many visible chunks, and an eighth more that are not."""
    documents = (chunks - SHORT.documents * SHORT.chunks) // LONG_DOCUMENT_CHUNKS
    shelves = [
        Shelf("long", (documents + place) // len(YEARS), LONG_DOCUMENT_CHUNKS, {"year": year})
        for place, year in enumerate(YEARS)
    ]
    hidden = Shelf("hidden", documents // 8, LONG_DOCUMENT_CHUNKS)
    await library.fill([SHORT, *shelves], hidden=[hidden])


def _question(library: Library, subject: int) -> Question:
    words = library.texts(1, subject)[0].split()[:: WORDS_A_CHUNK // WORDS_A_QUERY][:WORDS_A_QUERY]
    return Question(" ".join(words), library.vectors(1, subject)[0])


async def _one_document(library: Library) -> UUID:
    async with library.database.transaction() as connection:
        found = await connection.scalar(text("SELECT id FROM documents WHERE collection = 'long' LIMIT 1"))
        assert isinstance(found, UUID)
        return found


@asynccontextmanager
async def _ingesting(run: Run, measured: Measured) -> AsyncIterator[None]:
    """The worker's one process has something to do all the time."""
    report = write_report(run.folder / "more.pdf", 50, 7)

    async def keep_busy() -> None:
        while True:
            task_id = await upload(measured.url, report.path, collection="more", on_duplicate="keep")
            await verdict(measured.url, task_id)

    busy = [asyncio.create_task(keep_busy()) for _ in range(2)]
    await asyncio.sleep(2)
    try:
        yield
        assert not any(task.done() for task in busy), "an ingestion failed"
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@contextmanager
def _answering(vectors: dict[str, NDArray[np.float32]], port: int) -> Iterator[None]:
    """An embedding server that knows the vectors of the questions; other texts get those of their words."""
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(vectors, port), daemon=True)
    server.start()
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        yield
    finally:
        server.kill()
        server.join()


def _serve(vectors: dict[str, NDArray[np.float32]], port: int) -> None:
    def vector(asked: str) -> list[float]:
        known = vectors.get(asked, vectors.get(asked.rpartition(" ")[0]))
        found: list[float] = (vector_of(asked, DIMENSIONS) if known is None else known).tolist()
        return found

    async def embeddings(request: Request) -> Response:
        asked = orjson.loads(await request.body())["input"]
        texts = [asked] if isinstance(asked, str) else asked
        entries = [{"index": index, "embedding": vector(one)} for index, one in enumerate(texts)]
        return Response(orjson.dumps({"data": entries}), media_type="application/json")

    app = Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
