"""How fast and how complete search is: `python -m benchmarks.search [chunks[/chunks a document] …]`.

Starts a Postgres of its own, fills it with made-up documents (12 % of the chunks belong to versions that
are not published) and prints, for each search, the rows of ten that came back, the median and 95th
percentile of the time, and the share of the truth among them. The truth is what comparing or ranking
everything finds, timed too.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
from alembic import command
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from app.embeddings.base import EmbeddingIdentity
from app.local.embedded import EmbeddedPostgres
from app.storage.chunks import embeddings_table
from app.storage.database import Database, halfvecs
from app.storage.filters import SearchFilter
from app.storage.search import search_hybrid, search_text, search_vector
from app.storage.spaces import open_space
from tests.databases import run_alembic
from tests.storage.library import SUBJECTS, Library, Shelf

DIMENSIONS = 256
WORDS_A_CHUNK = 150
WORDS_A_QUERY = 8
QUERIES = 100
LIMIT = 10
SHORT = Shelf("short", 10, 400)
LONG_DOCUMENT_CHUNKS = 300

Ids = list[UUID]
Query = tuple[NDArray[np.float32], str]


@dataclass(slots=True)
class Measured:
    """One search, over all queries."""

    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    found: int = 0
    expected: int = 0


class Benchmark:
    """The searches over one library, and the truth to compare them with."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.queries: list[Query] = [
            (
                library.vectors(1, number % SUBJECTS)[0],
                " ".join(library.texts(1, number % SUBJECTS)[0].split()[:: WORDS_A_CHUNK // WORDS_A_QUERY]),
            )
            for number in range(QUERIES)
        ]

    async def vector(self, query: Query, wanted: SearchFilter) -> Ids:
        async with self.library.database.transaction() as connection:
            hits = await search_vector(connection, self.library.space_id, query[0], wanted, LIMIT)
        return [hit.chunk_id for hit in hits]

    async def words(self, query: Query, wanted: SearchFilter) -> Ids:
        async with self.library.database.transaction() as connection:
            hits = await search_text(connection, query[1], wanted, LIMIT)
        return [hit.chunk_id for hit in hits]

    async def hybrid(self, query: Query, wanted: SearchFilter) -> Ids:
        async with self.library.database.transaction() as connection:
            hits = await search_hybrid(connection, self.library.space_id, *query, wanted, LIMIT)
        return [hit.chunk_id for hit in hits]

    async def every_vector(self, query: Query, wanted: SearchFilter) -> Ids:
        """Compare everything visible."""
        statement = f"""
            SELECT chunk_id FROM {embeddings_table(self.library.space_id)}
            JOIN documents d ON d.live_ingestion_id = ingestion_id
            WHERE d.collection = coalesce(CAST(:collection AS text), d.collection)
            ORDER BY embedding <#> (CAST(:vectors AS halfvec[]))[1] LIMIT {LIMIT}
        """
        return await self._truth(statement, wanted, vectors=halfvecs(query[0][np.newaxis]))

    async def every_word(self, query: Query, wanted: SearchFilter) -> Ids:
        """Rank everything visible by its words and documents."""
        return await self.library.compared_entirely(query[1], wanted)

    async def everything(self, query: Query, wanted: SearchFilter) -> Ids:
        """Rank everything visible by its words, documents and vectors."""
        return await self.library.compared_entirely(query[1], wanted, query[0])

    async def _truth(self, statement: str, wanted: SearchFilter, **parameters: object) -> Ids:
        async with self.library.database.transaction() as connection:
            await connection.execute(text("SET LOCAL enable_indexscan = off"))
            await connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
            rows = await connection.execute(text(statement), {"collection": wanted.collection, **parameters})
            return [row.chunk_id for row in rows]

    async def measure(
        self,
        search: Callable[[Query, SearchFilter], Awaitable[Ids]],
        truth: Callable[[Query, SearchFilter], Awaitable[Ids]] | None,
        wanted: SearchFilter,
    ) -> Measured:
        measured = Measured()
        for query in self.queries:
            began = time.perf_counter()
            ids = await search(query, wanted)
            measured.seconds.append(time.perf_counter() - began)
            measured.rows.append(len(ids))
            if truth is not None:
                expected = await truth(query, wanted)
                measured.found += len(set(expected) & set(ids))
                measured.expected += len(expected)
        return measured


async def run(database_url: str, chunks: int, long_document_chunks: int, console: Console) -> None:
    await run_alembic(database_url, command.upgrade, "head")
    database = Database(database_url)
    space_id = await open_space(database, EmbeddingIdentity("benchmark", "clusters", DIMENSIONS))
    library = Library(database, space_id, DIMENSIONS, words=WORDS_A_CHUNK)
    began = time.perf_counter()
    documents = (chunks - SHORT.documents * SHORT.chunks) // long_document_chunks
    long = Shelf("long", documents, long_document_chunks)
    await library.fill([SHORT, long], hidden=[Shelf("hidden", documents // 8, long_document_chunks)])
    seconds = time.perf_counter() - began
    console.print(f"{chunks:,} visible chunks, {documents:,} long documents, filled in {seconds:.0f} s")

    benchmark = Benchmark(library)
    everything, short = SearchFilter(), SearchFilter(collection="short")
    table = Table("search", "in", "rows of 10", "median ms", "95 % ms", "of the truth")
    for name, search, truth, wanted in (
        ("vector, by index", benchmark.vector, benchmark.every_vector, everything),
        ("vector, comparing all (the truth)", benchmark.every_vector, None, everything),
        ("vector, short list", benchmark.vector, benchmark.every_vector, short),
        ("text", benchmark.words, benchmark.every_word, everything),
        ("text, ranking all (the truth)", benchmark.every_word, None, everything),
        ("text, short list", benchmark.words, benchmark.every_word, short),
        ("hybrid", benchmark.hybrid, benchmark.everything, everything),
        ("hybrid, ranking all (the truth)", benchmark.everything, None, everything),
        ("hybrid, short list", benchmark.hybrid, benchmark.everything, short),
    ):
        measured = await benchmark.measure(search, truth, wanted)
        table.add_row(name, wanted.collection or "everything", *cells(measured))
    console.print(table)
    await database.close()


def cells(measured: Measured) -> tuple[str, str, str, str]:
    milliseconds = sorted(1000 * seconds for seconds in measured.seconds)
    return (
        f"{min(measured.rows)}",
        f"{statistics.median(milliseconds):.1f}",
        f"{milliseconds[int(0.95 * len(milliseconds))]:.1f}",
        f"{measured.found / measured.expected:.3f}" if measured.expected else "",
    )


def main() -> None:
    sizes = [argument.partition("/") for argument in sys.argv[1:] or ["10000", "60000"]]
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres", is_durable=False) as postgres,
    ):
        for chunks, _, a_document in sizes:
            name = f"search_{uuid4().hex}"
            postgres.create_database(name)
            console = Console(width=110)
            asyncio.run(
                run(postgres.url(name), int(chunks), int(a_document or LONG_DOCUMENT_CHUNKS), console)
            )


if __name__ == "__main__":
    main()
