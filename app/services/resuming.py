"""Going on behind the chunks of an earlier attempt, if they are the same that are read now."""

from collections.abc import AsyncGenerator, Iterable
from hashlib import blake2b

import orjson

from app.errors import ChunksDiffer
from app.storage.chunks import Chunk
from app.storage.runs import StoredChunks

HASH_BYTES = 16


class ChunkChain:
    """A hash of all chunks so far: of each one together with the hash of those before it."""

    def __init__(self, digest: bytes = b"") -> None:
        self.digest = digest

    def add(self, chunks: Iterable[Chunk]) -> bytes:
        for chunk in chunks:
            content = orjson.dumps(
                [chunk.ordinal, chunk.page_start, chunk.page_end, chunk.heading, chunk.text, chunk.tokens]
            )
            self.digest = blake2b(self.digest + content, digest_size=HASH_BYTES).digest()
        return self.digest


async def behind(source: AsyncGenerator[list[Chunk]], stored: StoredChunks) -> AsyncGenerator[list[Chunk]]:
    """The chunks that are not stored yet. Raises ChunksDiffer unless those before them are the stored ones.

    OCR may go otherwise the second time: then counting alone would double text or leave some out.
    """
    chain = ChunkChain()
    count = 0
    async for chunks in source:
        known = [chunk for chunk in chunks if chunk.ordinal < stored.count]
        chain.add(known)
        count += len(known)
        if known and count == stored.count and chain.digest != stored.digest:
            raise ChunksDiffer
        yield chunks[len(known) :]
    if count < stored.count:
        raise ChunksDiffer
