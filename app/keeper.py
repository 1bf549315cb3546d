"""Keeps a program running: starts it, forwards its output, starts it again when it dies, stops it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.embedded import ServerFailed, die_with_parent

READY_SECONDS = 120  # the slowest first start seen is 5 s; a crash recovery may need more
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60  # a program that ran this long starts its back-off anew

Say = Callable[[str, str], None]
"""Takes one line of output: who says it, and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, how to know that it is ready, and how it wants to be stopped."""

    name: str
    command: Callable[[], list[str]]
    folder: Path
    environment: Mapping[str, str]
    stop_signal: signal.Signals
    stop_seconds: float
    orphan_signal: signal.Signals
    """What the kernel sends it when the supervisor is killed."""
    prepare: Callable[[], None] = lambda: None
    is_ready: Callable[[int], bool] = lambda _pid: True


class Keeper:
    """Keeps one program running: starts it again when it dies, until it is stopped."""

    def __init__(self, program: Program, say: Say, record: Callable[[str, int], None]) -> None:
        self._program = program
        self._say = say
        self._record = record
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_hurried = asyncio.Event()

    @property
    def name(self) -> str:
        return self._program.name

    async def start(self) -> None:
        """Return when it is ready. Raises ServerFailed when it ends or stays silent instead."""
        process = await self._launch()
        deadline = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(self._program.is_ready, process.pid):
            if process.returncode is not None or time.monotonic() > deadline:
                ending = _ending(process.returncode)
                await self.stop()
                raise ServerFailed(f"{self.name} did not start: it {ending}.")
            await asyncio.sleep(0.03)
        self._watch = asyncio.create_task(self._restart_when_it_dies(process))

    async def stop(self) -> None:
        """Ask it to end, wait, and kill what is still there after its time, or when hurried."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._process is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._program.stop_signal)
            ended = asyncio.create_task(self._process.wait())
            hurried = asyncio.create_task(self._is_hurried.wait())
            await asyncio.wait(
                [ended, hurried],
                timeout=self._program.stop_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            hurried.cancel()
            self._end_group()
            await ended
        if self._output is not None:
            await self._output
        self._process = None

    def hurry(self) -> None:
        self._is_hurried.set()

    async def _launch(self) -> asyncio.subprocess.Process:
        program = self._program
        await asyncio.to_thread(program.prepare)
        self._process = await asyncio.create_subprocess_exec(
            *program.command(),
            cwd=program.folder,
            env=program.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops all in order
            preexec_fn=die_with_parent(program.orphan_signal),
        )
        self._record(program.name, self._process.pid)
        self._output = asyncio.create_task(self._forward_output(self._process))
        return self._process

    async def _restart_when_it_dies(self, process: asyncio.subprocess.Process) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            code = await process.wait()
            self._end_group()
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self._say("stack", f"{self.name} {_ending(code)}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            try:
                process = await self._launch()
            except (OSError, ServerFailed, psutil.Error) as error:
                self._say("stack", f"{self.name} cannot be started: {error}")

    def _end_group(self) -> None:
        """Kill what the program started and left behind."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _forward_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        while block := await process.stdout.read(65_536):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._say(self.name, line.decode(errors="replace"))
        if rest:
            self._say(self.name, rest.decode(errors="replace"))


def _ending(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return f"was not ready within {READY_SECONDS} s"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
