"""Data of the version before languages is brought along in steps, while searches go on."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.embeddings.base import EmbeddingIdentity
from app.local.embedded import EmbeddedPostgres
from app.services.backfill import CHUNKS_AT_ONCE, DocumentWords, TitleWords, Words, backfill, begin_backfill
from app.services.collection_service import CollectionService, delete_doomed
from app.services.detection import LanguageDetector
from app.storage import backfill as storage
from app.storage import collections
from app.storage.database import Database
from app.storage.languages import open_text_search
from app.storage.spaces import open_space
from tests.databases import PROJECT, run_alembic

BEFORE = "20261120b"
ENGLISH = "The company expects that its operating costs will rise during the next year."
ODD_ENGLISH = "The company’s costs for FY18 were higher than those in the naïve plan of the board."
FRENCH = "Les dépenses déclarées par les sociétés étrangères dépassent largement le budget."
JAPANESE = "取引先との契約書を確認してください。支払期限は毎月末日とします。"


@pytest.fixture
async def url(postgres: EmbeddedPostgres) -> str:
    """A database as the version before left it."""
    name = f"backfill_{uuid4().hex}"
    postgres.create_database(name)
    await run_alembic(postgres.url(name), command.upgrade, BEFORE)
    return postgres.url(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    yield database
    await database.close()


async def add_old(database: Database, texts: Sequence[str], heading: str | None = None) -> UUID:
    """A published document, with words as the version before made them."""
    ingestion_id = uuid7()
    async with database.transaction() as connection:
        for statement in (
            "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, status, chunks)"
            " VALUES (:id, :id, 'a.pdf', '', 1, 'success', cardinality(CAST(:texts AS text[])))",
            "INSERT INTO documents (id, collection, live_ingestion_id, latest_ingestion_id)"
            " VALUES (:id, 'default', :id, :id)",
            """
            INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, heading, text, tokens, tsv)
            SELECT gen_random_uuid(), :id, ordinal - 1, 1, 1, :heading, content, 9,
                setweight(to_tsvector('english', coalesce(:heading, '')), 'C')
                || to_tsvector('english', content)
            FROM unnest(CAST(:texts AS text[])) WITH ORDINALITY AS chunk(content, ordinal)
            """,
        ):
            parameters = {"id": ingestion_id, "texts": list(texts), "heading": heading}
            named = {name: value for name, value in parameters.items() if f":{name}" in statement}
            await connection.execute(text(statement.replace(":heading", "CAST(:heading AS text)")), named)
    return ingestion_id


async def found(database: Database, words: str) -> dict[UUID, int]:
    """How many chunks of each document match a tsquery."""
    async with database.transaction() as connection:
        rows = await connection.execute(
            text(
                "SELECT ingestion_id, count(*) FROM chunks WHERE tsv @@ CAST(:words AS tsquery)"
                " GROUP BY ingestion_id"
            ),
            {"words": words},
        )
        return {row.ingestion_id: row.count for row in rows}


async def rows(database: Database, statement: str) -> dict[UUID, tuple[object, ...]]:
    async with database.transaction() as connection:
        return {row[0]: tuple(row)[1:] for row in await connection.execute(text(statement))}


async def languages_of(database: Database) -> dict[UUID, tuple[object, ...]]:
    return await rows(database, "SELECT id, language, text_search_config FROM ingestions")


async def duty(database: Database) -> Words:
    return Words(database, LanguageDetector(), await open_text_search(database))


async def test_words_of_old_documents_are_brought_along(url: str, database: Database) -> None:
    plain = await add_old(database, [ENGLISH] * 3, "Costs")
    odd = await add_old(database, [ENGLISH, ODD_ENGLISH])
    french = await add_old(database, [FRENCH] * (2 * CHUNKS_AT_ONCE + 1), "Société")
    japanese = await add_old(database, [JAPANESE])
    untold = await add_old(database, ["4 711"])
    assert await found(database, "societ | 契約 | fy & 2018") == {}
    await run_alembic(url, command.upgrade, "head")
    places = "SELECT id, ctid FROM chunks WHERE text = '{}'"
    before = await rows(database, places.format(ENGLISH))

    await backfill(database, await duty(database))

    assert await languages_of(database) == {
        plain: ("en", "english"),
        odd: ("en", "english"),
        french: ("fr", "french"),
        japanese: ("ja", "simple"),
        untold: (None, "english"),
    }
    assert await found(database, "societ & declar & etranger") == {french: 2 * CHUNKS_AT_ONCE + 1}
    assert await found(database, "societ:C") == {french: 2 * CHUNKS_AT_ONCE + 1}
    assert await found(database, "契約 & 支払") == {japanese: 1}
    assert await found(database, "compani & cost & fy & 2018 & naiv") == {odd: 1}
    assert await found(database, "cost & rise") == {plain: 3, odd: 1}
    assert await rows(database, places.format(ENGLISH)) == before, "plain English was written again"


async def test_it_goes_on_where_it_was_stopped(url: str, database: Database) -> None:
    ids = [await add_old(database, [FRENCH]) for _ in range(4)]
    await run_alembic(url, command.upgrade, "head")
    languages = await duty(database)
    await languages.fill(ids[0])
    async with database.autocommit() as connection:  # stopped after the words of this one were made
        french = languages._text_search.language("fr")
        chunks = await storage.list_texts(connection, ids[1], -1, 9)
        await storage.store_words(connection, ids[1], french, chunks)
        assert await storage.find_lacking(connection, languages.lacks, UUID(int=0), 9) == ids[1:]
    await backfill(database, languages)
    assert set((await languages_of(database)).values()) == {("fr", "french")}
    assert await found(database, "societ") == dict.fromkeys(ids, 1)
    async with database.autocommit() as connection:
        assert await storage.find_lacking(connection, languages.lacks, UUID(int=0), 9) == []


async def test_words_in_an_older_form_are_made_and_counted_anew(url: str, database: Database) -> None:
    old = await add_old(database, ["Los gastos de AT&T fueron 1,234,567 euros."] * 2)
    await run_alembic(url, command.upgrade, "head")
    await backfill(database, await duty(database), DocumentWords(database), TitleWords(database))
    made = "SELECT lexeme, share, text_share FROM document_words"
    now = await rows(database, made)
    assert {"1234567", "att", "gast"} <= now.keys()
    async with database.transaction() as connection:  # as if it had been stored in the form before
        for statement in (
            "UPDATE chunks SET tsv = to_tsvector('spanish', text)",
            "UPDATE ingestions SET recipe = 'old words 1', language = 'es', text_search_config = 'spanish'",
            "UPDATE documents SET title = 'Gastos'",
            "UPDATE document_words SET lexeme = '567', share = 0.3 WHERE lexeme = '1234567'",
        ):
            await connection.execute(text(statement))
    assert await found(database, "att | 1234567") == {}

    await backfill(database, await duty(database), DocumentWords(database), TitleWords(database))

    assert await found(database, "att & 1234567 & gast") == {old: 2}
    assert await rows(database, made) == now | {"gast": (1, 1)}
    assert await rows(database, "SELECT id, recipe, language FROM ingestions") == {old: ("old words 2", "es")}


async def test_words_of_old_documents_are_counted_in_their_language(url: str, database: Database) -> None:
    french = await add_old(database, [FRENCH] * 4, "Société")
    plain = await add_old(database, [ENGLISH] * 2)
    await run_alembic(url, command.upgrade, "head")
    shares = "SELECT ingestion_id || ' ' || lexeme, share, is_on_first_page FROM document_words"
    assert await rows(database, shares) == {}
    for _ in range(2):
        await backfill(database, await duty(database), DocumentWords(database))
        counted = await rows(database, shares)
        assert counted[f"{french} societ"] == (1, True)
        assert counted[f"{french} budget"] == (1, True)
        assert counted[f"{plain} cost"] == (1, True)
        assert f"{french} rise" not in counted


async def test_titles_that_people_gave_before_are_brought_along(url: str, database: Database) -> None:
    named, unnamed = await add_old(database, [ENGLISH] * 2), await add_old(database, [ENGLISH])
    await run_alembic(url, command.upgrade, "head")
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE documents SET title = 'Zanzibar’s costs' WHERE id = :id"), {"id": named}
        )
    for _ in range(2):
        await backfill(database, await duty(database), DocumentWords(database), TitleWords(database))
        counted = await rows(
            database,
            "SELECT ingestion_id || ' ' || lexeme, share, text_share FROM document_words"
            " WHERE text_share IS NOT NULL OR lexeme = 'cost'",
        )
        assert counted == {
            f"{named} zanzibar": (1, 0),
            f"{named} cost": (1, 1),
            f"{unnamed} cost": (pytest.approx(0.1), None),
        }
    async with database.autocommit() as connection:
        assert await storage.find_lacking(connection, TitleWords.lacks, UUID(int=0), 9) == []


async def test_counting_the_words_of_a_version_that_is_replaced_meanwhile_leaves_nothing(
    url: str, database: Database
) -> None:
    old = await add_old(database, [FRENCH])
    await run_alembic(url, command.upgrade, "head")
    async with database.transaction() as replacing:
        await replacing.execute(text("SELECT FROM documents WHERE id = :id FOR UPDATE"), {"id": old})
        counting = asyncio.create_task(DocumentWords(database).fill(old))
        await asyncio.sleep(0.5)
        assert not counting.done(), "the document's row was not waited for"
        await replacing.execute(text("DELETE FROM documents WHERE id = :id"), {"id": old})
    await asyncio.wait_for(counting, 60)
    assert await rows(database, "SELECT lexeme, share FROM document_words") == {}


NUMBERED = """
    SELECT document.id, count(*) FILTER (WHERE name = document.collection), count(*)
    FROM documents document JOIN {table} stored ON ingestion_id = live_ingestion_id
        LEFT JOIN collections ON collections.id = stored.collection_id
    GROUP BY document.id
"""
OF_WORDS, OF_CHUNKS = (NUMBERED.format(table=table) for table in ("document_words", "chunks"))


async def test_words_that_are_counted_tell_the_collection_and_follow_their_document(
    url: str, database: Database
) -> None:
    """Chunks and vectors of before are not written again: their documents are looked up."""
    ids = [await add_old(database, [FRENCH] * 2) for _ in range(3)]
    await run_alembic(url, command.upgrade, "head")
    for _ in range(2):
        await backfill(database, await duty(database), DocumentWords(database))
        counted = await rows(database, OF_WORDS)
        assert set(counted) == set(ids)
        assert all(numbered == words > 2 for numbered, words in counted.values())
        await move_to(database, ids[:1], f"moved-{uuid4()}")
        assert await rows(database, OF_WORDS) == counted
    assert await rows(database, OF_CHUNKS) == dict.fromkeys(ids, (0, 2))
    async with database.transaction() as connection:  # as an earlier version counted them
        await connection.execute(text("UPDATE document_words SET collection_id = NULL"))
    await DocumentWords(database).fill(ids[0])
    assert (await rows(database, OF_WORDS))[ids[0]] == counted[ids[0]]


@pytest.mark.parametrize("is_noted", [True, False])
async def test_words_that_are_counted_while_their_document_moves_tell_where_it_is_then(
    url: str, database: Database, is_noted: bool
) -> None:
    old = await add_old(database, [FRENCH] * 2)
    await run_alembic(url, command.upgrade, "head")
    if is_noted:
        await backfill(database)
    async with database.transaction() as moving:
        await moving.execute(
            text("UPDATE documents SET collection = 'elsewhere' WHERE id = :id"), {"id": old}
        )
        counting = asyncio.create_task(DocumentWords(database).fill(old))
        await asyncio.sleep(0.5)
        assert counting.done() != is_noted, "the move was not waited for"
    await asyncio.wait_for(counting, 60)
    numbered, words = (await rows(database, OF_WORDS))[old]
    assert numbered == (words if is_noted else 0)


class Endless(TitleWords):
    """A duty that takes longer than who starts the service can wait."""

    lacks = "true"
    begun = 0

    async def fill(self, ingestion_id: UUID) -> None:
        self.begun += 1
        await asyncio.Event().wait()


async def test_who_starts_the_service_waits_for_a_part_only(url: str, database: Database) -> None:
    await add_old(database, [ENGLISH])
    await run_alembic(url, command.upgrade, "head")
    endless = Endless(database)
    await begin_backfill(database, endless, seconds=1)
    assert endless.begun == 1


async def test_a_version_that_is_replaced_meanwhile_is_left_alone(url: str, database: Database) -> None:
    old = await add_old(database, [FRENCH])
    await run_alembic(url, command.upgrade, "head")
    languages = await duty(database)
    async with database.transaction() as replacing:
        await replacing.execute(text("SELECT FROM documents WHERE id = :id FOR UPDATE"), {"id": old})
        filling = asyncio.create_task(languages.fill(old))
        await asyncio.sleep(0.5)
        assert not filling.done(), "the document's row was not waited for"
        await replacing.execute(text("DELETE FROM documents WHERE id = :id"), {"id": old})
        await replacing.execute(text("DELETE FROM chunks WHERE ingestion_id = :id"), {"id": old})
    await asyncio.wait_for(filling, 60)
    assert await found(database, "societ") == {}


async def test_migrate_does_it_while_searches_go_on(url: str, database: Database) -> None:
    ids = [await add_old(database, [FRENCH] * 300) for _ in range(4)]
    migrating = asyncio.create_task(
        asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "app.local.cli", "migrate"],
            cwd=PROJECT,
            env=os.environ | {"DATABASE_URL": url, "LOG_FORMAT": "json"},
            capture_output=True,
            text=True,
        )
    )
    slowest = 0.0
    while not migrating.done():
        started = asyncio.get_running_loop().time()
        assert await found(database, "budget") == dict.fromkeys(ids, 300)
        slowest = max(slowest, asyncio.get_running_loop().time() - started)
    finished = await migrating
    assert finished.returncode == 0, finished.stderr
    assert '"documents": 4' in finished.stderr
    assert slowest < 2
    assert await found(database, "societ & declar") == dict.fromkeys(ids, 300)


NOTED = "SELECT documents.id, collection, name FROM documents LEFT JOIN collections c ON c.id = collection_id"


async def move_to(database: Database, ids: Sequence[UUID], collection: str) -> None:
    """As the version before does it: by its name alone."""
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE documents SET collection = :collection WHERE id = ANY(:ids)"),
            {"collection": collection, "ids": list(ids)},
        )


async def test_collections_of_old_documents_are_there_at_once_and_noted_in_steps(
    url: str, database: Database
) -> None:
    ids = [await add_old(database, [ENGLISH]) for _ in range(5)]
    await move_to(database, ids[3:], "reports")
    await run_alembic(url, command.upgrade, "head")
    made = await rows(database, "SELECT id, name FROM collections")
    assert sorted(made.values()) == [("default",), ("reports",)]
    assert {one.version for one in made} == {7}
    assert {name for _, name in (await rows(database, NOTED)).values()} == {None}
    new = await add_old(database, [ENGLISH])  # the version before goes on, and names no id
    await move_to(database, ids[:1], "moved")
    noted = await rows(database, NOTED)
    assert (noted[new], noted[ids[0]]) == (("default", "default"), ("moved", "moved"))

    async with database.autocommit() as connection:  # stopped after two
        assert await collections.note_collections(connection, UUID(int=0), 2) == sorted(ids)[2]
    await backfill(database)

    assert sorted((await rows(database, NOTED)).values()) == [
        *[("default", "default")] * 3,
        ("moved", "moved"),
        *[("reports", "reports")] * 2,
    ]


async def test_old_collections_are_renamed_and_deleted_before_their_documents_are_noted(
    url: str, database: Database
) -> None:
    ids = [await add_old(database, [ENGLISH]) for _ in range(4)]
    await move_to(database, ids[2:], "reports")
    await run_alembic(url, command.upgrade, "head")
    space_id = await open_space(database, EmbeddingIdentity("test", "model", 8))
    service = CollectionService(database)
    await service.change("default", "other", {})
    deletion = await service.delete("reports")
    await delete_doomed(database, space_id)
    assert (await service.deletion(deletion.id)).documents_done == 2
    assert await rows(database, NOTED) == dict.fromkeys(ids[:2], ("other", "other"))


async def test_noting_waits_for_a_collection_that_is_being_renamed_and_holds_no_document_meanwhile(
    url: str, database: Database
) -> None:
    ids = [await add_old(database, [ENGLISH]) for _ in range(3)]
    await run_alembic(url, command.upgrade, "head")
    async with database.transaction() as renaming:
        await collections.find_collection(renaming, "default", to_change=True)
        noting = asyncio.create_task(backfill(database))
        await asyncio.sleep(0.5)
        assert not noting.done(), "the collection was not waited for"
        await collections.rename_collection(renaming, "default", "other")
    await asyncio.wait_for(noting, 60)
    assert await rows(database, NOTED) == dict.fromkeys(ids, ("other", "other"))
