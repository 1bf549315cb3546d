"""Scenarios in which what the processes stand on fails: the network, the clock, the disk."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from app.local.chaos.cable import Cable
from app.local.chaos.loops import SETTLE_SECONDS, expect_uncharged
from app.local.chaos.paths import send_paths, settle_paths
from app.local.chaos.world import WORKERS, World
from app.local.supervisor import Program

CUT_SECONDS = (5.0, 10.0)
ANSWER_SECONDS = 20.0  # 5 s for a connection, 10 s for its answer, and a busy machine
STEP_SECONDS = 3600
FULL_SECONDS = 15.0
FULL_BYTES = 4096  # the size of a file that still gets written

_PROC_STAT = Path("/proc/stat")
# Its time of boot is what a process' time of birth is counted from: a step of the clock moves it.
_WITH_OWN_PROC_STAT = ("unshare", "--user", "--map-current-user", "--mount", "sh", "-c")
_OWN_PROC_STAT = 'mount --bind "$0" /proc/stat && exec "$@"'


async def database_cut_off(world: World) -> None:
    """Connections to Postgres neither answer nor close; new ones work after a while, those never."""
    url = world.stack.environment["DATABASE_URL"]
    port = urlsplit(url).port or 0
    async with Cable(port) as cable:
        through_cable = url.replace(f":{port}/", f":{cable.port}/")
        await world.restart("api", *WORKERS, settings={"DATABASE_URL": through_cable})
        world.upload_all(world.halves[0])  # it is the time that this takes, not the documents
        async with _asking(world):
            await asyncio.sleep(world.chance.uniform(1, 3))
            await world.wait_for_work()
            async with world.watcher.hitting():
                cable.cut()
                await asyncio.sleep(world.chance.uniform(*CUT_SECONDS))
                cable.mend()
            world.faults += 1
            await world.settle(SETTLE_SECONDS)
        await world.restart("api", *WORKERS, settings={"DATABASE_URL": url})


@asynccontextmanager
async def _asking(world: World) -> AsyncIterator[None]:
    """Somebody who asks for something small all the time, and must not wait for long."""
    answers: list[float] = []

    async def ask() -> None:
        async with httpx.AsyncClient(
            base_url=world.stack.url, headers=world.client.headers, timeout=120, trust_env=False
        ) as client:
            while True:
                began = time.monotonic()
                await client.get("/documents?limit=1")
                answers.append(time.monotonic() - began)
                await asyncio.sleep(0.2)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    world.notes.append(f"the longest of {len(answers)} answers of the API took {max(answers):.1f} s")
    if max(answers) > ANSWER_SECONDS:
        world.mistakes.append(f"an answer of the API took {max(answers):.1f} s")


async def clock_step(world: World) -> None:
    """The clock of the workers' machine is set again and again: nobody may take the living for dead."""
    stat = world.stack.data_dir / "proc-stat"
    _set_clock(stat, 0)
    in_its_own = [*_WITH_OWN_PROC_STAT, _OWN_PROC_STAT, str(stat)]
    if not await _works(*in_its_own, "true"):
        world.notes.append("not played: this system lets nobody show a process another /proc/stat")
        return
    with _started_by(world, in_its_own):
        await world.restart(*WORKERS)
        world.upload_all(world.halves[0])  # it is the time that this takes, not the documents
        async for _ in world.beats(0.5, 1.5, at_most=15):
            _set_clock(stat, world.chance.randint(-STEP_SECONDS, STEP_SECONDS))
            world.faults += 1
        await world.settle(SETTLE_SECONDS)
        await expect_uncharged(world)
    if again := sum(sight.attempt > 1 for sight in world.watcher.sights.values()):
        world.mistakes.append(f"{again} documents were begun a second time")
    await world.restart(*WORKERS)


async def _works(*command: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    except OSError:
        return False
    return await process.wait() == 0


@contextmanager
def _started_by(world: World, prefix: Sequence[str]) -> Iterator[None]:
    """Workers that are started within the block are started by another program."""
    parts = [world.stack.part(name) for name in WORKERS]
    programs = [part.program for part in parts]
    for part in parts:
        part.program = _behind(prefix, part.program)
    try:
        yield
    finally:
        for part, program in zip(parts, programs, strict=True):
            part.program = program


def _behind(prefix: Sequence[str], program: Program) -> Program:
    return replace(program, command=lambda: [*prefix, *program.command()])


def _set_clock(stat: Path, seconds: int) -> None:
    """So much ahead. In place: a new file of this name would not be the one that is shown."""
    ahead = re.sub(r"btime (\d+)", lambda found: f"btime {int(found[1]) + seconds}", _PROC_STAT.read_text())
    with stat.open("r+" if stat.exists() else "w") as file:
        file.write(ahead)


async def full_store(world: World) -> None:
    """No process can write a file any more: uploads are refused, tasks that name a path wait, uncharged."""
    third = len(world.specimens) // 3
    first, later, by_path = (world.specimens[third * number :][:third] for number in range(3))
    world.upload_all(first)
    await world.wait_for_work()
    with _unable_to_write(world):
        world.faults += 1
        sending = asyncio.gather(*map(world.upload, later))
        sent = await asyncio.to_thread(send_paths, world, by_path)
        await asyncio.sleep(FULL_SECONDS)
        if taken := sum(specimen.mark in world.accepted for specimen in later):
            world.mistakes.append(f"{taken} uploads were accepted while nothing could be written")
        (charged,) = await world.watcher.query(
            "SELECT count(*) AS tasks FROM ingestions WHERE id = ANY($1) AND retries > 0", list(sent)
        )
        if charged["tasks"]:
            world.mistakes.append(f"{charged['tasks']} tasks were charged with the full disk")
    await sending
    await settle_paths(world, sent)
    await expect_uncharged(world)


@contextmanager
def _unable_to_write(world: World) -> Iterator[None]:
    """To a process it is like a full disk, and it needs no disk of its own to fill."""
    limit = psutil.Process().rlimit(psutil.RLIMIT_FSIZE)
    _limit_files(world, (FULL_BYTES, limit[1]))
    try:
        yield
    finally:
        _limit_files(world, limit)  # those too that were forked meanwhile


def _limit_files(world: World, limit: tuple[int, int]) -> None:
    pids = [world.stack.part(name).pid for name in ("api", *WORKERS)]
    processes = [psutil.Process(pid) for pid in pids if pid is not None]
    for process in [*processes, *(child for name in WORKERS for child in world.children_of(name))]:
        process.rlimit(psutil.RLIMIT_FSIZE, limit)
