"""Chunks: what the splitter makes, where its lines are, and the statement that deletes them.

They are inserted by the fenced statement in runs/content.py, listed by document_views.py and found by
search.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.pdf.pages import Box
from app.storage import models
from app.storage.doomed import stays

# Dimensions of vectors whose rows have their collection's number. When a document moves, each is written
# again, in its own page (spaces.py). Of wider ones no page has room for two: they would be linked anew.
MOST_NUMBERED: Final = 1_999


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


async def find_boxes(
    connection: AsyncConnection, document_id: UUID, chunk_id: UUID
) -> tuple[tuple[int, Box], ...] | None:
    """(page number, box) of a chunk's lines; None when the document's served version has no such chunk."""
    document, chunk = models.Document, models.Chunk
    boxes = await connection.scalar(
        select(chunk.boxes)
        .join(document, document.live_ingestion_id == chunk.ingestion_id)
        .where(chunk.id == chunk_id, document.id == document_id, text(stays("documents")))
    )
    return None if boxes is None else boxes_from_json(boxes)


async def delete_chunks(connection: AsyncConnection, space_id: int, ingestion_ids: Sequence[UUID]) -> None:
    """Delete the chunks of these ingestions, their words and their vectors, in one statement."""
    await connection.execute(
        text(f"""
        WITH gone AS (SELECT unnest(CAST(:ids AS uuid[])) AS id), {without_chunks("gone", space_id)}
        SELECT 1
        """),
        {"ids": list(ingestion_ids)},
    )


def without_chunks(of: str, space_id: int) -> str:
    """CTEs that delete the chunks, words and vectors of the ingestions in the CTE `of`."""
    return f"""
        gone_chunks AS (DELETE FROM chunks USING {of} WHERE chunks.ingestion_id = {of}.id),
        gone_words AS (DELETE FROM document_words USING {of} WHERE document_words.ingestion_id = {of}.id),
        gone_vectors AS (
            DELETE FROM {embeddings_table(space_id)} e USING {of} WHERE e.ingestion_id = {of}.id
        )
    """


def embeddings_table(space_id: int) -> str:
    """The name of the table of a space's vectors; the id is a number of ours, never text from outside."""
    return f"embeddings_{int(space_id)}"


def boxes_from_json(rows: Sequence[Sequence[float]]) -> tuple[tuple[int, Box], ...]:
    """`[[page, left, top, right, bottom], ...]` as kept in the database → (page number, box) pairs."""
    return tuple((int(page), (left, top, right, bottom)) for page, left, top, right, bottom in rows)
