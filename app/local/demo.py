"""The demonstration: real PDFs through the whole service on a stack of its own, and every answer checked."""

import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from app.local.client import Client
from app.local.embedded import ServerFailed, free_port
from app.local.progress_bars import Bars, Verdict, follow, ingest_files, verdict_of
from app.local.stack import PROJECT, Stack
from app.local.terminal import print_hits, print_verdicts

SAMPLES = PROJECT / "samples"
PASSWORD = "lighthouse"  # noqa: S105 - of a sample
LOCKED = "board-minutes-locked.pdf"

EXPECTED_VERDICTS = {
    "annual-report.pdf": "success",
    "salt-marsh-article.pdf": "success",
    "wildbienen.pdf": "success",
    "damaged.pdf": "corrupted",
    LOCKED: "encrypted",
}


@dataclass(frozen=True, slots=True)
class KnownHit:
    """A search, and what its first hit must be."""

    query: str
    filename: str
    page: int
    text: str


QUESTIONS = (
    KnownHit("output of the turbines from July to September", "annual-report.pdf", 3, "4,246"),
    KnownHit("Does a dead marsh in winter protect a dike?", "salt-marsh-article.pdf", 2, "nearly as well"),
    KnownHit("Wie überwintern die Königinnen der Hummeln?", "wildbienen.pdf", 2, "Glyzerin"),
)


async def run_demo(console: Console) -> bool:
    """Whether every verdict and every hit is what it should be. Raises ServerFailed when nothing starts."""
    with tempfile.TemporaryDirectory(prefix="pdf-ingest-demo-") as folder:
        async with quiet_stack(Path(folder), console) as stack, Client(stack.url) as client:
            mistakes = await find_mistakes(client, console)
    console.print()
    for mistake in mistakes:
        console.print(Text(mistake, style="bold red"))
    if not mistakes:
        console.print("Every verdict and every hit is what it should be.", style="bold green")
        console.print("One file is damaged and one is locked on purpose. Next: `make up` runs the service.")
    return not mistakes


@asynccontextmanager
async def quiet_stack(folder: Path, console: Console) -> AsyncIterator[Stack]:
    """A stack whose output is shown only if it does not start, or if a part of it dies."""
    said: list[str] = []

    def show() -> None:
        console.print(Text("\n".join(said[-40:])))
        said.clear()

    def say(name: str, line: str) -> None:
        said.append(f"{name}: {line}")
        if name == "stack":  # a worker that cannot run here is started again for ever
            show()

    stack = Stack(folder, port=free_port(), workers=1, say=say)
    console.print("Starting Postgres, Valkey, a worker and the API ...")
    try:
        async with stack:
            console.print(f"The service answers at {stack.url}.")
            yield stack
            console.print("Stopping everything ...")
    except ServerFailed:
        show()
        raise


async def find_mistakes(
    client: Client, console: Console, *, samples: Path = SAMPLES, collection: str = "demo"
) -> list[str]:
    """Ingest the samples and search them; a sentence for each verdict and hit that should be another."""
    verdicts = await ingest_files(
        client,
        [samples / name for name in EXPECTED_VERDICTS],
        fields={"collection": collection},
        at_once=len(EXPECTED_VERDICTS),
        console=console,
    )
    expected = list(EXPECTED_VERDICTS.values())
    locked = verdicts[list(EXPECTED_VERDICTS).index(LOCKED)]
    if locked.code == EXPECTED_VERDICTS[LOCKED]:
        verdicts.append(await _unlock(client, locked, console))
        expected.append("success")
    print_verdicts(console, verdicts)
    return [
        *_wrong_verdicts(verdicts, expected),
        *[
            mistake
            for question in QUESTIONS
            async for mistake in _search(client, question, collection, console)
        ],
    ]


def _wrong_verdicts(verdicts: list[Verdict], expected: list[str]) -> Iterator[str]:
    for verdict, code in zip(verdicts, expected, strict=True):
        if verdict.code != code:
            yield f"{verdict.path.name} should have ended as {code}, not as {verdict.code}."
        elif verdict.is_success and not (verdict.pages and verdict.chunks):
            yield f"{verdict.path.name} is a success without pages or chunks."


async def _unlock(client: Client, locked: Verdict, console: Console) -> Verdict:
    """Try the locked document again, with its password."""
    began = time.monotonic()
    accepted = await client.retry(str(locked.document_id), PASSWORD)
    bars = Bars(console)
    bar = bars.add("the same with its password")
    with bars.progress:
        task = await follow(client.follow(accepted["task_id"]), bars, bar)
        verdict = verdict_of(locked.path, task, time.monotonic() - began)
        bars.end(bar, verdict)
    return verdict


async def _search(
    client: Client, question: KnownHit, collection: str, console: Console
) -> AsyncIterator[str]:
    console.print(Text(f"\nSearch: {question.query}", style="bold"))
    request = {"query": question.query, "collection": collection, "limit": 2}
    hits = (await client.search(request))["data"]
    print_hits(console, hits, question.query)
    if not hits or not _answers(hits[0], question):
        yield (
            f"The first hit for {question.query!r} should be page {question.page} of "
            f"{question.filename}, with the words {question.text!r}."
        )


def _answers(hit: dict[str, Any], question: KnownHit) -> bool:
    return (
        hit["filename"] == question.filename
        and hit["page_start"] <= question.page <= hit["page_end"]
        and question.text in " ".join(hit["text"].split())
    )
