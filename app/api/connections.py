"""Time limits of connections, of which uvicorn has none but for idle ones.

`uvicorn --http app.api.connections:TimedHTTP`. How fast a body must come that somebody reads is in `bodies`.
"""

import asyncio
import resource
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_DESCRIPTORS = 65_536
GRACE_SECONDS = 0.5


class TimedHTTP(H11Protocol):
    """Closes connections whose clients keep them without using them."""

    # From a connection's first moment, later from the first byte, to the end of a request's head.
    head_seconds = 20.0
    # For the rest of a body after its answer: a client that is cut off while it sends may not see that.
    linger_seconds = 30.0
    # In which a client must take 48 KB of an answer that is ready, if there are as many.
    stall_seconds = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_reading(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_limits()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._limit_reading(self.head_seconds)
        elif not self._is_answered():
            self._end_limit_of_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._is_answered():
            self._limit_reading(self.linger_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self._writing or self.loop.call_later(self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _is_answered(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete

    def _limit_reading(self, seconds: float) -> None:
        """From the first call on; what comes in between gives no more time."""
        self._reading = self._reading or self.loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        """A loop that was held up must first read what has come meanwhile: uvloop's timers go before that."""
        self._reading = self.loop.call_later(GRACE_SECONDS, self.transport.abort)

    def _end_limit_of_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stop_limits(self) -> None:
        self._end_limit_of_reading()
        if self._writing is not None:
            self._writing.cancel()


def allow_many() -> None:
    """Each connection is a descriptor, and many systems allow a process no more than 1,024 unasked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
