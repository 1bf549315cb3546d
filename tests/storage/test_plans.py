"""Plans of searches are kept with their connection: they have to be right for whatever there is later."""

import re
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.embeddings.base import EmbeddingIdentity
from app.local.embedded import EmbeddedPostgres
from app.storage.database import Database
from app.storage.document_views import DocumentFilter, DocumentOrder, list_documents
from app.storage.filters import Comparison, Containment, SearchFilter
from app.storage.reach import Reach
from app.storage.search import Hit, search_hybrid, search_text, search_vector
from app.storage.spaces import open_space
from app.storage.visible import FEW_DOCUMENTS
from app.storage.words import MAX_WORDS, Question, begin_question
from tests.databases import migrated
from tests.storage.library import VOCABULARY, Library, Shelf

SEARCHES = text(
    "SELECT statement, parameter_types FROM pg_prepared_statements"
    " WHERE statement ~ 'SELECT f[o]und' AND NOT statement ~ 'PREPARE'"
)
QUERY = "annual heading"
NOTES = Shelf("notes", FEW_DOCUMENTS + 10, 3, {"kind": "note"}, phrase="annual")
REPORTS = Shelf("reports", 14, 300, {"kind": "report"}, phrase="annual")
BOUND = Reach(collections=("rep*",))
FILTERS = {
    "everything": SearchFilter(),
    "a long collection": SearchFilter("reports"),
    "many small documents": SearchFilter("notes"),
    "metadata": SearchFilter(condition=Containment({"kind": "report"})),
    "fields": SearchFilter(condition=Comparison("eq", "filename", "reports.pdf")),
    "bound": SearchFilter(reach=BOUND),
}


@pytest.fixture(scope="module")
async def library(postgres: EmbeddedPostgres) -> AsyncIterator[Library]:
    """5,700 chunks, of a few long documents and many short ones."""
    library = await empty(postgres, "plans")
    await library.fill([NOTES, REPORTS])
    yield library
    await library.database.close()


async def empty(postgres: EmbeddedPostgres, name: str) -> Library:
    database = Database(await migrated(postgres, name), pool_size=1)
    return Library(database, await open_space(database, EmbeddingIdentity("test", "clusters", 64)), 64)


async def ask_all(
    library: Library, wanted: SearchFilter, database: Database | None = None
) -> list[list[Hit]]:
    """In all three modes, in one transaction."""
    vector, space_id = library.centers[0].astype("float32"), library.space_id
    async with (database or library.database).snapshot(wanted.reach) as connection:
        return [
            await search_hybrid(connection, space_id, vector, QUERY, wanted, 10),
            await search_hybrid(connection, space_id, vector, '"annual" heading', wanted, 10),
            await search_text(connection, QUERY, wanted, 10),
            await search_vector(connection, space_id, vector, wanted, 10),
        ]


async def plan(connection: AsyncConnection, statement: str, parameters: int) -> str:
    """Of a prepared statement, whatever it is executed with."""
    await connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
    await connection.execute(text("SET LOCAL enable_seqscan = off"))
    await connection.exec_driver_sql(f"PREPARE asked AS {statement}")
    nulls = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    rows = await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) EXECUTE asked{nulls}")
    await connection.exec_driver_sql("DEALLOCATE asked")
    return "\n".join(row[0] for row in rows)


def scans(plan: str) -> list[str]:
    """The indexes that are read, but for those by which the documents of a filter are found."""
    found: list[str] = re.findall(r"(?:Index.* using|Bitmap Index Scan on|Seq Scan on) (\w+)", plan)
    return sorted(name for name in found if "_documents_" not in name)


@pytest.mark.parametrize("name", FILTERS)
async def test_in_an_empty_library_all_is_planned_as_in_a_full_one(
    postgres: EmbeddedPostgres, library: Library, name: str
) -> None:
    wanted = FILTERS[name]
    nothing = await empty(postgres, f"plans_{name}")
    await ask_all(library, wanted)
    async with library.database.snapshot(wanted.reach) as connection:
        prepared = (await connection.execute(SEARCHES)).all()
        full = [await plan(connection, row.statement, len(row.parameter_types)) for row in prepared]
    async with nothing.database.snapshot(wanted.reach) as connection:
        there = [await plan(connection, row.statement, len(row.parameter_types)) for row in prepared]
    await nothing.database.close()
    assert len(prepared) >= 4
    for one, other in zip(full, there, strict=True):
        assert scans(one) == scans(other)
        assert "Seq Scan" not in one


async def test_who_asked_while_there_was_nothing_finds_what_others_find(postgres: EmbeddedPostgres) -> None:
    library = await empty(postgres, "plans_grown")
    async with library.database.transaction() as connection:
        for table in ("documents", "ingestions", "chunks", "document_words"):
            await connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    for _ in range(10):
        assert await ask_all(library, SearchFilter()) == [[], [], [], []]
    for _ in range(18):
        await library.add_document(REPORTS)
    newcomer = Database(postgres.url("plans_grown"), pool_size=1)
    one = await some_document(library)
    for wanted in (*FILTERS.values(), SearchFilter(document_ids=(one,))):
        found = await ask_all(library, wanted)
        assert found == await ask_all(library, wanted, newcomer)
        assert all(len(hits) == (0 if wanted.collection == "notes" else 10) for hits in found)
    await newcomer.close()
    await library.database.close()


async def some_document(library: Library) -> UUID:
    async with library.database.transaction() as connection:
        return await connection.scalar(text("SELECT id FROM documents ORDER BY id LIMIT 1"))


async def ask_words(library: Library, query: str, wanted: SearchFilter) -> Question:
    async with library.database.snapshot(wanted.reach) as connection:
        question, _ = await begin_question(connection, query, wanted)
        return question


async def test_words_are_as_common_for_callers_who_are_bound(library: Library) -> None:
    query = f"{QUERY} {' '.join(VOCABULARY[:20:4])} {' '.join(VOCABULARY[500:505])} nowhere"
    bound, unbound = [
        {word.text: word.share for word in (await ask_words(library, query, wanted)).words}
        for wanted in (SearchFilter(reach=Reach(collections=("rep*", "notes"))), SearchFilter())
    ]
    assert bound == unbound
    assert unbound["nowhere"] < unbound[VOCABULARY[500]] < unbound[VOCABULARY[0]] < 1


async def test_words_of_a_short_list_are_counted_only_where_they_are_too_many(library: Library) -> None:
    one = SearchFilter(document_ids=(await some_document(library),))
    few = await ask_words(library, " ".join(VOCABULARY[:10]), one)
    assert {word.share for word in few.words} == {1}
    many = await ask_words(library, f"{' '.join(VOCABULARY[: MAX_WORDS + 10])} nowhere", one)
    assert (len(many.words), many.words[0].text) == (MAX_WORDS, "nowhere")
    assert VOCABULARY[0] not in {word.text for word in many.words}


async def test_little_waits_to_be_put_into_the_index_of_words(postgres: EmbeddedPostgres) -> None:
    """Each search reads all of it."""
    library = await empty(postgres, "plans_waiting")
    await library.add_document(Shelf("reports", 1, 2_000))
    async with library.database.transaction() as connection:
        pages = await connection.scalar(text("SELECT gin_clean_pending_list('ix_chunks_tsv')"))
    await library.database.close()
    assert pages <= 256 / 8 + 1


@pytest.mark.parametrize("reach", [Reach(("no*",)), Reach(("*",))])
async def test_a_bound_caller_lists_documents_without_reading_all_runs_for_each(
    library: Library, reach: Reach
) -> None:
    newest_first = DocumentOrder("created_at", is_descending=True)
    async with library.database.transaction(reach) as connection:
        found = await list_documents(connection, DocumentFilter(), newest_first, None, 50, reach)
        read = await connection.scalar(
            text(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables"
                " WHERE relname = 'ingestions'"
            )
        )
    assert len(found) == 50
    assert read < 3 * (NOTES.documents + REPORTS.documents)
