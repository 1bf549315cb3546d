"""Chunks: what the splitter makes, and the statements that list and delete them.

They are inserted by the fenced statement in ingestions.py and found by search.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Uuid, column, delete, select, table
from sqlalchemy.ext.asyncio import AsyncConnection

from app.pdf.pages import Box
from app.storage import models


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document's text. Pages count from 1; `boxes` are (page number, box) of its lines.

    `header` is embedded above the text, and `tokens` count it. `token_ids` are those of what the embedder
    reads, without special ones, if they are known. Neither is stored.
    """

    ordinal: int
    page_start: int
    page_end: int
    text: str
    tokens: int
    heading: str | None = None
    boxes: tuple[tuple[int, Box], ...] = ()
    hidden_text: bool = False
    header: str = ""
    token_ids: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def embedded_text(self) -> str:
        return f"{self.header}\n{self.text}" if self.header else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChunk(Chunk):
    """A chunk with the id it has in the database."""

    chunk_id: UUID


async def list_chunks(
    connection: AsyncConnection, ingestion_id: UUID, after_ordinal: int, limit: int
) -> list[StoredChunk]:
    """The next `limit` chunks after `after_ordinal` (-1: from the first), in order."""
    chunk = models.Chunk
    rows = await connection.execute(
        select(
            chunk.id,
            chunk.ordinal,
            chunk.page_start,
            chunk.page_end,
            chunk.text,
            chunk.tokens,
            chunk.heading,
            chunk.boxes,
            chunk.hidden_text,
        )
        .where(chunk.ingestion_id == ingestion_id, chunk.ordinal > after_ordinal)
        .order_by(chunk.ordinal)
        .limit(limit)
    )
    return [
        StoredChunk(
            chunk_id=row.id,
            ordinal=row.ordinal,
            page_start=row.page_start,
            page_end=row.page_end,
            text=row.text,
            tokens=row.tokens,
            heading=row.heading,
            boxes=boxes_from_json(row.boxes),
            hidden_text=row.hidden_text,
        )
        for row in rows
    ]


async def find_boxes(
    connection: AsyncConnection, document_id: UUID, chunk_id: UUID
) -> tuple[tuple[int, Box], ...] | None:
    """(page number, box) of a chunk's lines; None when the document's served version has no such chunk."""
    document, chunk = models.Document, models.Chunk
    boxes = await connection.scalar(
        select(chunk.boxes)
        .join(document, document.live_ingestion_id == chunk.ingestion_id)
        .where(chunk.id == chunk_id, document.id == document_id)
    )
    return None if boxes is None else boxes_from_json(boxes)


async def delete_chunks(connection: AsyncConnection, space_id: int, ingestion_ids: Sequence[UUID]) -> None:
    """Delete the chunks of these ingestions, their words and their vectors, in one statement."""
    vectors = table(embeddings_table(space_id), column("ingestion_id", Uuid()))
    with_ingestion = (models.Chunk, models.DocumentWord)
    theirs = [delete(one).where(one.ingestion_id.in_(ingestion_ids)).cte() for one in with_ingestion]
    await connection.execute(
        delete(vectors).where(vectors.c.ingestion_id.in_(ingestion_ids)).add_cte(*theirs)
    )


def embeddings_table(space_id: int) -> str:
    """The name of the table of a space's vectors; the id is a number of ours, never text from outside."""
    return f"embeddings_{int(space_id)}"


def boxes_from_json(rows: Sequence[Sequence[float]]) -> tuple[tuple[int, Box], ...]:
    """`[[page, left, top, right, bottom], ...]` as kept in the database → (page number, box) pairs."""
    return tuple((int(page), (left, top, right, bottom)) for page, left, top, right, bottom in rows)
