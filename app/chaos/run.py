"""A chaos run: learn the truth undisturbed, then one scenario after the other, each counted."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.chaos.audit import Remains, contents, count_doubled, count_remains
from app.chaos.pdfs import write_specimens
from app.chaos.report import Outcome, print_outcomes, write_json
from app.chaos.scenarios import SCENARIOS, Scenario
from app.chaos.world import WORKERS, Accepted, World, open_world

SETTLE_SECONDS = 60.0
LEFT_OVER_SECONDS = 5.0
LONG_PAGES = (220, 220)  # over 500 chunks
LONG_COUNT = 3
SHORT_DOCUMENTS = 24
SHORT_PAGES = (5, 20)
PAGES = (5, 50)


class UndisturbedRunFailed(Exception):  # noqa: N818 - errors here state the fact
    """Without any fault not every document was ready: there is nothing to compare with."""


async def run_chaos(  # noqa: PLR0913 - the options of the command
    console: Console,
    *,
    scenarios: Sequence[Scenario] = SCENARIOS,
    documents: int | None = None,
    seed: int = 1,
    is_short: bool = False,
    json_file: Path | None = None,
) -> bool:
    """Whether nothing was lost, doubled, wrong or stuck. Raises ServerFailed and UndisturbedRunFailed."""
    count = documents or (SHORT_DOCUMENTS if is_short else 60)
    with tempfile.TemporaryDirectory(prefix="pdf-ingest-chaos-") as name:
        folder = Path(name)
        specimens = write_specimens(folder, seed, count, pages=SHORT_PAGES if is_short else PAGES)
        longest = [] if is_short else write_specimens(folder, seed, LONG_COUNT, pages=LONG_PAGES, prefix="long")
        with (folder / "log").open("w") as log:
            console.print(f"Starting a stack of its own, with {len(WORKERS)} workers ...")
            async with open_world(
                folder,
                seed=seed,
                specimens=specimens,
                longest=longest,
                say=lambda part, line: print(f"{time.time():.3f} {part}: {line}", file=log, flush=True),
            ) as world:
                outcomes = await _play_all(world, scenarios, console)
        if keep := os.environ.get("CHAOS_LOG"):
            Path(keep).write_text((folder / "log").read_text())
    print_outcomes(console, outcomes)
    if json_file is not None:
        write_json(json_file, outcomes, seed=seed)
    return all(outcome.is_good for outcome in outcomes)


async def _play_all(world: World, scenarios: Sequence[Scenario], console: Console) -> list[Outcome]:
    started = time.monotonic()
    await _learn_truth(world)
    chunks = sum(map(len, world.truths.values()))
    console.print(
        f"{len(world.truths)} documents with {chunks} chunks were ingested undisturbed"
        f" in {time.monotonic() - started:.0f} s."
    )
    outcomes = []
    for scenario in scenarios:
        outcome = await _play(world, scenario)
        verdict = "as it should be" if outcome.is_good else "NOT as it should be"
        console.print(Text(f"{scenario.name}: {verdict} after {outcome.seconds:.0f} s"))
        outcomes.append(outcome)
    return outcomes


async def _learn_truth(world: World) -> None:
    await world.begin("undisturbed")
    world.upload_all([*world.specimens, *world.longest])
    await world.settle(10 * SETTLE_SECONDS)
    served = await contents(world.watcher, [one.document_id for one in world.accepted.values()])
    world.truths = {mark: served[one.document_id] for mark, one in world.accepted.items()}
    if not all(world.truths.values()):
        raise UndisturbedRunFailed("Undisturbed, not every document was ready: see the settings and the log.")
    await _delete_all(world)


async def _play(world: World, scenario: Scenario) -> Outcome:
    started = time.monotonic()
    await world.begin(scenario.name)
    await scenario.play(world)
    await world.start("valkey", "postgres", "api", *WORKERS)
    is_settled = await world.settle(SETTLE_SECONDS)
    await world.watcher.look()
    stuck = 0 if is_settled else sum(not sight.is_final for sight in world.watcher.sights.values())
    lost, doubled, wrong = await _compare(world)
    embedded_twice = sum(count - 1 for text, count in world.stub.texts.items() if " l" in text)
    recoveries = world.watcher.recoveries
    unrecovered = world.watcher.unrecovered
    verdicts = await _count_verdicts(world)
    documents = len(world.accepted)
    await _delete_all(world)
    remains = await _remains(world)
    return Outcome(
        scenario=scenario.name,
        faults=world.faults,
        documents=documents,
        verdicts=verdicts,
        lost=lost,
        doubled_chunks=doubled,
        wrong_counts=wrong,
        orphans=remains.chunks + remains.vectors,
        files_left=remains.files,
        stuck=stuck,
        embedded_twice=embedded_twice,
        taken_up_seconds=recoveries.taken_up,
        working_seconds=recoveries.working,
        unrecovered=unrecovered,
        seconds=time.monotonic() - started,
        mistakes=world.mistakes,
        notes=world.notes,
    )


async def _compare(world: World) -> tuple[list[str], int, int]:
    """What is lost, in words; doubled chunks; documents with a wrong number of chunks."""
    lost, doubled, wrong = [], 0, 0
    served = await contents(world.watcher, [one.document_id for one in world.accepted.values()])
    for mark, accepted in world.accepted.items():
        content = served[accepted.document_id]
        truth = () if mark in world.excused else world.truths[mark]
        doubled += count_doubled(content, truth)
        wrong += len(content) != len(truth)
        if content != truth:
            lost.append(f"{mark} {await _describe(world, accepted)} {len(content)} of {len(truth)} chunks")
    return lost, doubled, wrong


async def _describe(world: World, accepted: Accepted) -> str:
    sight = world.watcher.sights.get(accepted.task_id)
    if sight is None:
        return "has no row:"
    return f"is {sight.status} ({sight.error_code}, attempt {sight.attempt}):"


async def _count_verdicts(world: World) -> int:
    """Final statuses, as the API says them."""
    tasks = await asyncio.gather(*(world.client.task(str(one.task_id)) for one in world.accepted.values()))
    for (mark, one), task in zip(world.accepted.items(), tasks, strict=True):
        expected = world.excused.get(mark, "success")
        if task["status"] in {"success", "error", "cancelled"} and task["status"] != expected:
            world.mistakes.append(f"{mark} should have ended as {expected}, not as {task['status']} ({one})")
    return sum(task["status"] in {"success", "error", "cancelled"} for task in tasks)


async def _delete_all(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        for accepted in world.accepted.values():
            group.create_task(world.delete(accepted.document_id))


async def _remains(world: World) -> Remains:
    """After all documents are deleted nothing should be left; files follow a moment later."""
    deadline = time.monotonic() + LEFT_OVER_SECONDS
    while (remains := await count_remains(world.watcher, world.stack.data_dir / "files")) and (
        time.monotonic() < deadline
    ):
        await asyncio.sleep(0.2)
    return remains
