"""A text is embedded once: what a new version repeats, or many documents have in common, is paid for once."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.embeddings.base import Embedder, TokenIds
from app.metrics import counters
from app.storage import embedding_cache
from app.storage.database import Database


class CachedEmbedder:
    """An `Embedder` that asks another one for what the database does not know. Not for probes."""

    def __init__(self, embedder: Embedder, database: Database) -> None:
        self.identity = embedder.identity
        self.tokenizer = embedder.tokenizer
        self.is_contextual = embedder.is_contextual
        self.passage_prefix = embedder.passage_prefix
        self.max_tokens = embedder.max_tokens
        self._embedder = embedder
        self._database = database

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        """Known vectors have the precision of what is stored, half."""
        keys = [self._key(text) for text in texts]
        async with self._database.autocommit() as connection:
            vectors = await embedding_cache.find_vectors(connection, keys)
        counters().embeddings_cached.inc(sum(key in vectors for key in keys))
        missing = {key: place for place, key in enumerate(keys) if key not in vectors}
        if missing:
            vectors |= await self._made(texts, token_ids, missing)
        return np.stack([vectors[key] for key in keys])

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        return await self._embedder.embed_query(text)

    async def _made(
        self, texts: Sequence[str], token_ids: TokenIds | None, missing: dict[bytes, int]
    ) -> dict[bytes, NDArray[np.float32]]:
        places = list(missing.values())
        ids = None if token_ids is None else [token_ids[place] for place in places]
        made = await self._embedder.embed([texts[place] for place in places], ids)
        async with self._database.autocommit() as connection:
            await embedding_cache.add_vectors(connection, list(missing), made)
        return dict(zip(missing, made, strict=True))

    def _key(self, text: str) -> bytes:
        """32 bytes: nobody finds a second text with the same."""
        embedded = f"{self.identity.model}\0{self.identity.dimensions}\0{self.passage_prefix}{text}"
        return hashlib.sha256(embedded.encode()).digest()
