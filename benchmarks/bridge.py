"""Tasks a second of five bridges between Celery and asyncio, side by side.

The same job under real workers with two processes each, on a Postgres and a Valkey of its own. Every
design runs once a round; the table shows medians over the rounds, and errors in all of them.
"""

import os
import signal
import subprocess
import sys
import time
from statistics import median

from celery import Celery, group

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from benchmarks.bridge_designs import DESIGNS, job
from benchmarks.report import Curves, Row, Table
from benchmarks.run import Run

WARM_UP_TASKS = 20
TASKS, QUICK_TASKS = 600, 100
LEAST_ROUNDS = 3


def measure(run: Run) -> list[Table | Curves]:
    rounds = 1 if run.is_quick else max(run.rounds, LEAST_ROUNDS)
    tasks = QUICK_TASKS if run.is_quick else TASKS
    folder = run.fresh("servers")
    with (
        EmbeddedPostgres(folder / "postgres", is_durable=False) as postgres,
        EmbeddedValkey(folder / "valkey", is_durable=False) as valkey,
    ):
        environment = os.environ | {
            "DATABASE_URL": postgres.url("postgres"),
            "CELERY_BROKER_URL": valkey.url,
        }
        job.app.conf.update(broker_url=valkey.url, result_backend=valkey.url)
        speeds: dict[str, list[float]] = {design: [] for design in DESIGNS}
        errors = dict.fromkeys(DESIGNS, 0)
        for _ in range(rounds):
            for design in DESIGNS:
                speed, failed = run_design(design, environment, job.app, tasks)
                run.say(f"{design}: {speed:.0f} tasks/s")
                speeds[design].append(speed)
                errors[design] += failed
    note = f"{tasks} tasks of one query and 5 ms of waiting, two processes, medians of {rounds} rounds."
    return [Table("From Celery into asyncio", rows(speeds, errors), note)]


def rows(speeds: dict[str, list[float]], errors: dict[str, int]) -> list[Row]:
    fastest = max(map(median, speeds.values()))
    return [
        {
            "design": design,
            "tasks/s": median(measured),
            "of the fastest": median(measured) / fastest,
            "errors": errors[design],
            "rounds": " ".join(f"{speed:.0f}" for speed in measured),
        }
        for design, measured in speeds.items()
    ]


def workers_of(design: str) -> list[list[str]]:
    """Two processes each: a prefork pool of two, or two solo workers."""
    if design == "solo":
        return [["--pool", "solo", "--hostname", f"solo{number}@%h"] for number in range(2)]
    return [["--pool", "prefork", "--concurrency", "2"]]


def run_design(design: str, environment: dict[str, str], client: Celery, tasks: int) -> tuple[float, int]:
    """(tasks a second, errors)."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "benchmarks.bridge_designs", "worker", *options],
            env=environment | {"DESIGN": design},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for options in workers_of(design)
    ]
    try:
        while len(client.control.inspect(timeout=0.5).ping() or {}) < len(workers):
            if any(worker.poll() is not None for worker in workers):
                raise RuntimeError(f"a worker of design {design} ended")
        run_tasks(client, WARM_UP_TASKS)
        started = time.perf_counter()
        errors = run_tasks(client, tasks)
        return tasks / (time.perf_counter() - started), errors
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
            try:
                os.killpg(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def run_tasks(client: Celery, tasks: int) -> int:
    """Send them all, wait for all; the number that failed."""
    sent = group(job.s() for _ in range(tasks)).apply_async()
    results = sent.get(timeout=300, propagate=False)
    return sum(result != 1 for result in results)
