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

from app.local.embedded import ServerFailed, die_with_parent

READY_SECONDS = 120  # the slowest first start seen is 5 s; a crash recovery may need more
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60  # a program that ran this long starts its back-off anew

Say = Callable[[str, str], None]  # takes one line of output: who says it, and what


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


class _Child(asyncio.SubprocessProtocol):
    """A process and its output.

    Not asyncio's own Process: its `wait` waits for the end of the output too, which may be held open by
    something the dead process has left behind.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.exited = asyncio.Event()
        self.said_all = asyncio.Event()
        self._say = say
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self.transport = transport
        self.pid = transport.get_pid()

    @property
    def exit_code(self) -> int | None:
        return self.transport.get_returncode()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._say(line.decode(errors="replace"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if self._rest:
            self._say(self._rest.decode(errors="replace"))
        self.said_all.set()

    def process_exited(self) -> None:
        self.exited.set()

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.transport.send_signal(number)

    async def close(self) -> None:
        """Kill the process and all it started, and take in the last of their output."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.exited.wait()
        with contextlib.suppress(TimeoutError):  # held open by a process that left the group
            async with asyncio.timeout(1):
                await self.said_all.wait()
        self.transport.close()


class Supervisor:
    """Keeps one program running: starts it again when it dies, until it is stopped."""

    def __init__(self, program: Program, say: Say, record: Callable[[str, int], None]) -> None:
        """`record` is told the name and the process id of every process started."""
        self.program = program
        """What the next start runs."""
        self._say = say
        self._record = record
        self._child: _Child | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_hurried = asyncio.Event()

    @property
    def name(self) -> str:
        return self.program.name

    async def start(self) -> None:
        """Return when it is ready. Raises ServerFailed when it ends or stays silent instead."""
        child = await self._launch()
        deadline = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(self.program.is_ready, child.pid):
            if child.exited.is_set() or time.monotonic() > deadline:
                ending = _ending(child.exit_code)
                await self.stop()
                raise ServerFailed(f"{self.name} did not start: it {ending}.")
            await asyncio.sleep(0.03)
        self._watch = asyncio.create_task(self._restart_when_it_dies(child))

    @property
    def pid(self) -> int | None:
        """Of the process, which leads a process group; None when there is none at the moment."""
        return None if self._child is None or self._child.exited.is_set() else self._child.pid

    async def kill(self) -> None:
        """SIGKILL it and all it has started; it stays down until `start`."""
        await self._stop_watching()
        if self._child is not None:
            await self._child.close()
            self._child = None

    async def stop(self) -> None:
        """Ask it to end, wait, and kill what is still there after its time, or when hurried."""
        await self._stop_watching()
        if self._child is None:
            return
        self._child.send_signal(self.program.stop_signal)
        ends = [asyncio.create_task(event.wait()) for event in (self._child.exited, self._is_hurried)]
        await asyncio.wait(ends, timeout=self.program.stop_seconds, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        await self._child.close()
        self._child = None

    def hurry(self) -> None:
        self._is_hurried.set()

    async def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    async def _launch(self) -> _Child:
        program = self.program
        await asyncio.to_thread(program.prepare)
        _, self._child = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Child(lambda line: self._say(self.name, line)),
            *program.command(),
            cwd=program.folder,
            env=program.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops all in order
            preexec_fn=die_with_parent(program.orphan_signal),
        )
        self._record(program.name, self._child.pid)
        return self._child

    async def _restart_when_it_dies(self, child: _Child) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            await child.exited.wait()
            await child.close()
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self._say("stack", f"{self.name} {_ending(child.exit_code)}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            try:
                child = await self._launch()
            except (OSError, ServerFailed, psutil.Error) as error:
                self._say("stack", f"{self.name} cannot be started: {error}")


def _ending(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return f"was not ready within {READY_SECONDS} s"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
