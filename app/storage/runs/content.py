"""What a run stores beside its row: chunks, vectors and words, each batch in one fenced statement."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from app.pdf.pages import DocumentFacts
from app.storage.canonical import canonical
from app.storage.chunks import MOST_NUMBERED, Chunk, embeddings_table, without_chunks
from app.storage.database import halfvecs
from app.storage.document_words import INSERT_WORDS, NUMBER, VERSION
from app.storage.languages import TextLanguage, chunk_vector
from app.storage.runs.conditions import IS_OURS, NEW_LEASE
from app.storage.runs.lease import Lease, Progress, StoredChunks, write, write_row

_NUMBER_OF_VECTOR: Final = f"CASE WHEN vector_dims(embedding) <= {MOST_NUMBERED} THEN collection_id END"


async def begin(
    connection: AsyncConnection, lease: Lease, space_id: int, facts: DocumentFacts, recipe: str
) -> StoredChunks:
    """Note what the reader found; the chunks stored by an earlier attempt.

    Chunks cut by another recipe (reader, splitter or embedding space) cannot be continued: they go.
    """
    row = await write_row(
        connection,
        lease,
        f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, engine = :engine, title = :title,
                pages_total = :pages_total, recipe = :recipe, revision = revision + 1,
                rows_collection_id = {NUMBER},
                chunks = CASE WHEN recipe = :recipe AND chunks_hash IS NOT NULL THEN chunks ELSE 0 END,
                tokens = CASE WHEN recipe = :recipe AND chunks_hash IS NOT NULL THEN tokens ELSE 0 END,
                pages_done = CASE WHEN recipe = :recipe THEN pages_done ELSE 0 END
            WHERE {IS_OURS} RETURNING id, chunks, chunks_hash
        ), unusable AS (SELECT id FROM lease WHERE chunks = 0),
        {without_chunks("unusable", space_id)}
        SELECT chunks, chunks_hash FROM lease
        """,
        engine=facts.engine,
        title=facts.title,
        pages_total=facts.pages_total,
        recipe=recipe,
    )
    return StoredChunks(row.chunks, row.chunks_hash if row.chunks else b"")


async def begin_anew(connection: AsyncConnection, lease: Lease, space_id: int) -> None:
    """What earlier attempts have stored goes: it is not what is read now."""
    await write(
        connection,
        lease,
        f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, chunks = 0, tokens = 0,
                revision = revision + 1
            WHERE {IS_OURS} RETURNING id
        ), {without_chunks("lease", space_id)}
        SELECT id FROM lease
        """,
    )


async def store(  # noqa: PLR0913 - a batch, and what proves and describes it
    connection: AsyncConnection,
    lease: Lease,
    space_id: int,
    chunks: Sequence[Chunk],
    vectors: NDArray[np.float32],
    progress: Progress,
    *,
    language: TextLanguage,
    digest: bytes,
) -> None:
    """Insert chunks with their `(len(chunks), dimensions)` vectors; `digest`: the hash of all up to these.

    The language is the document's, the same for all of its chunks.
    """
    await write(
        connection,
        lease,
        _store(space_id),
        stage=progress.stage,
        pages_done=progress.pages_done,
        stored=chunks[-1].ordinal + 1,
        new_tokens=sum(chunk.tokens for chunk in chunks),
        language=language.code,
        config=language.config,
        digest=digest,
        vectors=halfvecs(vectors),
        **_columns(chunks),
    )


def _store(space_id: int) -> str:
    return f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, stage = :stage,
                pages_done = greatest(pages_done, :pages_done), chunks = :stored,
                tokens = ingestions.tokens + :new_tokens, chunks_hash = :digest,
                losses = 0, deaths = 0, retries = 0, revision = revision + 1,
                language = :language, text_search_config = CAST(:config AS text)
            WHERE {IS_OURS} RETURNING id, rows_collection_id AS collection_id
        ), batch AS (
            SELECT lease.id AS ingestion_id, collection_id, chunk.* FROM lease, unnest(
                CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:page_starts AS int[]),
                CAST(:page_ends AS int[]), CAST(:boxes AS text[]), CAST(:headings AS text[]),
                CAST(:texts AS text[]), CAST(:tokens AS int[]), CAST(:hidden AS bool[]),
                CAST(:heading_words AS text[]), CAST(:words AS text[]), CAST(:vectors AS halfvec[])
            ) AS chunk(
                id, ordinal, page_start, page_end, boxes, heading, text, tokens, hidden_text,
                heading_words, words, embedding
            )
        ), new_chunks AS (
            INSERT INTO chunks (
                id, ingestion_id, collection_id, ordinal, page_start, page_end, boxes, heading, text, tokens,
                hidden_text, tsv
            )
            SELECT id, ingestion_id, collection_id, ordinal, page_start, page_end, CAST(boxes AS jsonb),
                heading, text, tokens, hidden_text, {_TEXT_SEARCH_VECTOR}
            FROM batch
        ), new_vectors AS (
            INSERT INTO {embeddings_table(space_id)} (chunk_id, ingestion_id, collection_id, embedding)
            SELECT id, ingestion_id, {_NUMBER_OF_VECTOR}, embedding FROM batch
        )
        SELECT id FROM lease
        """


def _columns(chunks: Sequence[Chunk]) -> dict[str, list[Any]]:
    """One array a column, for unnest: a single parameter however many rows."""
    return {
        "ids": [uuid7() for _ in chunks],
        "ordinals": [chunk.ordinal for chunk in chunks],
        "page_starts": [chunk.page_start for chunk in chunks],
        "page_ends": [chunk.page_end for chunk in chunks],
        "boxes": [orjson.dumps([(page, *box) for page, box in chunk.boxes]).decode() for chunk in chunks],
        "headings": [chunk.heading for chunk in chunks],
        "texts": [chunk.text for chunk in chunks],
        "tokens": [chunk.tokens for chunk in chunks],
        "hidden": [chunk.hidden_text for chunk in chunks],
        "heading_words": [_words(chunk.heading) for chunk in chunks],
        "words": [_words(chunk.text) for chunk in chunks],
    }


def _words(text: str | None) -> str | None:
    """The canonical form where it differs: plain text is sent once."""
    if text is None or (words := canonical(text)) == text:
        return None
    return words


_TEXT_SEARCH_VECTOR = chunk_vector(
    "CAST(CAST(:config AS text) AS regconfig)", "coalesce(heading_words, heading)", "coalesce(words, text)"
)


async def count_words(connection: AsyncConnection, lease: Lease, name: str) -> None:
    """Count the words of all stored chunks; `name` is the file's, in canonical form."""
    await write(
        connection,
        lease,
        f"""
        WITH version AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, has_counted_words = true
            WHERE {IS_OURS} RETURNING {VERSION}
        ), counted AS ({INSERT_WORDS})
        SELECT version_id FROM version
        """,
        name=name,
    )
