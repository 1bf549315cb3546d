"""Reading processes as their owner sees them. Each document has one of its own, forked by one parent."""

import asyncio
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from app.pdf.wire import (
    EXIT,
    LARGEST_FRAME,
    LENGTH_BYTES,
    PID,
    Recognition,
    Request,
    length_of,
    packed,
    request_to_frame,
)

# A slow consumer keeps the process waiting, not pages in memory.
BUFFERED_BYTES = 256 * 1024
END_SECONDS = 5.0
LOOKS = 20
ASLEEP_LOOKS = 18
LOOK_SECONDS = 0.02
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "TESSDATA_PREFIX")


class Exit(NamedTuple):
    status: int
    most_memory_bytes: int
    cpu_seconds: float


class ReadingProcess:
    """Answers one request about one document."""

    def __init__(
        self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter, owner: socket.socket
    ) -> None:
        self._pid = 0
        self._stream = stream
        self._writer = writer
        self._owner = owner
        self._head = b""

    @property
    def pid(self) -> int:
        """Its number; 0 as long as its parent has not told it."""
        if not self._pid:
            with suppress(OSError, struct.error):
                self._pid = PID.unpack(self._owner.recv(PID.size))[0]
        return self._pid

    async def receive(self, most_bytes: int = LARGEST_FRAME) -> bytes | None:
        """The next frame's content; None when the process is gone. Raises FrameError.

        Nothing is lost when it is cancelled: the next call goes on with the same frame.
        """
        try:
            self._head = self._head or await self._stream.readexactly(LENGTH_BYTES)
            body = await self._stream.readexactly(length_of(self._head, most_bytes))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self._head = b""
        return body

    async def end(self) -> Exit | None:
        """Kills the process if it still runs; how it ended, None when its parent is gone too."""
        try:
            self._owner.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(END_SECONDS):
                told = await self._told(EXIT.size if self.pid else PID.size + EXIT.size)
        except (OSError, TimeoutError):
            return None
        finally:
            self._owner.close()
            self._writer.close()
        return Exit(*EXIT.unpack(told[-EXIT.size :])) if len(told) >= EXIT.size else None

    async def _told(self, size: int) -> bytes:
        """So many bytes; fewer when the parent is gone."""
        loop = asyncio.get_running_loop()
        told = b""
        while len(told) < size and (part := await loop.sock_recv(self._owner, size - len(told))):
            told += part
        return told


class ReaderParent:
    """The parent of this owner's reading processes: started when first needed, and again if it dies."""

    def __init__(self, recognition: Recognition, program: str) -> None:
        self._recognition = recognition
        self._program = program
        self._starting = asyncio.Lock()
        self._is_closed = False
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None

    async def begin(self, path: Path, request: Request) -> ReadingProcess:
        """A process that answers the request about the file at `path`."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return await self._begin(file, request)
        finally:
            os.close(file)

    async def close(self) -> None:
        """Ends the parent, and with it every process it has forked. No other will be started."""
        self._is_closed = True
        await self._end()

    async def _end(self) -> None:
        process, control = self._process, self._control
        self._process = self._control = None
        if control is not None:
            control.close()
        if process is None:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _begin(self, file: int, request: Request) -> ReadingProcess:
        channel, far_channel = socket.socketpair()
        owner, far_owner = socket.socketpair()
        owner.setblocking(False)
        try:
            with far_channel, far_owner:
                await self._send(file, far_channel.fileno(), far_owner.fileno())
            stream, writer = await asyncio.open_unix_connection(sock=channel, limit=BUFFERED_BYTES)
        except BaseException:
            channel.close()
            owner.close()  # which ends the process, should there be one
            raise
        writer.write(packed(request_to_frame(request)))
        return ReadingProcess(stream, writer, owner)

    async def _send(self, *descriptors: int) -> None:
        try:
            socket.send_fds(await self._started(), [b"+"], descriptors)
        except OSError:  # the parent has died since; by now a new one is needed, or made already
            socket.send_fds(await self._started(), [b"+"], descriptors)

    async def _started(self) -> socket.socket:
        """The control socket of a parent that lives, as far as can be seen."""
        async with self._starting:
            if self._is_closed:
                raise RuntimeError("the reader is closed")
            if self._control is not None and _is_open(self._control):
                return self._control
            await self._end()
            control, far_control = socket.socketpair()
            control.setblocking(False)
            try:
                with far_control:
                    self._process = await _parent_process(self._program, far_control, self._recognition)
            except BaseException:
                control.close()
                raise
            self._control = control
            return control


async def _parent_process(
    program: str, control: socket.socket, recognition: Recognition
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", program, str(os.getpid()), *map(str, recognition)),
        stdin=control.fileno(),
        stdout=asyncio.subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )


def cpu_seconds_of(pid: int) -> float:
    """What a process has used so far; 0 when it is gone."""
    try:
        used = psutil.Process(pid).cpu_times()
    except (psutil.Error, ValueError):
        return 0.0
    return float(used.user + used.system)


async def is_asleep(pid: int) -> bool:
    """Whether a process waits of its own accord: not for a CPU, a disk or its tesseract, and is not stopped.

    A starved one stands in the queue for a CPU whenever it is looked at.
    """
    looks = 0
    for _ in range(LOOKS):
        looks += _state_of(pid) == psutil.STATUS_SLEEPING
        await asyncio.sleep(LOOK_SECONDS)
    return looks >= ASLEEP_LOOKS and not await asyncio.to_thread(_has_company, pid)


def _state_of(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except (psutil.Error, ValueError):
        return ""


def _has_company(pid: int) -> bool:
    """Whether another process is in its group, which no other than its tesseract can be."""
    for other in psutil.pids():
        with suppress(OSError):
            if other != pid and os.getpgid(other) == pid:
                return True
    return False


def _is_open(control: socket.socket) -> bool:
    """The parent never writes: what can be read is that it is gone."""
    try:
        return control.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """Nothing of the owner's that a reading process does not need: there are passwords among it."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    modules = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    return {**kept, "PYTHONPATH": modules, "LC_ALL": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
