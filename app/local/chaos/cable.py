"""A TCP proxy that can be cut: what runs through it is then neither answered nor closed."""

import asyncio
from contextlib import suppress
from typing import Self

_PIECE_BYTES = 65_536


class Cable:
    """Use it in an `async with` block; who connects to `port` is carried to `target_port`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._is_cut = False
        self._lines: set[_Line] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Swallow everything from now on; new connections are taken and swallowed too."""
        self._is_cut = True
        for line in self._lines:
            line.is_dead = True

    def mend(self) -> None:
        """Carry new connections again. Those that were cut stay dead, as after a failover."""
        self._is_cut = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for line in self._lines:
            line.task.cancel()
        if self._lines:
            await asyncio.wait([line.task for line in self._lines])

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        line = _Line(task, is_dead=self._is_cut)
        self._lines.add(line)
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far_writer)
            await asyncio.gather(line.carry(reader, far_writer), line.carry(far_reader, writer))
        except (OSError, asyncio.CancelledError):  # the target is down, or the block ends
            pass
        finally:
            self._lines.discard(line)
            for end in ends:
                end.close()


class _Line:
    def __init__(self, task: asyncio.Task[None], *, is_dead: bool) -> None:
        self.task = task
        self.is_dead = is_dead

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """One way, until the source ends; an end of what is cut is not told either."""
        with suppress(OSError):
            while piece := await source.read(_PIECE_BYTES):
                if not self.is_dead:
                    target.write(piece)
                    await target.drain()
        if self.is_dead:
            await asyncio.Event().wait()
        target.close()
