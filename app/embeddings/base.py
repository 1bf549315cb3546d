"""What an embedder is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.errors import EmbeddingFailed

# What every embedder takes: when it takes this and not another text, the other text is at fault.
PROBE = ("A short text.",)
URGENT_SECONDS = 3.0

TokenIds = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class EmbeddingIdentity:
    """Vectors of two embedders are comparable only when all three agree."""

    provider: str
    model: str
    dimensions: int


class Embedder(Protocol):
    """Makes vectors of passages and of queries. Never blocks the event loop.

    `tokenizer` counts a text's tokens as the model does, or about so. `max_tokens` is what the model reads of
    a text, its special tokens and `passage_prefix`, which `embed` puts before each text, included; None if
    that is not known. `is_contextual` tells a transformer, which reads each word in the light of all the
    others, from a sum of the words' own vectors.
    """

    identity: EmbeddingIdentity
    tokenizer: Tokenizer
    is_contextual: bool
    passage_prefix: str
    max_tokens: int | None

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        """`(len(texts), dimensions)` float32, each row of length 1, of passages.

        `token_ids`, which need not be made again: of each text behind the prefix, without special tokens.

        Raises EmbeddingFailed after its own retries; a zero or non-finite vector is that error too.
        EmbeddingRefused: the embedder says no to everything; TextRefused: to one of these texts.
        """
        ...

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a query, `(dimensions,)` float32, of length 1.

        Somebody waits for it: raises EmbeddingFailed after a few seconds.
        """
        ...


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of an `(n, dimensions)` array, each of length 1. Raises EmbeddingFailed if one cannot be."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # float32 squares overflow
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise EmbeddingFailed("The embedder made a vector that is zero or not a number.")
    units: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return units
