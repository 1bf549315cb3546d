"""The vectors of the last questions: what is asked again is neither waited nor paid for again."""

from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.embeddings.base import Embedder

MOST_VECTORS: Final = 1_000  # 6 MB at 1,536 dimensions


class QueryVectors:
    """Of one embedder. The least recently asked is forgotten first."""

    def __init__(self, embedder: Embedder, *, most: int = MOST_VECTORS) -> None:
        self._embedder = embedder
        self._most = most
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def known(self, query: str) -> NDArray[np.float32] | None:
        """Without asking the embedder."""
        if query in self._vectors:
            self._vectors.move_to_end(query)
        return self._vectors.get(query)

    async def embedded(self, query: str) -> NDArray[np.float32]:
        """Asks the embedder, and remembers. Raises EmbeddingFailed."""
        vector = await self._embedder.embed_query(query)
        self._vectors[query] = vector
        if len(self._vectors) > self._most:
            self._vectors.popitem(last=False)
        return vector
