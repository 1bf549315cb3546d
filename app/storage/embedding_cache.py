"""Vectors of texts that were embedded before, by a hash of the text. What is lost here is only paid again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import halfvecs

ROWS_AT_ONCE = 5_000  # 0.2 s on a busy machine


async def find_vectors(
    connection: AsyncConnection, keys: Sequence[bytes]
) -> dict[bytes, NDArray[np.float32]]:
    """The vector of each key that is known.

    An hour is near enough to tell the oldest: what is used all day is written once an hour, and by one.
    """
    rows = await connection.execute(
        text("""
        WITH used AS (
            UPDATE embedding_cache SET used_at = clock_timestamp() WHERE key IN (
                SELECT key FROM embedding_cache
                WHERE key = ANY(CAST(:keys AS bytea[])) AND used_at < clock_timestamp() - interval '1 hour'
                FOR UPDATE SKIP LOCKED
            )
        )
        SELECT key, embedding FROM embedding_cache WHERE key = ANY(CAST(:keys AS bytea[]))
        """),
        {"keys": list(keys)},
    )
    return {row.key: row.embedding.to_numpy().astype(np.float32) for row in rows}


async def add_vectors(
    connection: AsyncConnection, keys: Sequence[bytes], vectors: NDArray[np.float32]
) -> None:
    """`(len(keys), dimensions)` vectors. In the order of the keys, so that no two wait for each other."""
    await connection.execute(
        text("""
        INSERT INTO embedding_cache (key, embedding)
        SELECT key, embedding
        FROM unnest(CAST(:keys AS bytea[]), CAST(:vectors AS halfvec[])) AS made(key, embedding)
        ORDER BY key ON CONFLICT DO NOTHING
        """),
        {"keys": list(keys), "vectors": halfvecs(vectors)},
    )


async def forget_oldest(connection: AsyncConnection, most_rows: int) -> int:
    """Keep so many rows; at most ROWS_AT_ONCE are deleted, and how many is returned."""
    forgotten = await connection.execute(
        text(f"""
        DELETE FROM embedding_cache WHERE key IN (
            SELECT key FROM embedding_cache ORDER BY used_at
            LIMIT least({ROWS_AT_ONCE}, greatest(0, (SELECT count(*) FROM embedding_cache) - :most_rows))
        )
        """),
        {"most_rows": most_rows},
    )
    return forgotten.rowcount
