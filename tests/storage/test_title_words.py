"""A title that a person gives chooses the document, as its file name does; and goes without a trace."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.storage.database import Connection, Database
from app.storage.documents import Change, change_document, lock_document
from app.storage.filters import SearchFilter
from app.storage.search import search_text
from app.storage.title_words import count_title, store_title
from tests.storage.library import Library, Shelf


@pytest.fixture
def library(database: Database, space_id: int) -> Library:
    return Library(database, space_id, 256, words=12)


async def name_it(connection: Connection, document_id: UUID, title: str | None) -> None:
    """What PATCH does."""
    await lock_document(connection, document_id)
    await change_document(connection, document_id, Change(title=title, is_title_given=True))
    await store_title(connection, document_id, title)


async def words_of(database: Database, ingestion_id: UUID) -> dict[str, tuple[Any, ...]]:
    async with database.transaction() as connection:
        found = await connection.execute(
            text(
                "SELECT lexeme, share, is_on_first_page, text_share FROM document_words WHERE"
                " ingestion_id = :id"
            ),
            {"id": ingestion_id},
        )
        return {row.lexeme: tuple(row)[1:] for row in found}


async def live_of(database: Database, document_id: UUID) -> UUID:
    async with database.transaction() as connection:
        found = await connection.execute(
            text("SELECT live_ingestion_id FROM documents WHERE id = :id"), {"id": document_id}
        )
        live: UUID = found.scalar_one()
        return live


async def test_a_word_of_a_given_title_chooses_the_document(library: Library) -> None:
    shelf = Shelf(f"c-{uuid4()}", 1, 6, phrase="dividends paid")
    documents = [await library.add_document(shelf) for _ in range(3)]
    async with library.database.transaction() as connection:
        await name_it(connection, documents[1], "The Quetzals of 2018")
        wanted = SearchFilter(shelf.collection)
        hits = await search_text(connection, "quetzal dividends paid", wanted, 6)
    assert {hit.document_id for hit in hits} == {documents[1]}


async def test_a_title_comes_and_goes_and_leaves_the_words_as_they_were(library: Library) -> None:
    shelf = Shelf(f"yellowtail-{uuid4()}", 1, 6, phrase="dividends")
    document_id = await library.add_document(shelf)
    live = await live_of(library.database, document_id)
    before = await words_of(library.database, live)
    for title in ("Zanzibar's dividends", "Dividends of Yellowtail", None, "of the", None):
        async with library.database.transaction() as connection:
            await name_it(connection, document_id, title)
        now = await words_of(library.database, live)
        changed = {word: row for word, row in now.items() if row != before.get(word)}
        assert changed == {
            "Zanzibar's dividends": {"zanzibar": (1, False, 0), "dividend": (1, True, 1)},
            "Dividends of Yellowtail": {"dividend": (1, True, 1), "yellowtail": (1, False, 1)},
        }.get(title or "", {})
        assert before.keys() <= now.keys()
    assert await words_of(library.database, live) == before


async def test_a_version_in_work_gets_the_title_of_its_document(library: Library) -> None:
    shelf = Shelf(f"c-{uuid4()}", 1, 2)
    document_id = await library.add_document(shelf)
    new = await library.add_ingestion(document_id, shelf)
    async with library.database.transaction() as connection:
        await connection.execute(
            text("UPDATE documents SET latest_ingestion_id = :new WHERE id = :id"),
            {"new": new, "id": document_id},
        )
        await connection.execute(
            text("UPDATE ingestions SET status = 'processing' WHERE id = :new"), {"new": new}
        )
        await name_it(connection, document_id, "Zanzibar")
    assert (await words_of(library.database, new))["zanzibar"] == (1, False, 0)
    async with library.database.transaction() as changing:
        await name_it(changing, document_id, "Quetzals")
        async with library.database.autocommit() as connection:
            counting = asyncio.create_task(count_title(connection, new))
            await asyncio.sleep(0.3)
            assert not counting.done(), "who changes the title was not waited for"
            await changing.commit()
            await counting
    words = await words_of(library.database, new)
    assert "zanzibar" not in words
    assert words["quetzal"] == (1, False, 0)


async def test_what_has_ended_or_has_another_title_by_now_gets_no_words(library: Library) -> None:
    shelf = Shelf(f"c-{uuid4()}", 1, 2)
    document_id = await library.add_document(shelf)
    new = await library.add_ingestion(document_id, shelf)
    before = await words_of(library.database, await live_of(library.database, document_id))
    async with library.database.transaction() as connection:
        await connection.execute(
            text("UPDATE documents SET latest_ingestion_id = :new, title = 'Zanzibar' WHERE id = :id"),
            {"new": new, "id": document_id},
        )
        await connection.execute(
            text("UPDATE ingestions SET status = 'cancelled' WHERE id = :new"), {"new": new}
        )
        await store_title(connection, document_id, "Quetzals")
    assert await words_of(library.database, await live_of(library.database, document_id)) == before
    async with library.database.transaction() as connection:
        await store_title(connection, document_id, "Zanzibar")
    assert "zanzibar" in await words_of(library.database, await live_of(library.database, document_id))
    assert "zanzibar" not in await words_of(library.database, new)
