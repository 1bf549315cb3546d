"""A chaos run: learn the truth undisturbed, then one scenario after the other, each counted."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from app.local.chaos.audit import Remains, contents, count_doubled, count_remains
from app.local.chaos.pdfs import Documents, Specimen, slow_pdf_of, write_specimens
from app.local.chaos.report import Findings, print_outcomes, print_progress, write_json
from app.local.chaos.scenarios import SCENARIOS, Scenario
from app.local.chaos.world import WORKERS, AcceptedUpload, World, open_world
from app.local.embedded import ServerFailed

SETTLE_SECONDS = 60.0
LEFT_OVER_SECONDS = 5.0
LONG_PAGES = (200, 200)  # 500 chunks or a few more
LONG_COUNT = 3
SLOW_COUNT = 4
TINY_COUNT = 200
LARGE_PAGES = (100, 110)
LARGE_COUNT, SHORT_LARGE_COUNT = 30, 6
DOCUMENTS = 60
SHORT_DOCUMENTS = 14
SHORT_PAGES = (5, 15)
PAGES = (5, 35)
VERSION_PREFIX = "v"
REPLACED, VERSIONS = 4, 5
VERSION_PAGES = (5, 15)  # at most 100 chunks: one search shows them all


class UndisturbedRunFailed(ServerFailed):
    """Without any fault not every document was ready: there is nothing to compare with."""


async def run_chaos(
    console: Console,
    *,
    scenarios: Sequence[Scenario] = SCENARIOS,
    documents: int | None = None,
    seed: int = 1,
    is_short: bool = False,
    json_file: Path | None = None,
    log_file: Path | None = None,
) -> bool:
    """Whether nothing was lost, doubled, wrong or stuck. Raises ServerFailed."""
    count = documents or (SHORT_DOCUMENTS if is_short else DOCUMENTS)
    kept_log = log_file or Path(tempfile.mkstemp(prefix="pdf-ingest-chaos-", suffix=".log")[1])
    with tempfile.TemporaryDirectory(prefix="pdf-ingest-chaos-") as name, kept_log.open("w") as log:
        folder = Path(name)
        console.print(f"Starting a stack of its own, with {len(WORKERS)} workers; it writes {kept_log} ...")
        async with open_world(
            folder / "stack",
            _write_documents(folder, seed, count, is_short=is_short),
            seed=seed,
            is_short=is_short,
            say=lambda part, line: print(f"{part}: {line}", file=log, flush=True),
        ) as world:
            outcomes = await _play_all(world, scenarios, console)
    print_outcomes(console, outcomes)
    if json_file is not None:
        write_json(json_file, outcomes, seed=seed)
    is_good = all(outcome.is_good for outcome in outcomes)
    if is_good and log_file is None:
        kept_log.unlink()
    return is_good


def _write_documents(folder: Path, seed: int, count: int, *, is_short: bool) -> Documents:
    write = partial(write_specimens, folder, seed)
    large_count = SHORT_LARGE_COUNT if is_short else LARGE_COUNT
    return Documents(
        specimens=write(count, pages=SHORT_PAGES if is_short else PAGES),
        longest=write(LONG_COUNT, pages=LONG_PAGES, prefix="long"),
        large=write(large_count, pages=LARGE_PAGES, prefix="large"),
        slow=write(SLOW_COUNT, pages=(1, 1), prefix="slow", draw=slow_pdf_of),
        tiny=write(TINY_COUNT, pages=(1, 1), prefix="tiny"),
        versions=_write_versions(folder, seed),
    )


def _write_versions(folder: Path, seed: int) -> list[list[Specimen]]:
    lists = []
    for number in range(REPLACED):
        versions = write_specimens(
            folder, seed, VERSIONS, pages=VERSION_PAGES, prefix=f"{VERSION_PREFIX}{number}-"
        )
        damaged = folder / f"damaged{number}.pdf"
        damaged.write_bytes(versions[0].path.read_bytes()[:3000])
        lists.append([*versions, Specimen("damaged", damaged)])
    return lists


async def _play_all(world: World, scenarios: Sequence[Scenario], console: Console) -> list[Findings]:
    started = time.monotonic()
    await _learn_truth(world, scenarios)
    chunks = sum(map(len, world.truths.values()))
    console.print(
        f"{len(world.truths)} documents with {chunks} chunks were ingested undisturbed"
        f" in {time.monotonic() - started:.0f} s."
    )
    outcomes = []
    for scenario in scenarios:
        outcome = await _play(world, scenario)
        print_progress(console, outcome)
        outcomes.append(outcome)
    return outcomes


async def _learn_truth(world: World, scenarios: Sequence[Scenario]) -> None:
    """Ingest undisturbed whatever the scenarios will."""
    await world.begin("undisturbed")
    needed = list(world.specimens)
    for kind in dict.fromkeys(scenario.needs for scenario in scenarios if scenario.needs):
        needed += world.sound(kind)
    world.upload_all(needed)
    is_settled = await world.settle(10 * SETTLE_SECONDS)
    served = await contents(world.watcher, [one.document_id for one in world.accepted.values()])
    world.truths = {mark: served[one.document_id] for mark, one in world.accepted.items()}
    if not is_settled or not all(world.truths.values()):
        raise UndisturbedRunFailed("Undisturbed, not every document was ready: --log shows why.")
    await _delete_all(world)


async def _play(world: World, scenario: Scenario) -> Findings:
    started = time.monotonic()
    await world.begin(scenario.name)
    await scenario.play(world)
    await world.start("valkey", "postgres", "api", *WORKERS)
    is_settled = await world.settle(SETTLE_SECONDS)
    await world.watcher.look()
    stuck = 0 if is_settled else sum(not sight.is_final for sight in world.watcher.sights.values())
    lost, doubled, wrong = await _compare(world)
    embedded_twice = sum(count - 1 for text, count in list(world.stub.texts.items()) if _is_once(world, text))
    recoveries = world.watcher.recoveries
    if recoveries.queue:
        world.notes.append(f"waiting work was taken up again after at most {max(recoveries.queue):.2f} s")
    unrecovered = world.watcher.unrecovered
    verdicts = await _count_verdicts(world)
    documents = len(world.accepted)
    before = await _remains(world)
    await _delete_all(world)
    after = await _remains(world)
    return Findings(
        scenario=scenario.name,
        faults=world.faults,
        documents=documents,
        verdicts=verdicts,
        lost=lost,
        doubled_chunks=doubled,
        wrong_counts=wrong,
        orphans=max(before.chunks + before.vectors, after.chunks + after.vectors),
        files_left=_settle_files(world, before.files | after.files),
        stuck=stuck,
        embedded_twice=embedded_twice,
        moving_seconds=recoveries.moving,
        storing_seconds=recoveries.storing,
        unrecovered=unrecovered,
        seconds=time.monotonic() - started,
        mistakes=world.mistakes,
        notes=world.notes,
    )


def _is_once(world: World, text: str) -> bool:
    """Whether a text should be embedded once: those of versions are, once for each version."""
    mark = text.split("\n", 1)[-1].split(" ", 1)[0]  # under the header each line begins with it
    return mark in world.accepted and not mark.startswith(VERSION_PREFIX)


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
            lost.append(f"{mark} {_describe(world, accepted)} {len(content)} of {len(truth)} chunks")
    rows = await world.watcher.query("SELECT id FROM documents WHERE collection = $1", world.collection)
    if strangers := {row["id"] for row in rows} - {one.document_id for one in world.accepted.values()}:
        world.mistakes.append(f"{len(strangers)} documents are there that no answer has named")
    return lost, doubled, wrong


def _describe(world: World, accepted: AcceptedUpload) -> str:
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


def _settle_files(world: World, names: frozenset[str]) -> int:
    """How many files should not be there; none of them stays for the next scenario."""
    for name in names:
        (world.stack.data_dir / "files" / name).unlink(missing_ok=True)
    if names:
        world.notes.append(
            f"{len(names)} files of {world.torn} torn uploads wait for the sweeper: three hours"
        )
    return max(0, len(names) - world.torn)


async def _remains(world: World) -> Remains:
    """What belongs to nothing, once it stays; files are deleted a moment after their rows."""
    deadline = time.monotonic() + LEFT_OVER_SECONDS
    while True:
        remains = await count_remains(world.watcher, world.stack.data_dir / "files")
        if not remains or time.monotonic() > deadline:
            return remains
        await asyncio.sleep(0.2)
