"""Where the time of an ingestion goes."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.storage.chunks import Chunk


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch's vectors, and when the embedder got it, by the monotonic clock."""

    vectors: NDArray[np.float32]
    sent_at: float


class StageClock:
    """Seconds spent waiting for each stage; reading is what is left, since it runs beside the others."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = {"embedding": 0.0, "storing": 0.0}

    @contextmanager
    def storing(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds["storing"] += time.monotonic() - started

    async def embedding(
        self, items: AsyncGenerator[tuple[list[Chunk], Embedded]]
    ) -> AsyncGenerator[tuple[list[Chunk], NDArray[np.float32]]]:
        """Batches with vectors. Waiting for one is embedding from when it was sent, before that reading."""
        while True:
            waited_from = time.monotonic()
            try:
                batch, embedded = await anext(items)
            except StopAsyncIteration:
                return
            self._seconds["embedding"] += time.monotonic() - max(waited_from, embedded.sent_at)
            yield batch, embedded.vectors

    def seconds(self, ocr_seconds: float) -> dict[str, float]:
        left = time.monotonic() - self._started - sum(self._seconds.values())
        ocr = min(left, ocr_seconds)  # some of it ran while others were waited for
        seconds = {"reading": left - ocr, "ocr": ocr, **self._seconds}
        return {name: round(value, 3) for name, value in seconds.items()}
