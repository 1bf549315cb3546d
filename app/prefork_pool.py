"""The processes of a worker: what Celery would lose of their results."""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from celery.concurrency import asynpool


def keep_results() -> None:
    """From now on, in this process: whatever becomes of the broker while a result is being read."""
    asynpool.AsynPool.ResultHandler = KeepingResultHandler


class KeepingResultHandler(asynpool.ResultHandler):  # type: ignore[misc]
    """Goes on with a result of which a part was read when the connection to the broker was lost.

    Celery then forgets who was reading, and takes what follows in the pipe for the beginning of a result.
    That ends in an error, after which it never listens to the process again: its task stays unfinished, and a
    worker with one process asks for no other.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unfinished: WeakKeyDictionary[Any, Iterator[None]] = WeakKeyDictionary()

    def _recv_message(self, add_reader: Callable[..., Any], fd: int, callback: Any) -> Iterator[None]:
        process = self.fileno_to_outq[fd]
        reading = self._unfinished.pop(process, None)
        if reading is None:
            reading = super()._recv_message(add_reader, fd, callback)
        for _ in reading:  # `yield from` would end it together with this
            self._unfinished[process] = reading
            yield
            self._unfinished.pop(process, None)
