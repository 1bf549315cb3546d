"""Pages a second from upload to searchable, and what a page costs in each process.

Beside it, in the same run, what bounds it from above (pdfium reading alone, Postgres taking the same rows by
COPY) and what people write themselves.
"""

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

import pypdfium2

from app.local.embedded import EmbeddedPostgres
from benchmarks.clients import Connection, upload, verdict
from benchmarks.pdfs import Specimen, specimens, warm_up
from benchmarks.processes import Processes, Use
from benchmarks.report import Curves, Row, Table
from benchmarks.run import Run
from benchmarks.stacks import BUILT_IN, OURS, Embedding, Measured, running, serving

SETTINGS = (
    BUILT_IN,
    Embedding(dimensions=384, delay_ms=0),
    Embedding(dimensions=384, delay_ms=100),
    Embedding(dimensions=1536, delay_ms=0),
    Embedding(dimensions=1536, delay_ms=100),
)
QUICK = SETTINGS[:2]
PLAIN_PAGES = 300  # enough for a rate: it is ten times slower
COPY = "SELECT * FROM {table}"
WARM_UPS = 4
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Some documents, from the first request to the last verdict."""

    pages: int
    chunks: int
    seconds: float
    first_chunk_seconds: float
    """Of the first document."""
    use: dict[str, Use]

    @property
    def pages_a_second(self) -> float:
        return self.pages / self.seconds


def measure(run: Run) -> list[Table | Curves]:
    files = specimens(run)
    pages = sum(file.pages for file in files)
    run.say(f"{len(files)} PDFs, {pages:,} pages")
    beside = [pdfium_alone(files)]
    alone = beside[0]["pages/s"]
    assert isinstance(alone, float)
    found: list[tuple[Row, list[Ingested]]] = []
    for embedding in QUICK if run.is_quick else SETTINGS:
        rounds, copied = asyncio.run(_rounds(run, embedding, files))
        found.append(({"embedder": embedding.name, "dimensions": embedding.dimensions}, rounds))
        beside += copied
        run.say(
            f"{embedding.name}, {embedding.dimensions} dimensions: {rounds[-1].pages_a_second:.0f} pages/s"
        )
    beside.append(plain_script(run, files))
    return [
        Table(
            "From upload to searchable, two processes",
            [name | _speed(rounds, alone) for name, rounds in found],
            f"{len(files)} PDFs, {pages:,} pages, uploaded at once; from the first request to the last "
            "verdict, on a durable stack. `of pdfium alone`: of one core that does nothing but read.",
        ),
        Table(
            "CPU milliseconds a page",
            [name | cost_a_page(rounds[-1].use, pages) for name, rounds in found],
            "The embedding server is not ours, and not in the sum.",
        ),
        Table(
            "Memory, MB at the peak",
            [name | peaks(rounds[-1].use) for name, rounds in found],
            "What processes have written themselves; without shared buffers.",
        ),
        Table("Beside it", beside, "COPY: the rows just stored, in the binary form, by one connection."),
    ]


def _speed(rounds: Sequence[Ingested], alone: float) -> Row:
    middle = median(one.pages_a_second for one in rounds)
    return {
        "pages/s": middle,
        "of pdfium alone": middle / alone,
        "chunks": rounds[0].chunks,
        "rounds": " ".join(f"{one.pages_a_second:.0f}" for one in rounds),
    }


async def _rounds(
    run: Run, embedding: Embedding, files: Sequence[Specimen]
) -> tuple[list[Ingested], list[Row]]:
    rounds: list[Ingested] = []
    copied: list[Row] = []
    for number in range(run.rounds):
        async with running(run, embedding) as measured:
            rounds.append(await ingest_all(measured, files, warm_up(run)))
            if number == 0 and embedding.delay_ms in {None, 0}:
                copied = await copy_alone(measured, embedding)
    return rounds, copied


async def ingest_all(measured: Measured, files: Sequence[Specimen], warm_up: Specimen) -> Ingested:
    """Upload all at once, wait for all; before that a small one for each process."""
    url = measured.url
    small = [upload(url, warm_up.path, on_duplicate="keep") for _ in range(WARM_UPS)]
    await asyncio.gather(*(verdict(url, task_id) for task_id in await asyncio.gather(*small)))
    with measured.processes() as processes:
        began = time.time()
        uploads = [upload(url, file.path, on_duplicate="keep") for file in files]
        task_ids = await asyncio.gather(*uploads)
        first = asyncio.create_task(_first_chunk(url, task_ids[0]))
        tasks = await asyncio.gather(*(verdict(url, task_id) for task_id in task_ids))
    ended = max(datetime.fromisoformat(task["finished_at"]).timestamp() for task in tasks)
    return Ingested(
        pages=sum(task["progress"]["pages_total"] for task in tasks),
        chunks=sum(task["progress"]["chunks"] for task in tasks),
        seconds=ended - began,
        first_chunk_seconds=await first - began,
        use=processes.use,
    )


async def _first_chunk(url: str, task_id: str) -> float:
    """When progress says for the first time that something is stored."""
    async with Connection(url) as connection:
        while True:
            if (await connection.json("GET", f"/tasks/{task_id}"))["progress"]["chunks"]:
                return time.time()
            await asyncio.sleep(LOOK_SECONDS)


def cost_a_page(use: dict[str, Use], pages: int) -> Row:
    ours = {group: 1000 * use[group].cpu_seconds / pages if group in use else 0.0 for group in OURS}
    embedder = 1000 * use["embedder"].cpu_seconds / pages if "embedder" in use else None
    return {**ours, "sum": sum(ours.values()), "embedding server": embedder}


def peaks(use: dict[str, Use]) -> Row:
    row: Row = {group: use[group].peak_mb if group in use else None for group in OURS}
    return row | {"largest reader": use["reader"].largest_mb if "reader" in use else None}


def pdfium_alone(files: Sequence[Specimen]) -> Row:
    """The text of every page, in this process."""
    began, used = time.perf_counter(), time.process_time()
    for file in files:
        with pypdfium2.PdfDocument(file.path) as document:
            for page in document:
                page.get_textpage().get_text_bounded()
    pages = sum(file.pages for file in files)
    seconds = time.perf_counter() - began
    return _beside("pdfium alone", pages, seconds, time.process_time() - used)


async def copy_alone(measured: Measured, embedding: Embedding) -> list[Row]:
    """Everything stored once more by COPY, into tables without any index and into tables with all."""
    async with measured.database() as connection:
        tables = ["chunks", await connection.fetchval("SELECT 'embeddings_' || id FROM embedding_spaces")]
        contents = {}
        for table in tables:
            contents[table] = io.BytesIO()
            await connection.copy_from_query(
                COPY.format(table=table), output=contents[table], format="binary"
            )
        rows = await connection.fetchval("SELECT count(*) FROM chunks")
        stored = await connection.fetchval("SELECT sum(pages_total) FROM ingestions")
        found = []
        for like, name in (("", "no index"), (" INCLUDING ALL", "all indexes")):
            for table in tables:
                await connection.execute(f"CREATE TABLE copied_{table} (LIKE {table}{like})")
            with Processes(postgres=measured.stack.part("postgres").pid) as processes:
                began = time.perf_counter()
                for table in tables:
                    contents[table].seek(0)
                    await connection.copy_to_table(f"copied_{table}", source=contents[table], format="binary")
                seconds = time.perf_counter() - began
            for table in tables:
                await connection.execute(f"DROP TABLE copied_{table}")
            what = f"COPY alone, {embedding.dimensions} dimensions, {name}"
            cpu_seconds = processes.use["postgres"].cpu_seconds
            found.append(_beside(what, stored, seconds, cpu_seconds) | {"chunks/s": rows / seconds})
        return found


def plain_script(run: Run, files: Sequence[Specimen]) -> Row:
    """As many documents as make enough pages for a rate."""
    embedding = Embedding(dimensions=384, delay_ms=0)
    chosen: list[Specimen] = []
    while sum(file.pages for file in chosen) < PLAIN_PAGES and len(chosen) < len(files):
        chosen.append(files[len(chosen)])
    with (
        serving(embedding) as (_, settings),
        EmbeddedPostgres(run.fresh("plain") / "postgres") as postgres,
    ):
        postgres.create_database("plain")
        url = postgres.url("plain").replace("+asyncpg", "")
        command = [
            sys.executable,
            "-m",
            "benchmarks.plain_script",
            url,
            settings["EMBEDDING_BASE_URL"],
            "384",
        ]
        command += [str(file.path) for file in chosen]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as script,
            Processes(script=script.pid, postgres=postgres.pid) as processes,
        ):
            assert script.stdout is not None
            rows, seconds = map(float, script.stdout.readline().split())
    pages = sum(file.pages for file in chosen)
    cpu_seconds = sum(use.cpu_seconds for use in processes.use.values())
    return _beside("a plain script, 384 dimensions", pages, seconds, cpu_seconds) | {
        "chunks/s": rows / seconds
    }


def _beside(what: str, pages: int, seconds: float, cpu_seconds: float) -> Row:
    return {
        "what": what,
        "pages": pages,
        "pages/s": pages / seconds,
        "CPU ms a page": 1000 * cpu_seconds / pages,
        "chunks/s": None,
    }
