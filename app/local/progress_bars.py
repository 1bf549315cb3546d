"""Ingesting many files from the command line: some at a time, a bar for each, a verdict for every one."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.local.client import Client, RequestRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a file ended: `code` is success, or the error's; `document_id` is None when it was refused."""

    path: Path
    code: str
    message: str
    seconds: float
    document_id: str | None = None
    pages: int | None = None
    chunks: int = 0

    @property
    def is_success(self) -> bool:
        return self.code == "success"


class Bars:
    """A live progress bar for each file in work; a file that has ended keeps its last state."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )

    def add(self, name: str) -> TaskID:
        return self.progress.add_task(name, total=None, stage="uploading")

    def show(self, bar: TaskID, task: dict[str, Any]) -> None:
        done, total = task["progress"]["pages_done"], task["progress"]["pages_total"]
        stage = task["progress"]["stage"] if task["status"] == "processing" else task["status"]
        if task["status"] == "queued" and task["queue_position"]:
            stage = f"queued ({task['queue_position']})"
        pages = f", page {done} of {total}" if total else ""
        self.progress.update(bar, completed=done, total=total, stage=stage + pages)

    def end(self, bar: TaskID, verdict: Verdict) -> None:
        pages = verdict.pages or 1
        counts = f"{_counted(pages, 'page')}, {_counted(verdict.chunks, 'chunk')}"
        self.progress.update(
            bar, completed=pages, total=pages, stage=counts if verdict.is_success else verdict.code
        )
        self.progress.stop_task(bar)


async def ingest_files(
    client: Client, paths: Iterable[Path], *, fields: dict[str, str], at_once: int, console: Console
) -> list[Verdict]:
    """Upload and follow every file, at most `at_once` at a time; the verdicts in the files' order."""
    bars = Bars(console)
    slots = asyncio.Semaphore(at_once)

    async def ingest(path: Path) -> Verdict:
        async with slots:
            return await ingest_file(client, path, fields=fields, bars=bars)

    with bars.progress:
        async with asyncio.TaskGroup() as group:
            ingestions = [group.create_task(ingest(path)) for path in paths]
    return [ingestion.result() for ingestion in ingestions]


async def ingest_file(client: Client, path: Path, *, fields: dict[str, str], bars: Bars) -> Verdict:
    began = time.monotonic()
    bar = bars.add(path.name.encode(errors="replace").decode())
    try:
        accepted = await client.upload(path, fields)
        task = await follow(client.follow(accepted["task_id"]), bars, bar)
        verdict = verdict_of(path, task, time.monotonic() - began)
    except RequestRefused as refusal:
        verdict = _not_ingested(path, refusal.code, str(refusal), began)
    except OSError as error:
        verdict = _not_ingested(path, "unreadable_file", f"The file cannot be read: {error.strerror}.", began)
    bars.end(bar, verdict)
    return verdict


async def follow(statuses: AsyncIterator[dict[str, Any]], bars: Bars, bar: TaskID) -> dict[str, Any]:
    """Show each status; the last one is the task's end."""
    task: dict[str, Any] = {}
    async for task in statuses:
        bars.show(bar, task)
    return task


def verdict_of(path: Path, task: dict[str, Any], seconds: float) -> Verdict:
    outcome = task["result"]
    return Verdict(
        path=path,
        code=outcome.get("code", "success"),
        message=outcome.get("message", ""),
        seconds=seconds,
        document_id=task["document_id"],
        pages=task["progress"]["pages_total"],
        chunks=task["progress"]["chunks"],
    )


def pdfs_in(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the PDFs anywhere in the folders named, sorted."""
    found: list[Path] = []
    for path in paths:
        found += (
            sorted(part for part in path.rglob("*") if part.suffix.lower() == ".pdf" and part.is_file())
            if path.is_dir()
            else [path]
        )
    return found


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _not_ingested(path: Path, code: str, message: str, began: float) -> Verdict:
    return Verdict(path=path, code=code, message=message, seconds=time.monotonic() - began)
