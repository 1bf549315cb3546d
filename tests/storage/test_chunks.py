"""Listing the chunks of a document, and deleting those of an ingestion."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.embeddings.base import EmbeddingIdentity
from app.storage.chunks import (
    StoredChunk,
    boxes_from_json,
    delete_chunks,
    embeddings_table,
    find_boxes,
)
from app.storage.database import Database
from app.storage.document_views import list_document_chunks
from app.storage.languages import chunk_vector
from app.storage.spaces import open_space
from tests.storage.library import Library, Shelf

LETTER = Shelf("letters", 1, 25)


@pytest.fixture(scope="module")
async def library(module_database: Database) -> Library:
    space_id = await open_space(module_database, EmbeddingIdentity("test", "clusters", 8))
    return Library(module_database, space_id, 8)


async def listed(library: Library, document_id: UUID, after: int = -1) -> Sequence[StoredChunk]:
    async with library.database.transaction() as connection:
        page = await list_document_chunks(connection, document_id, after, limit=10)
    return page.chunks


async def test_chunks_are_listed_in_order_page_by_page(library: Library) -> None:
    document_id = await library.add_document(LETTER)
    await library.add_document(LETTER)
    ordinals, after = [], -1
    while chunks := await listed(library, document_id, after):
        assert len(chunks) <= 10
        ordinals += [chunk.ordinal for chunk in chunks]
        after = ordinals[-1]
    assert ordinals == list(range(25))


async def test_a_listed_chunk_has_all_that_was_stored(library: Library) -> None:
    document_id = await library.add_document(Shelf("letters", 1, 4, phrase="yours truly"))
    async with library.database.transaction() as connection:
        rows = await connection.execute(
            text(
                "SELECT chunks.id FROM chunks JOIN documents ON ingestion_id = live_ingestion_id"
                " WHERE documents.id = :id ORDER BY ordinal"
            ),
            {"id": document_id},
        )
        ids = list(rows.scalars())
    chunks = await listed(library, document_id)
    last = chunks[-1]
    assert [chunk.chunk_id for chunk in chunks] == ids
    assert (last.ordinal, last.page_start, last.page_end) == (3, 2, 2)
    assert (last.tokens, last.heading, last.hidden_text) == (library.words, "A heading", False)
    assert last.text.endswith(" yours truly")
    async with library.database.transaction() as connection:
        boxes = await find_boxes(connection, document_id, last.chunk_id)
    assert boxes == ((1, (72.0, 100.0, 540.0, 112.5)),)


async def test_deleting_takes_chunks_and_vectors_of_the_named_ingestions_only(library: Library) -> None:
    first, second, other = [await library.add_ingestion(uuid7(), LETTER) for _ in range(3)]
    async with library.database.transaction() as connection:
        await delete_chunks(connection, library.space_id, [first, second, uuid7()])
    async with library.database.transaction() as connection:
        await delete_chunks(connection, library.space_id, [])
        for ingestion_id, expected in ((first, 0), (second, 0), (other, 25)):
            for table in ("chunks", embeddings_table(library.space_id)):
                found = await connection.scalar(
                    text(f"SELECT count(*) FROM {table} WHERE ingestion_id = :id"), {"id": ingestion_id}
                )
                assert found == expected, table


def test_boxes_are_read_with_their_page() -> None:
    assert boxes_from_json([[3, 1, 2.5, 3, 4], [4, 0, 0, 9, 9]]) == ((3, (1, 2.5, 3, 4)), (4, (0, 0, 9, 9)))
    assert boxes_from_json([]) == ()


async def test_a_word_of_the_heading_ranks_a_chunk_above_the_same_word_of_the_text(library: Library) -> None:
    async with library.database.transaction() as connection:
        rows = await connection.execute(
            text(f"""
                SELECT ts_rank({chunk_vector("'english'", "heading", "text")}, 'risk') AS rank
                FROM (VALUES ('Risks', 'none'), ('None', 'risks'), (NULL, 'risks')) AS chunk(heading, text)
            """)
        )
        by_heading, by_text, without_heading = (row.rank for row in rows)
    assert by_heading == pytest.approx(2 * by_text)
    assert by_text == without_heading
