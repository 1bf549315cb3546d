"""The built-in embedder: the model of wordllama, whose weights come in its wheel. No network, no server.

Its files are read where the wheel puts them: importing wordllama itself would set up the logging of the
whole process and load an HTTP client, to do the same.
"""

import asyncio
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from app.embeddings.base import EmbeddingIdentity, TokenIds, unit_rows
from app.errors import EmbeddingRefused
from app.metrics import counters

MODEL = "l2_supercat"
DIMENSIONS = 256
_SHORTER_DIMENSIONS = (64, 128)  # the model was trained so that the first values are a vector, too

_TEXTS_AT_ONCE = 128  # 20 to 50 ms of work: what a cancelled call still finishes


class LocalEmbedder:
    """A vector is the direction of the sum of its tokens' vectors. Loads 50 MB, in 0.1 s, when first made.

    Raises EmbeddingRefused for a model or for dimensions it does not have.
    """

    is_contextual = False
    passage_prefix = ""
    max_tokens: int | None = None

    def __init__(self, model: str = MODEL, dimensions: int = DIMENSIONS) -> None:
        if model != MODEL:
            raise EmbeddingRefused(f"The built-in embedder has one model, {MODEL} (EMBEDDING_MODEL).")
        if dimensions not in (*_SHORTER_DIMENSIONS, DIMENSIONS):
            raise EmbeddingRefused(
                "The built-in embedder makes vectors of 64, 128 or 256 values (EMBEDDING_DIMENSIONS)."
            )
        self.identity = EmbeddingIdentity("local", MODEL, dimensions)
        self.tokenizer = built_in_tokenizer()
        self._token_vectors = _token_vectors(dimensions)

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        """`(len(texts), dimensions)` float32, each row of length 1. Raises EmbeddingFailed for an empty text.

        Any other text has a vector: what the model does not know is spelt in bytes, and those have one.
        """
        vectors = np.empty((len(texts), self.identity.dimensions), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = slice(start, start + _TEXTS_AT_ONCE)
            known = token_ids[batch] if token_ids is not None else None
            vectors[batch] = await asyncio.to_thread(self._embed, list(texts[batch]), known)
        return vectors

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a query, made as a passage's is. Raises EmbeddingFailed for an empty text."""
        vector: NDArray[np.float32] = (await self.embed([text]))[0]
        return vector

    def _embed(self, texts: list[str], token_ids: TokenIds | None) -> NDArray[np.float32]:
        if token_ids is None:
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            token_ids = [encoding.ids for encoding in encodings]
        # One text at a time stays in the cache: 7,000 texts/s a core; padded to a block, 2,350.
        counters().embedding_requests.labels("ok").inc()
        counters().embedding_tokens.inc(sum(map(len, token_ids)))
        return unit_rows(np.stack([self._token_vectors[list(ids)].sum(axis=0) for ids in token_ids]))


@cache  # one for all services of a process: made anew, it takes 0.15 s
def built_in_tokenizer() -> Tokenizer:
    """The tokenizer of the built-in model, Llama 2's. For other models its counts are an estimate.

    It has 32,000 words to their 30,000 to 250,000 and spells digits and most scripts one by one, so it
    mostly counts more tokens than they do; fewer for long rows of dots and the like.
    """
    return Tokenizer.from_file(str(_package() / "tokenizers" / f"{MODEL}_tokenizer_config.json"))


@cache
def _token_vectors(dimensions: int) -> NDArray[np.float32]:
    weights = load_file(_package() / "weights" / f"{MODEL}_{DIMENSIONS}.safetensors")
    vectors: NDArray[np.float32] = weights["embedding.weight"][:, :dimensions].astype(np.float32)
    return vectors


def _package() -> Path:
    package = find_spec("wordllama")
    if package is None or package.origin is None:
        raise EmbeddingRefused("The built-in embedder's model is not installed (the package wordllama).")
    return Path(package.origin).parent
