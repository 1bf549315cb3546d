"""A library of made-up documents, inserted in bulk: words as frequent as in a language, and vectors in
clusters, one a subject. Not through the pipeline, which embeds and fences what search only has to find.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import NullType
from uuid_utils.compat import uuid7

from app.storage.chunks import delete_chunks, embeddings_table
from app.storage.database import Database, halfvecs
from app.storage.document_words import INSERT_WORDS, VERSION
from app.storage.filters import SearchFilter
from app.storage.languages import chunk_vector
from app.storage.ranking import NEAREST_CHUNKS, Ranking
from app.storage.words import begin_question

SUBJECTS = 40
WORDS_A_SUBJECT = 300
STATEMENT_CHUNKS = 5_000

SYLLABLES = [a + b for a, b in product("bdfgklmnprtvz", "aiou")]
VOCABULARY = ["".join(word) for word in product(SYLLABLES, SYLLABLES, SYLLABLES)][:20_000]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Documents of one kind: how many, of how many chunks each.

    Without a subject each has one by chance; `phrase` is in the text of every chunk.
    """

    collection: str
    documents: int
    chunks: int
    metadata: dict[str, Any] = field(default_factory=dict)
    subject: int | None = None
    phrase: str = ""


class Library:
    """Makes documents: the same texts and vectors for the same seed."""

    def __init__(
        self, database: Database, space_id: int, dimensions: int, *, words: int = 40, seed: int = 1
    ) -> None:
        self.database = database
        self.space_id = space_id
        self.dimensions = dimensions
        self.words = words
        self.random = np.random.default_rng(seed)
        self.spread = 1 / (1 + np.arange(dimensions) / 6)
        self.centers = _normalised(self.random.normal(size=(SUBJECTS, dimensions)) * self.spread)
        frequency = 1 / (np.arange(len(VOCABULARY)) + 3)
        self.frequency = frequency / frequency.sum()
        self.subject_words = self.random.choice(len(VOCABULARY), size=(SUBJECTS, WORDS_A_SUBJECT))

    def vectors(self, count: int, subject: int) -> NDArray[np.float32]:
        """`(count, dimensions)` vectors of length 1 around the subject's center; never twice the same.

        Their spread falls from dimension to dimension, as it does in real embeddings.
        """
        noise = _normalised(self.random.normal(size=(count, self.dimensions)) * self.spread)
        return _normalised(self.centers[subject] + noise).astype(np.float32)

    def texts(self, count: int, subject: int) -> list[str]:
        own = self.random.choice(self.subject_words[subject], size=(count, self.words // 3))
        shared = self.random.choice(
            len(VOCABULARY), p=self.frequency, size=(count, self.words - self.words // 3)
        )
        return [" ".join(VOCABULARY[word] for word in row) for row in np.concatenate([own, shared], axis=1)]

    async def fill(self, shelves: Sequence[Shelf], hidden: Sequence[Shelf] = ()) -> None:
        """Insert the documents of the shelves; those of `hidden` are finished but not published."""
        async with self._without_indexes():
            for shelf in shelves:
                for _ in range(shelf.documents):
                    await self.add_document(shelf)
            for shelf in hidden:
                for _ in range(shelf.documents):
                    await self.add_ingestion(uuid7(), shelf)
        async with self.database.transaction() as connection:
            await connection.execute(text("ANALYZE"))

    async def add_document(self, shelf: Shelf) -> UUID:
        document_id = uuid7()
        ingestion_id = await self.add_ingestion(document_id, shelf)
        async with self.database.transaction() as connection:
            await connection.execute(
                text(
                    "INSERT INTO documents (id, collection, metadata, live_ingestion_id, latest_ingestion_id)"
                    " VALUES (:id, :collection, CAST(:metadata AS jsonb), :ingestion_id, :ingestion_id)"
                ),
                {
                    "id": document_id,
                    "collection": shelf.collection,
                    "metadata": orjson.dumps(shelf.metadata).decode(),
                    "ingestion_id": ingestion_id,
                },
            )
        return document_id

    async def replace(self, document_id: UUID, shelf: Shelf) -> None:
        """Publish a new version with other texts and vectors, as the product does: all at once."""
        ingestion_id = await self.add_ingestion(document_id, shelf)
        async with self.database.transaction() as connection:
            old = await connection.scalar(
                text("SELECT live_ingestion_id FROM documents WHERE id = :id FOR UPDATE"), {"id": document_id}
            )
            await connection.execute(
                text(
                    "UPDATE documents SET live_ingestion_id = :new, latest_ingestion_id = :new WHERE id = :id"
                ),
                {"id": document_id, "new": ingestion_id},
            )
            await delete_chunks(connection, self.space_id, [old])

    async def add_ingestion(self, document_id: UUID, shelf: Shelf) -> UUID:
        """A finished version with its chunks and vectors, which no document points at yet."""
        ingestion_id = uuid7()
        subject = int(self.random.integers(SUBJECTS)) if shelf.subject is None else shelf.subject
        async with self.database.transaction() as connection:
            await connection.execute(
                text(
                    "INSERT INTO ingestions"
                    " (id, document_id, filename, title, sha256, byte_size, status, chunks)"
                    " VALUES (:id, :document_id, :filename, :title, '', 1, 'success', :chunks)"
                ),
                {
                    "id": ingestion_id,
                    "document_id": document_id,
                    "filename": f"{shelf.collection}.pdf",
                    "title": f"Subject {subject}",
                    "chunks": shelf.chunks,
                },
            )
            for first in range(0, shelf.chunks, STATEMENT_CHUNKS):
                count = min(STATEMENT_CHUNKS, shelf.chunks - first)
                texts = [f"{words} {shelf.phrase}".strip() for words in self.texts(count, subject)]
                await self._add_chunks(connection, ingestion_id, first, texts, self.vectors(count, subject))
            await connection.execute(
                text(f"""
                    WITH version AS (
                        UPDATE ingestions SET has_counted_words = true WHERE id = :id RETURNING {VERSION}
                    )
                    {INSERT_WORDS}
                """),
                {"id": ingestion_id, "name": shelf.collection},
            )
        return ingestion_id

    async def compared_entirely(
        self,
        query: str,
        wanted: SearchFilter,
        vector: NDArray[np.float32] | None = None,
        *,
        is_contextual: bool = False,
    ) -> list[UUID]:
        """The first ten for a question, when every visible chunk is compared and every document weighed."""
        async with self.database.transaction() as connection:
            question, visible = await begin_question(connection, query, wanted)
            everything = replace(visible, is_short=True, is_narrow=True, has_few_documents=True)
            space_id = None if vector is None else self.space_id
            ranking = Ranking(question, everything, space_id, is_contextual=is_contextual)
            statement = text(f"WITH {ranking.statement()} SELECT chunk_id FROM found")
            parameters = ranking.parameters | {"limit": 10}
            if vector is not None:
                statement = statement.bindparams(bindparam("vector", type_=NullType()))
                parameters |= {"vector": halfvecs(vector[np.newaxis])[0], "depth": NEAREST_CHUNKS}
            return [row.chunk_id for row in await connection.execute(statement, parameters)]

    async def _add_chunks(
        self,
        connection: AsyncConnection,
        ingestion_id: UUID,
        first: int,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
    ) -> None:
        await connection.execute(
            text(f"""
                WITH batch AS (
                    SELECT *, 'A heading' AS heading FROM unnest(
                        CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:texts AS text[]),
                        CAST(:vectors AS halfvec[])
                    ) AS chunk(id, ordinal, text, embedding)
                ), new_chunks AS (
                    INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, boxes, heading, text,
                        tokens, tsv)
                    SELECT id, :ingestion_id, ordinal, ordinal / 3 + 1, ordinal / 3 + 1,
                        '[[1, 72, 100, 540, 112.5]]', heading, text, {self.words},
                        {chunk_vector("'english'", "heading", "text")}
                    FROM batch
                )
                INSERT INTO {embeddings_table(self.space_id)} (chunk_id, ingestion_id, embedding)
                SELECT id, :ingestion_id, embedding FROM batch
            """),
            {
                "ingestion_id": ingestion_id,
                "ids": [uuid7() for _ in texts],
                "ordinals": list(range(first, first + len(texts))),
                "texts": texts,
                "vectors": halfvecs(vectors),
            },
        )

    @asynccontextmanager
    async def _without_indexes(self) -> AsyncIterator[None]:
        """HNSW and GIN slow inserts to 650-1,600 rows/s; made at once at the end they take seconds."""
        names = ["ix_chunks_tsv", f"ix_{embeddings_table(self.space_id)}_embedding"]
        async with self.database.transaction() as connection:
            rows = await connection.execute(
                text("SELECT indexname, indexdef FROM pg_indexes WHERE indexname = ANY(:names)"),
                {"names": names},
            )
            definitions = {row.indexname: row.indexdef for row in rows}
            for name in definitions:
                await connection.execute(text(f"DROP INDEX {name}"))
        yield
        async with self.database.transaction() as connection:
            await connection.execute(text("SET LOCAL maintenance_work_mem = '2GB'"))
            for definition in definitions.values():
                await connection.execute(text(definition))


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    units: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units
