"""What the seconds of each stage are."""

import asyncio
import time
from collections.abc import AsyncGenerator

import numpy as np

from app.services.splitter import Chunk
from app.services.stage_clock import Embedded, StageClock


async def test_waiting_for_a_page_is_reading_and_waiting_for_its_vectors_embedding() -> None:
    async def batches() -> AsyncGenerator[tuple[list[Chunk], Embedded]]:
        for _ in range(2):
            await asyncio.sleep(0.2)  # being read
            sent_at = time.monotonic()
            await asyncio.sleep(0.05)
            yield [], Embedded(np.zeros((0, 1), dtype=np.float32), sent_at)

    clock = StageClock()
    async for _ in clock.embedding(batches()):
        pass
    seconds = clock.seconds(ocr_seconds=0.3)
    assert 0.1 <= seconds["embedding"] < 0.3 < seconds["reading"] + seconds["ocr"]
    assert seconds["ocr"] == 0.3
