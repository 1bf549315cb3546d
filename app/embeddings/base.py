"""What an embedder is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EmbeddingIdentity:
    """Vectors of two embedders are comparable only when all three agree."""

    provider: str
    model: str
    dimensions: int


class Embedder(Protocol):
    identity: EmbeddingIdentity

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`(len(texts), dimensions)` float32, each row of length 1. Never blocks the event loop.

        Raises EmbeddingFailed after its own retries; a zero or non-finite vector is that error too.
        """
        ...
