"""`GET /tasks/{id}`: how often it can be asked, and what an answer costs, with 10,000 tasks in the queue."""

import asyncio
from itertools import cycle

from benchmarks.clients import Connection, hammer, queue_tasks, upload, verdict
from benchmarks.pdfs import write_report
from benchmarks.report import Curves, Row, Table, latencies
from benchmarks.run import Run
from benchmarks.stacks import Measured, running

CLIENTS = (1, 4, 16, 64)
QUEUED, QUICK_QUEUED = 10_000, 500


def measure(run: Run) -> list[Table | Curves]:
    rows = asyncio.run(_rows(run))
    queued = QUICK_QUEUED if run.is_quick else QUEUED
    note = f"`finished`: one task that has ended. `queued`: {queued:,} that wait, in turn. One API process."
    return [Table("GET /tasks/{id}", rows, note)]


async def _rows(run: Run) -> list[Row]:
    rows: list[Row] = []
    async with running(run, workers=1, settings={"MAX_QUEUED": str(2 * QUEUED)}) as measured:
        report = write_report(run.folder / "report.pdf", 10, 1)
        finished = await upload(measured.url, report.path)
        await verdict(measured.url, finished)
        await measured.stack.part("worker").stop()
        for clients in CLIENTS:
            rows.append(await _asked(run, measured, "finished", [finished], clients))
        queued = await queue_tasks(measured.url, QUICK_QUEUED if run.is_quick else QUEUED)
        for clients in CLIENTS:
            rows.append(await _asked(run, measured, "queued", queued, clients))
    return rows


async def _asked(run: Run, measured: Measured, what: str, task_ids: list[str], clients: int) -> Row:
    paths = cycle(f"/tasks/{task_id}" for task_id in task_ids)

    async def ask(connection: Connection) -> None:
        path = next(paths)
        assert await connection.ask("GET", path) == 200, (path, connection.body)

    seconds = 1 if run.is_quick else 5
    with measured.processes() as processes:
        seen = await hammer(measured.url, ask, clients=clients, seconds=seconds)
    run.say(f"{what}, {clients} clients: {seen.a_second:.0f}/s")
    count = len(seen.milliseconds)
    return {
        "task": what,
        "clients": clients,
        "answers/s": seen.a_second,
        **latencies(seen.milliseconds),
        "CPU ms of the API": processes.cpu_ms("api", count),
        "of Postgres": processes.cpu_ms("postgres", count),
    }
