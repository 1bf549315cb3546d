"""The supervisor, with small programs that behave and misbehave."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from app.local.embedded import ServerFailed
from app.local.supervisor import Program, Supervisor

SLEEP = "import time; time.sleep(60)"


class Scene:
    """What a supervisor said and started."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.pids: list[int] = []

    def said(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line for _, line in self.lines)

    def is_running(self, pid: int) -> bool:
        return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of other processes have no event
            await asyncio.sleep(0.02)


def program(code: str, folder: Path, *, stop_seconds: float = 10) -> Program:
    return Program(
        name="toy",
        command=lambda: [sys.executable, "-u", "-c", code],
        folder=folder,
        environment=os.environ,
        stop_signal=signal.SIGTERM,
        stop_seconds=stop_seconds,
        orphan_signal=signal.SIGKILL,
    )


@asynccontextmanager
async def supervised(toy: Program) -> AsyncIterator[tuple[Supervisor, Scene]]:
    scene = Scene()
    supervisor = Supervisor(
        toy, lambda name, line: scene.lines.append((name, line)), lambda _name, pid: scene.pids.append(pid)
    )
    await supervisor.start()
    try:
        yield supervisor, scene
    finally:
        await supervisor.stop()


async def test_a_program_that_dies_is_started_again_and_that_is_said(tmp_path: Path) -> None:
    async with supervised(program(SLEEP, tmp_path)) as (_, scene):
        os.kill(scene.pids[0], signal.SIGKILL)
        await until(lambda: len(scene.pids) == 2)
        assert ("stack", "toy was ended by SIGKILL; starting it again in 0.5 s") in scene.lines
        assert scene.is_running(scene.pids[1])


async def test_a_program_that_keeps_dying_is_started_less_and_less_often(tmp_path: Path) -> None:
    async with supervised(program("import sys; sys.exit(3)", tmp_path)) as (_, scene):
        await until(scene.said("toy ended with exit code 3; starting it again in 2 s"))
        assert len(scene.pids) == 3


async def test_what_a_program_prints_is_said_line_by_line_even_when_lines_are_long(tmp_path: Path) -> None:
    code = "print('first'); print('é' * 200_000); print('no newline at the end', end=''); " + SLEEP
    async with supervised(program(code, tmp_path)) as (supervisor, scene):
        await until(scene.said("é" * 200_000))
        await supervisor.stop()
    assert [line for _, line in scene.lines] == ["first", "é" * 200_000, "no newline at the end"]


async def test_a_program_that_ignores_the_signal_is_killed_after_its_time(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); " + SLEEP
    async with supervised(program(code, tmp_path, stop_seconds=0.2)) as (supervisor, scene):
        await until(scene.said("deaf"))
        await supervisor.stop()
        assert not scene.is_running(scene.pids[0])


async def test_hurrying_ends_the_wait_for_a_slow_program(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); " + SLEEP
    async with supervised(program(code, tmp_path, stop_seconds=60)) as (supervisor, scene):
        await until(scene.said("deaf"))
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0.1)
        assert not stopping.done()
        supervisor.hurry()
        async with asyncio.timeout(30):
            await stopping
        assert not scene.is_running(scene.pids[0])


async def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid); {SLEEP}"
    async with supervised(program(code, tmp_path)) as (supervisor, scene):
        await until(lambda: bool(scene.lines))
        grandchild = int(scene.lines[0][1])
        assert scene.is_running(grandchild)
        await supervisor.stop()
        await until(lambda: not scene.is_running(grandchild))


async def test_a_death_is_noticed_while_something_it_left_behind_holds_its_output_open(
    tmp_path: Path,
) -> None:
    started = f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"
    code = f"import subprocess, sys; print({started}.pid); {SLEEP}"
    async with supervised(program(code, tmp_path)) as (_, scene):
        await until(lambda: bool(scene.lines))
        left_behind = int(scene.lines[0][1])
        try:
            os.kill(scene.pids[0], signal.SIGKILL)
            await until(lambda: len(scene.pids) == 2)
            assert scene.is_running(left_behind)
        finally:
            os.kill(left_behind, signal.SIGKILL)


async def test_a_program_that_ends_before_it_is_ready_fails_the_start(tmp_path: Path) -> None:
    toy = program("raise SystemExit('no room')", tmp_path)
    scene = Scene()
    supervisor = Supervisor(
        Program(**{name: getattr(toy, name) for name in toy.__slots__} | {"is_ready": lambda _pid: False}),
        lambda name, line: scene.lines.append((name, line)),
        lambda _name, _pid: None,
    )
    with pytest.raises(ServerFailed, match="toy did not start: it ended with exit code 1"):
        await supervisor.start()
    assert scene.lines == [("toy", "no room")]


async def test_no_signal_of_the_terminal_reaches_a_kept_program(tmp_path: Path) -> None:
    async with supervised(program(SLEEP, tmp_path)) as (_, scene):
        assert os.getsid(scene.pids[0]) == scene.pids[0] != os.getsid(0)


async def test_a_program_that_was_killed_on_purpose_stays_down_until_it_is_started(tmp_path: Path) -> None:
    async with supervised(program(SLEEP, tmp_path)) as (supervisor, scene):
        assert supervisor.pid == scene.pids[0]
        await supervisor.kill()
        await asyncio.sleep(0.8)  # longer than the first delay before a restart
        assert (supervisor.pid, scene.is_running(scene.pids[0])) == (None, False)
        await supervisor.start()
        assert supervisor.pid == scene.pids[1]
