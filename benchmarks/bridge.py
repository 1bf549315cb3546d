"""Tasks a second of five bridges between Celery and asyncio, side by side: `python -m benchmarks.bridge`.

The same job under real workers with two processes each, on a Postgres and a Valkey of its own. Every
design runs once a round; the table shows medians over the rounds, and errors in all of them.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery, group
from rich.console import Console
from rich.table import Table

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from benchmarks.bridge_designs import DESIGNS, job

WARM_UP_TASKS = 20


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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--tasks", type=int, default=600)
    arguments.add_argument("--rounds", type=int, default=3)
    chosen = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "postgres", is_durable=False) as postgres,
        EmbeddedValkey(Path(folder) / "valkey", is_durable=False) as valkey,
    ):
        environment = os.environ | {
            "DATABASE_URL": postgres.url("postgres"),
            "CELERY_BROKER_URL": valkey.url,
        }
        job.app.conf.update(broker_url=valkey.url, result_backend=valkey.url)
        client = job.app
        speeds: dict[str, list[float]] = {design: [] for design in DESIGNS}
        errors = dict.fromkeys(DESIGNS, 0)
        for _ in range(chosen.rounds):
            for design in DESIGNS:
                speed, failed = run_design(design, environment, client, chosen.tasks)
                speeds[design].append(speed)
                errors[design] += failed
        show(speeds, errors)


def show(speeds: dict[str, list[float]], errors: dict[str, int]) -> None:
    fastest = max(statistics.median(measured) for measured in speeds.values())
    table = Table("design", "tasks/s (median)", "rounds", "of the fastest", "errors")
    for design, measured in speeds.items():
        median = statistics.median(measured)
        table.add_row(
            design,
            f"{median:.0f}",
            " ".join(f"{speed:.0f}" for speed in measured),
            f"{median / fastest:.0%}",
            str(errors[design]),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
