"""The chunks before and after a hit, also while its document is being replaced."""

from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from app.embeddings.base import EmbeddingIdentity
from app.storage.database import Database
from app.storage.filters import SearchFilter
from app.storage.neighbours import with_neighbours
from app.storage.search import Hit, search_text
from app.storage.spaces import open_space
from tests.storage.library import Library, Shelf

SHELF = Shelf("reports", 1, 7, phrase="eagle")


@pytest.fixture(scope="module")
async def library(module_database: Database) -> Library:
    space_id = await open_space(module_database, EmbeddingIdentity("test", "clusters", 64))
    return Library(module_database, space_id, 64)


async def chunks_of(connection: AsyncConnection, document_id: UUID) -> list[Hit]:
    """Each chunk of the document as a hit, in their order."""
    hits = await search_text(connection, "eagle", SearchFilter(document_ids=(document_id,)), 100)
    return sorted(hits, key=lambda hit: hit.ordinal)


async def test_a_hit_gets_the_chunks_before_and_after_it_as_far_as_there_are_some(library: Library) -> None:
    document_id = await library.add_document(SHELF)
    await library.add_document(SHELF)
    async with library.database.snapshot() as connection:
        chunks = await chunks_of(connection, document_id)
        hits = await with_neighbours(connection, [chunks[3], chunks[0], chunks[6]], 2)
    near = [[one.ordinal for one in hit.neighbours or ()] for hit in hits]
    assert near == [[1, 2, 4, 5], [1, 2], [4, 5]]
    assert [hit.chunk_id for hit in hits] == [chunks[place].chunk_id for place in (3, 0, 6)]
    before = (hits[0].neighbours or ())[0]
    assert (before.text, before.heading) == (chunks[1].text, chunks[1].heading)
    assert (before.page_start, before.page_end) == (chunks[1].page_start, chunks[1].page_end)


async def test_a_chunk_alone_has_no_neighbours_and_no_hits_have_none(library: Library) -> None:
    document_id = await library.add_document(Shelf("notes", 1, 1, phrase="eagle"))
    async with library.database.snapshot() as connection:
        hits = await with_neighbours(connection, await chunks_of(connection, document_id), 3)
        assert [hit.neighbours for hit in hits] == [()]
        assert await with_neighbours(connection, [], 3) == []


async def test_a_version_that_is_replaced_meanwhile_keeps_its_chunks_in_the_snapshot(
    library: Library,
) -> None:
    document_id = await library.add_document(SHELF)
    async with library.database.snapshot() as snapshot, library.database.transaction() as transaction:
        found = await chunks_of(snapshot, document_id)
        assert found == await chunks_of(transaction, document_id)
        await library.replace(document_id, SHELF)
        hits = await with_neighbours(snapshot, found, 1)
        assert [len(hit.neighbours or ()) for hit in hits] == [1, 2, 2, 2, 2, 2, 1]
        assert [(hit.neighbours or ())[0].text for hit in hits[1:]] == [hit.text for hit in found[:-1]]
        too_late = await with_neighbours(transaction, found, 1)
    assert [hit.neighbours for hit in too_late] == [()] * 7
