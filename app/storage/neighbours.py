"""The chunks before and after those that were found: what a model needs around a hit to understand it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.search import Hit, Neighbour

_NEAR = text("""
    SELECT found.id AS found_id, near.ordinal, near.page_start, near.page_end, near.heading, near.text
    FROM chunks found JOIN chunks near ON near.ingestion_id = found.ingestion_id AND near.id <> found.id
        AND near.ordinal BETWEEN found.ordinal - :distance AND found.ordinal + :distance
    WHERE found.id = ANY(CAST(:chunk_ids AS uuid[])) ORDER BY found.id, near.ordinal
""")


async def with_neighbours(connection: AsyncConnection, hits: Sequence[Hit], distance: int) -> list[Hit]:
    """The hits, each with the chunks at most `distance` before and after it in its version of the document.

    In the snapshot in which they were found, since a version that is replaced takes its chunks with it.
    """
    rows = await connection.execute(
        _NEAR, {"chunk_ids": [hit.chunk_id for hit in hits], "distance": distance}
    )
    neighbours = {
        found_id: tuple(
            Neighbour(row.ordinal, row.page_start, row.page_end, row.heading, row.text) for row in near
        )
        for found_id, near in groupby(rows, key=lambda row: row.found_id)
    }
    return [replace(hit, neighbours=neighbours.get(hit.chunk_id, ())) for hit in hits]
