"""What a page costs as documents grow, what a row costs as the tables grow, and what more processes bring."""

import asyncio
from dataclasses import dataclass

import asyncpg
from uuid_utils.compat import uuid7

from app.storage.languages import chunk_vector
from benchmarks.ingest import cost_a_page, ingest_all
from benchmarks.pdfs import documents_of, specimens, warm_up
from benchmarks.processes import Processes
from benchmarks.report import Curves, Row, Table, points
from benchmarks.run import Run
from benchmarks.search import DIMENSIONS, fill, library_in
from benchmarks.stacks import Embedding, Measured, running
from tests.storage.library import Shelf

EMBEDDING = Embedding(dimensions=DIMENSIONS, delay_ms=0)
PAGES, QUICK_PAGES = (10, 160, 1_000, 5_000), (10, 40)
LEAST_PAGES, QUICK_LEAST_PAGES = 300, 40  # of small documents there are so many that they make these
SIZES, QUICK_SIZES = (2_000, 10_000, 50_000, 100_000), (2_000, 4_000)
INSERTED, QUICK_INSERTED = 2_000, 200  # CPU time has ticks of 10 ms
PROCESSES, QUICK_PROCESSES = (1, 2, 4), (1, 2)
LONG_FILES = {
    "MAX_CHARACTERS": "1000000000",
    "MAX_UPLOAD_BYTES": "1000000000",
    "READING_MAX_SECONDS": "1000",
}
# What an insert is made of, and the kinds of index that are left for it.
PARTS = {"heap": (), "b-trees": ("btree",), "GIN": ("gin",), "HNSW": ("hnsw",)}
ALL = ("btree", "gin", "hnsw")


def measure(run: Run) -> list[Table | Curves]:
    pages = asyncio.run(_pages_of_a_document(run))
    rows = asyncio.run(_rows_in_the_table(run))
    processes = asyncio.run(_processes(run))
    return [
        Table(
            "A page, by the pages of its document",
            pages,
            f"CPU milliseconds a page; server at 0 ms, {DIMENSIONS} dimensions, two processes. `first "
            "chunk`: from the request until progress tells of one. `reader MB`: of one process, at its peak.",
        ),
        Table(
            "A row, by the rows that are there",
            rows,
            f"CPU milliseconds of all of Postgres for each of {_inserted(run):,} rows in a statement, "
            f"{DIMENSIONS} dimensions, after a checkpoint: making the tsvector, storing without any index, "
            "and what each kind of index adds (GIN with its pending list merged). `all`: storing as it is in "
            "the product, and how much of the log (WAL) it writes.",
        ),
        Table(
            "Pages a second, by the processes of the worker",
            processes,
            f"The documents of `ingest`; server at 0 ms, {DIMENSIONS} dimensions.",
        ),
        Curves(
            "CPU milliseconds a page, by the pages of its document",
            "pages of the document",
            "ms",
            {name: points(pages, "pages", name) for name in ("reader", "worker", "postgres", "sum")},
        ),
        Curves(
            "CPU milliseconds a row, by the rows that are there",
            "rows in the table",
            "ms",
            {name: points(rows, "rows", name) for name in ("tsvector", *PARTS, "all")},
        ),
    ]


async def _pages_of_a_document(run: Run) -> list[Row]:
    rows: list[Row] = []
    for pages in QUICK_PAGES if run.is_quick else PAGES:
        least = QUICK_LEAST_PAGES if run.is_quick else LEAST_PAGES
        documents = documents_of(run, pages, max(1, least // pages))
        async with running(run, EMBEDDING, settings=LONG_FILES) as measured:
            done = await ingest_all(measured, documents, warm_up(run))
        run.say(f"{len(documents)} of {pages} pages: {done.pages_a_second:.0f} pages/s")
        rows.append(
            {
                "pages": pages,
                "documents": len(documents),
                "seconds": done.seconds,
                "pages/s": done.pages_a_second,
                "first chunk s": done.first_chunk_seconds,
                **cost_a_page(done.use, done.pages),
                "reader MB": done.use["reader"].largest_mb,
            }
        )
    return rows


async def _rows_in_the_table(run: Run) -> list[Row]:
    sizes = QUICK_SIZES if run.is_quick else run.chunks or SIZES
    rows: list[Row] = []
    async with running(run, EMBEDDING, workers=0) as measured, library_in(measured) as library:
        vectors = f"embeddings_{library.space_id}"
        for before, size in zip((0, *sizes), sizes, strict=False):
            await fill(library, size - before)
            ingestion_id = await library.add_ingestion(uuid7(), Shelf("hidden", 1, 0))
            async with measured.database() as connection:
                inserting = _Inserting(measured, connection, vectors, _inserted(run))
                rows.append({"rows": size, **await inserting.cost(str(ingestion_id))})
            run.say(f"{size:,} rows: {rows[-1]['all']:.2f} CPU ms a row")
    return rows


def _inserted(run: Run) -> int:
    return QUICK_INSERTED if run.is_quick else INSERTED


@dataclass(frozen=True, slots=True)
class Inserted:
    """What a row has cost."""

    cpu_ms: float
    wal_kb: float


class _Inserting:
    """Puts fresh rows into the tables as they are, with some of the indexes, and takes everything back."""

    def __init__(self, measured: Measured, connection: asyncpg.Connection, vectors: str, count: int) -> None:
        self._postgres = measured.stack.part("postgres").pid
        self._connection = connection
        self._tables = ("chunks", vectors)
        self._count = count

    async def cost(self, ingestion_id: str) -> Row:
        """Of a row, by part."""
        for table in self._tables:  # its CPU would be ours
            await self._connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        found = {name: await self._insert(ingestion_id, kinds) for name, kinds in PARTS.items()}
        heap = found["heap"].cpu_ms
        parts: Row = {name: found[name].cpu_ms - (heap if kinds else 0) for name, kinds in PARTS.items()}
        everything = await self._insert(ingestion_id, ALL)
        making = await self._make_vectors_of_words()
        return {"tsvector": making, **parts, "all": everything.cpu_ms, "WAL kB": everything.wal_kb}

    async def _insert(self, ingestion_id: str, kinds: tuple[str, ...]) -> Inserted:
        await self._connection.execute("CHECKPOINT")
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await self._make_fresh_rows(ingestion_id)
            await self._drop_indexes_but(kinds)
            begun_at = await self._log_position()
            with Processes(postgres=self._postgres) as processes:
                for table in self._tables:
                    await self._connection.execute(f"INSERT INTO {table} SELECT * FROM fresh_{table}")
                if "gin" in kinds:
                    await self._connection.execute("SELECT gin_clean_pending_list('ix_chunks_tsv')")
            written = await self._log_position() - begun_at
            return Inserted(processes.cpu_ms("postgres", self._count), written / 1000 / self._count)
        finally:
            await transaction.rollback()

    async def _log_position(self) -> int:
        """In bytes since the beginning of the log."""
        return int(await self._connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    async def _make_fresh_rows(self, ingestion_id: str) -> None:
        """Texts that are there, with vectors near theirs: the index would put the same ones together."""
        chunks, vectors = self._tables
        for table in self._tables:
            await self._connection.execute(f"CREATE TEMP TABLE fresh_{table} (LIKE {table}) ON COMMIT DROP")
        await self._connection.execute(
            f"INSERT INTO fresh_{chunks} SELECT * FROM {chunks} ORDER BY random() LIMIT {self._count}"
        )
        series = f"generate_series(1, {DIMENSIONS}) WHERE e.chunk_id IS NOT NULL"  # anew for each row
        noise = f"(SELECT array_agg((random() - 0.5) / 10) FROM {series})"
        await self._connection.execute(
            f"INSERT INTO fresh_{vectors} SELECT chunk_id, '{ingestion_id}',"
            f" l2_normalize(embedding + {noise}::halfvec({DIMENSIONS}))"
            f" FROM {vectors} e WHERE chunk_id IN (SELECT id FROM fresh_{chunks})"
        )
        await self._connection.execute(
            f"CREATE TEMP TABLE renamed ON COMMIT DROP AS"
            f" SELECT id, uuidv7() AS new_id, row_number() OVER () AS ordinal FROM fresh_{chunks}"
        )
        await self._connection.execute(
            f"UPDATE fresh_{chunks} f SET id = new_id, ordinal = r.ordinal, ingestion_id = '{ingestion_id}'"
            f" FROM renamed r WHERE f.id = r.id"
        )
        await self._connection.execute(
            f"UPDATE fresh_{vectors} f SET chunk_id = new_id FROM renamed r WHERE f.chunk_id = r.id"
        )

    async def _drop_indexes_but(self, kinds: tuple[str, ...]) -> None:
        indexes = await self._connection.fetch(
            "SELECT i.indrelid::regclass::text AS of_table, i.indexrelid::regclass::text AS name, con.conname"
            " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam"
            " LEFT JOIN pg_constraint con ON con.conindid = c.oid AND con.contype IN ('p', 'u')"
            " WHERE i.indrelid::regclass::text = ANY($1) AND am.amname <> ALL($2)",
            *(list(self._tables), list(kinds)),
        )
        for index in indexes:
            await self._connection.execute(
                f"ALTER TABLE {index['of_table']} DROP CONSTRAINT {index['conname']} CASCADE"
                if index["conname"]
                else f"DROP INDEX {index['name']}"
            )

    async def _make_vectors_of_words(self) -> float:
        made = chunk_vector("'english'", "heading", "text")
        with Processes(postgres=self._postgres) as processes:
            await self._connection.execute(
                f"SELECT count({made}) FROM (SELECT * FROM chunks LIMIT {self._count})"
            )
        return processes.cpu_ms("postgres", self._count)


async def _processes(run: Run) -> list[Row]:
    files = specimens(run)
    rows: list[Row] = []
    for processes in QUICK_PROCESSES if run.is_quick else PROCESSES:
        async with running(run, EMBEDDING, workers=processes) as measured:
            done = await ingest_all(measured, files, warm_up(run))
        run.say(f"{processes} processes: {done.pages_a_second:.0f} pages/s")
        use = {name: one.peak_mb for name, one in done.use.items()}
        memory = {"worker MB": use.get("worker"), "reader MB": use.get("reader")}
        cost = cost_a_page(done.use, done.pages)
        rows.append({"processes": processes, "pages/s": done.pages_a_second, **cost, **memory})
    return rows
