"""Postgres itself shows a bound caller nothing else, whatever the statement is."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from hashlib import md5
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from app.embeddings.base import EmbeddingIdentity
from app.errors import TenantRoleMissing
from app.local.embedded import EmbeddedPostgres
from app.storage.database import Database, beyond
from app.storage.document_views import DocumentFilter, DocumentOrder, list_documents
from app.storage.documents import delete_documents
from app.storage.models import Base
from app.storage.reach import EVERYTHING, TENANT_ROLE, Reach
from app.storage.spaces import open_space
from app.storage.tenants import RIGHTS
from tests.databases import PROJECT, drop_everything, migrated_by_owner, owned, run_alembic, run_sql

LANDED = "20261120b"
SPACE = EmbeddingIdentity("test", "model", 8)
# What a run stores, by their `ingestion_id`; and all that have a policy.
TABLES_OF_RUNS = ("chunks", "document_words", "embeddings_1")
TABLES_WITH_POLICY = (
    *("documents", "ingestions", "collections", "collection_deletions", "files_to_delete"),
    *TABLES_OF_RUNS,
)
A = Reach(("a*",))
# A document in each of a12, a_2 and b1; one moved from b1 to a12; the run of one of b1 that is deleted.
# Each run has a chunk, whose text is its file's name.
ROWS = """
    WITH shelf AS (
        SELECT * FROM (VALUES ('1', 'a12', 'a12'), ('2', 'a_2', 'a_2'), ('3', 'b1', 'b1'), ('4', 'a12', 'b1'))
            AS shelf (name, collection, queue)
    ), run AS (
        INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, queue)
        SELECT md5(name)::uuid, md5(name)::uuid, name, ''::bytea, 1, queue FROM shelf
        UNION ALL SELECT md5('gone')::uuid, md5('gone')::uuid, '', '', 1, 'b1'
        RETURNING id, filename
    ), chunk AS (
        INSERT INTO chunks (id, ingestion_id, ordinal, page_start, page_end, text, tokens, tsv)
        SELECT id, id, 0, 1, 1, filename, 1, to_tsvector('simple', 'text ' || filename) FROM run
    )
    INSERT INTO documents (id, collection, latest_ingestion_id)
    SELECT md5(name)::uuid, collection, md5(name)::uuid FROM shelf
"""
# The rows of two runs tell their collection, as those of today; the others are of a version before.
STORED = (
    """
    INSERT INTO embeddings_1 (chunk_id, ingestion_id, embedding)
    SELECT id, ingestion_id, CAST(array_fill(0.5, ARRAY[8]) AS halfvec) FROM chunks
    """,
    """
    INSERT INTO document_words (ingestion_id, lexeme, share, is_on_first_page)
    SELECT ingestion_id, 'text', 1, false FROM chunks
    """,
    *(
        f"""
        UPDATE {table} SET collection_id = documents.collection_id FROM documents
        WHERE latest_ingestion_id = ingestion_id AND documents.id IN (md5('1')::uuid, md5('3')::uuid)
        """
        for table in TABLES_OF_RUNS
    ),
)
DELETION = """
    INSERT INTO collection_deletions (id, collection_id, collection, documents_total)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'b0', 1)
"""

FILES = (
    "UPDATE ingestions SET storage_key = filename || '.pdf'",
    "INSERT INTO files_to_delete (storage_key) VALUES ('left.pdf')",
)


@pytest.fixture(scope="module")
async def library(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """With one connection, which everybody has in turn."""
    url = await migrated_by_owner(postgres, f"tenants_{uuid4().hex}")
    database = Database(url, pool_size=1)
    assert await open_space(database, SPACE) == 1
    await run_sql(url, ROWS, DELETION, *STORED, *FILES)
    yield database
    await database.close()


async def names(database: Database, reach: Reach, table: str = "ingestions", name: str = "filename") -> str:
    async with database.transaction(reach) as connection:
        found = await connection.scalars(text(f"SELECT {name} FROM {table} ORDER BY 1"))
        return " ".join(found)


def document(name: str) -> UUID:
    return UUID(md5(name.encode(), usedforsecurity=False).hexdigest())


@pytest.mark.parametrize(
    ("reach", "seen"),
    [
        (EVERYTHING, " 1 2 3 4"),
        (Reach(("*",)), " 1 2 3 4"),
        (A, "1 2 4"),
        (Reach(("b*",)), " 3"),
        (Reach(("a_2",)), "2"),
        (Reach(("%",)), ""),
        (Reach(()), ""),
        (Reach(None, frozenset({document("3")})), "3"),
        (Reach(("a*",), frozenset({document("3"), document("4")})), "4"),
        (Reach(None, frozenset()), ""),
    ],
)
async def test_a_run_is_seen_by_those_who_may_see_its_document(
    library: Database, reach: Reach, seen: str
) -> None:
    assert await names(library, reach) == seen
    for table in TABLES_OF_RUNS:  # unless all is in reach, they are their document's, which is gone of one
        stored = await names(library, reach, table, "ingestion_id::text")
        everything = reach in {EVERYTHING, Reach(("*",))}
        gone = [document("gone")] if everything else []
        assert stored == " ".join(sorted(map(str, [*gone, *map(document, seen.split())])))
    of_documents = await names(
        library, reach, "documents JOIN ingestions ON latest_ingestion_id = ingestions.id"
    )
    assert of_documents == seen.strip()


@pytest.mark.parametrize("table", TABLES_WITH_POLICY)
async def test_the_role_sees_nothing_without_settings(library: Database, table: str) -> None:
    async with library.transaction() as connection:
        await connection.execute(text(f"SET LOCAL ROLE {TENANT_ROLE}"))
        assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0
        for setting in ("collections", "documents"):
            await connection.execute(text(f"SET LOCAL pdf_ingest.{setting} = ''"))
        assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


@pytest.mark.parametrize(("setting", "value"), [("collections", '{"%"}'), ("documents", "*")])
@pytest.mark.parametrize("table", ["documents", "ingestions", "collections", *TABLES_OF_RUNS])
async def test_the_role_sees_nothing_with_half_of_the_settings(
    library: Database, table: str, setting: str, value: str
) -> None:
    async with library.transaction() as connection:
        await connection.execute(text(f"SET LOCAL ROLE {TENANT_ROLE}"))
        await connection.execute(text(f"SET LOCAL pdf_ingest.{setting} = '{value}'"))
        assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


async def test_versions_have_no_policy_and_tell_nothing_of_a_file_but_its_size(library: Database) -> None:
    """They are joined with documents, which have one."""
    async with library.transaction(A) as connection:
        assert set((await connection.execute(text("SELECT * FROM versions LIMIT 0"))).keys()) == {
            "id", "language", "text_search_config", "pages_total", "chunks"
        }  # fmt: skip
        found = text("SELECT count(*) FROM documents d JOIN versions i ON i.id = d.latest_ingestion_id")
        assert await connection.scalar(found) == 3
        with pytest.raises(DBAPIError, match="permission denied for view versions"):
            await connection.execute(text("UPDATE versions SET language = 'mine'"))


async def test_each_table_with_a_policy_has_rows_that_the_tests_miss(library: Database) -> None:
    async with library.transaction() as connection:
        with_policy = text("SELECT relname FROM pg_class WHERE relrowsecurity ORDER BY 1")
        assert list(await connection.scalars(with_policy)) == sorted(TABLES_WITH_POLICY)
        for table in TABLES_WITH_POLICY:
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) > 0, table


async def test_all_that_the_role_reads_has_a_policy_or_is_known_here(library: Database) -> None:
    """Views are tested below."""
    readable = text(f"""
        SELECT relname FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace = CAST('public' AS regnamespace)
            AND NOT relrowsecurity AND has_any_column_privilege('{TENANT_ROLE}', oid, 'SELECT')
    """)
    async with library.transaction() as connection:
        assert set(await connection.scalars(readable)) == {"versions", "chunk_words", "word_shares"}


async def test_shares_of_words_are_listed_without_a_policy_and_tell_no_more(library: Database) -> None:
    """Those of a long list are cut off before it is asked which of them are in reach."""
    async with library.transaction(A) as connection:
        shares = await connection.execute(text("SELECT * FROM word_shares"))
        assert set(shares.keys()) == {"ingestion_id", "lexeme", "share"}
        assert shares.rowcount == 5
        with pytest.raises(DBAPIError, match="permission denied for view word_shares"):
            await connection.execute(text("DELETE FROM word_shares"))


async def test_what_is_usual_is_asked_of_all_and_told_as_numbers(library: Database) -> None:
    usual = text("SELECT usual_similarity(1, CAST(array_fill(1, ARRAY[8]) AS halfvec), 10)")
    rare = text("SELECT documents FROM documents_of_words(ARRAY['text'], 10)")
    for reach in (EVERYTHING, A, Reach(())):
        async with library.transaction(reach) as connection:
            assert await connection.scalar(usual) == 4
            assert await connection.scalar(rare) == 5


async def test_words_of_chunks_are_read_without_a_policy_and_bring_no_text(library: Database) -> None:
    """They are matched and ranked; the texts of the hits are joined, and are below one."""
    async with library.transaction(A) as connection:
        words = await connection.execute(text("SELECT * FROM chunk_words"))
        assert set(words.keys()) == {"id", "ingestion_id", "tsv"}
        assert words.rowcount == 5
        found = text("SELECT text FROM chunk_words JOIN chunks USING (id) ORDER BY 1")
        assert list(await connection.scalars(found)) == ["1", "2", "4"]
        with pytest.raises(DBAPIError, match="permission denied for view chunk_words"):
            await connection.execute(text("DELETE FROM chunk_words"))


async def test_the_index_of_words_serves_a_bound_caller(library: Database) -> None:
    """Below a policy it does not: `@@` is not leakproof."""
    async with library.transaction(A) as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        for table, is_used in (("chunk_words", True), ("chunks", False)):
            found = text(f"EXPLAIN SELECT id FROM {table} WHERE tsv @@ CAST('text' AS tsquery)")
            plan = "\n".join(await connection.scalars(found))
            assert ("ix_chunks_tsv" in plan) == is_used, plan


@pytest.mark.parametrize("table", TABLES_OF_RUNS)
async def test_a_row_costs_the_same_however_many_collections_are_in_reach(
    library: Database, table: str
) -> None:
    """An array of them was looked through for each row: 15 ms for 2,659 rows of the last of 1,000."""
    async with library.transaction(A) as connection:
        plan = "\n".join(await connection.scalars(text(f"EXPLAIN SELECT ingestion_id FROM {table}")))
        assert re.search(r"collection_id.*hashed SubPlan", plan), plan


async def test_the_statement_of_a_list_is_the_same_however_many_collections_are_in_reach(
    library: Database,
) -> None:
    """To write one with 1,000 names took 11 ms."""
    statements = set()

    def note(*call: Any) -> None:
        statements.add(call[2])

    for reach, listed in ((A, 3), (Reach(("a_2",)), 1)):
        async with library.transaction(reach) as connection:
            engine = connection.sync_engine
            event.listen(engine, "before_cursor_execute", note)
            found = await list_documents(connection, DocumentFilter(), DocumentOrder(), None, 9, reach)
            event.remove(engine, "before_cursor_execute", note)
            assert len(found) == listed
    assert len([one for one in statements if "sort_key" in one]) == 1


async def test_what_is_out_of_reach_is_neither_changed_nor_made(library: Database) -> None:
    async with library.transaction(A) as connection:
        for statement in (
            "UPDATE documents SET title = 'mine'",
            *(f"DELETE FROM {table}" for table in TABLES_OF_RUNS),
            "DELETE FROM documents WHERE title = 'mine'",
        ):
            assert (await connection.execute(text(f"{statement} RETURNING 1"))).rowcount == 3
        await connection.rollback()
    for statement in (
        "UPDATE documents SET collection = 'b1'",
        "INSERT INTO documents (id, collection, latest_ingestion_id)"
        " SELECT gen_random_uuid(), 'b1', id FROM ingestions LIMIT 1",
        "INSERT INTO collections (id, name) VALUES (gen_random_uuid(), 'b2')",
        "INSERT INTO document_words (ingestion_id, lexeme, share, is_on_first_page)"
        " VALUES (md5('3')::uuid, 'mine', 1, false)",
        "UPDATE document_words SET collection_id = gen_random_uuid()",
    ):
        with pytest.raises(DBAPIError, match="row-level security"):
            async with library.transaction(A) as connection:
                await connection.execute(text(statement))
    assert await names(library, EVERYTHING) == " 1 2 3 4"


async def test_files_are_given_up_by_those_who_see_their_run(library: Database) -> None:
    give_up = text("INSERT INTO files_to_delete (storage_key) VALUES (:key) ON CONFLICT DO NOTHING")
    for key in ("3.pdf", "left.pdf", "nobodys.pdf"):
        with pytest.raises(DBAPIError, match="row-level security"):
            async with library.transaction(A) as connection:
                await connection.execute(give_up, {"key": key})
    async with library.transaction(A) as connection:
        await connection.execute(give_up, {"key": "1.pdf"})
        await connection.execute(text("UPDATE ingestions SET storage_key = NULL"))
        assert await connection.scalar(text("SELECT count(*) FROM files_to_delete")) == 0
        await connection.rollback()


async def test_the_role_reads_no_keys_webhooks_and_workers(library: Database) -> None:
    async with library.transaction() as connection:
        for table in [*Base.metadata.tables, "embeddings_1"]:
            may = await connection.scalar(
                text("SELECT has_any_column_privilege(:role, :table, 'SELECT, INSERT, UPDATE, REFERENCES')"),
                {"role": TENANT_ROLE, "table": table},
            )
            assert may == (table in TABLES_WITH_POLICY), table


async def test_a_connection_serves_one_after_the_other(library: Database) -> None:
    async def fail(reach: Reach) -> None:
        with pytest.raises(DBAPIError):
            async with library.transaction(reach) as connection:
                await connection.execute(text("SELECT 1 / 0"))

    async def leave(reach: Reach) -> None:
        async def ask() -> None:
            async with library.transaction(reach) as connection:
                await connection.execute(text("SELECT pg_sleep(60)"))

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.3)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    for end in (fail, leave, None):
        for reach, other in ((A, EVERYTHING), (EVERYTHING, A), (A, Reach(("b*",)))):
            if end is not None:
                await end(reach)
            seen = {EVERYTHING: " 1 2 3 4", A: "1 2 4"}.get(other, " 3")
            assert await names(library, other) == seen
    async with library.snapshot(A) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM documents")) == 3
    async with library.autocommit(A) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM documents")) == 3
    async with library.autocommit() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM documents")) == 4


async def test_what_is_asked_beyond_a_reach_ends_with_its_block(library: Database) -> None:
    count = text("SELECT count(*) FROM documents")
    async with library.transaction(A) as connection:
        async with beyond(connection, A):
            assert await connection.scalar(count) == 4
        assert await connection.scalar(count) == 3


async def test_documents_of_the_landed_version_are_kept_apart(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("tenants_landed")
    url = postgres.url("tenants_landed")
    await run_alembic(url, command.upgrade, LANDED)
    await run_sql(
        url,
        ROWS.replace("byte_size, queue)", "byte_size)").replace("1, queue", "1").replace("1, 'b1'\n", "1\n"),
        "INSERT INTO embedding_spaces (provider, model, dimensions, is_live)"
        " VALUES ('test', 'model', 8, true)",
        "CREATE TABLE embeddings_1 (chunk_id uuid, ingestion_id uuid, embedding halfvec(8))",
        STORED[0],
    )
    await run_alembic(url, command.upgrade, "head")
    database = Database(url)
    assert await open_space(database, SPACE) == 1
    assert await names(database, A) == "1 2 4"
    assert await names(database, EVERYTHING) == " 1 2 3 4"
    for reach, seen in ((A, "124"), (Reach(("b*",)), "3")):
        assert await names(database, reach, "chunks", "text") == " ".join(seen)
        vectors = await names(database, reach, "embeddings_1", "ingestion_id::text")
        assert vectors == " ".join(sorted(str(document(name)) for name in seen))
    await database.close()


async def test_a_document_that_was_moved_is_deleted_with_its_chunks(postgres: EmbeddedPostgres) -> None:
    url = await migrated_by_owner(postgres, f"moved_{uuid4().hex}")
    await run_sql(url, ROWS, "UPDATE documents SET live_ingestion_id = latest_ingestion_id")
    database = Database(url)
    space_id = await open_space(database, SPACE)
    async with database.transaction(A) as connection:
        await delete_documents(connection, space_id, [document("4")])
    assert await names(database, EVERYTHING, "chunks", "text") == " 1 2 3"
    await database.close()


@pytest.fixture(scope="module")
def another_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("another") / "postgres", is_durable=False) as server:
        yield server


@pytest.fixture
async def server(another_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """One without databases and without roles, which belong to a server and not to a database."""
    await drop_everything(another_server)
    return another_server


async def test_a_database_that_was_restored_without_the_role_is_mended(server: EmbeddedPostgres) -> None:
    """As pg_restore leaves it on a server that has no such role: it goes on after each GRANT that failed."""
    server.create_database("restored")
    url = server.url("restored")
    await run_alembic(url, command.upgrade, "head")
    database = Database(url)
    await open_space(database, SPACE)
    await run_sql(url, f"DROP OWNED BY {TENANT_ROLE}", f"DROP ROLE {TENANT_ROLE}", ROWS)
    with pytest.raises(TenantRoleMissing, match="pdf-ingest migrate"):
        await names(database, A)
    assert await names(database, EVERYTHING) == " 1 2 3 4"
    await run_sql(url, f"CREATE ROLE {TENANT_ROLE} NOLOGIN")  # as another database of the server has it
    with pytest.raises(TenantRoleMissing):
        await names(database, A)
    assert (await asyncio.to_thread(migrate, url)).returncode == 0
    assert await names(database, A) == "1 2 4"
    tables = [*RIGHTS, "embeddings_1"]
    async with database.transaction(A) as connection:
        for table in tables:
            await connection.execute(text(f"SELECT FROM {table} LIMIT 1"))
    await database.close()


async def test_rights_that_are_there_are_not_given_again(postgres: EmbeddedPostgres) -> None:
    """Who migrates may be another than who made the tables of vectors, and may give no rights on them."""
    url = await migrated_by_owner(postgres, f"rights_{uuid4().hex}")
    database = Database(url)
    given = ("pg_class WHERE relacl IS NOT NULL", "xmin::text || relname")
    before = await names(database, EVERYTHING, *given)
    await run_alembic(url, command.upgrade, "head")
    assert await names(database, EVERYTHING, *given) == before
    assert "chunk_words" in before
    await database.close()


def migrate(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.local.cli", "migrate"],
        cwd=PROJECT,
        env={"DATABASE_URL": url, "PATH": "", "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_who_may_not_make_the_role_is_told_what_an_administrator_has_to_run(
    server: EmbeddedPostgres,
) -> None:
    url = await owned(server, "plain")
    refused = await asyncio.to_thread(migrate, url)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stdout + refused.stderr
    statements = refused.stderr[refused.stderr.index("CREATE ROLE") :].strip()
    assert statements == f"CREATE ROLE {TENANT_ROLE} NOLOGIN; GRANT {TENANT_ROLE} TO plain;"
    await run_sql(server.url("plain"), *statements.rstrip(";").split(";"))
    assert (await asyncio.to_thread(migrate, url)).returncode == 0


async def test_who_may_make_roles_makes_it(server: EmbeddedPostgres) -> None:
    url = await owned(server, "owner")
    await run_sql(server.url("owner"), "ALTER ROLE owner CREATEROLE")
    assert (await asyncio.to_thread(migrate, url)).returncode == 0
    database = Database(url)
    assert await names(database, A) == ""
    await database.close()


async def test_several_databases_make_it_at_once(server: EmbeddedPostgres) -> None:
    for name in ("one", "two"):
        server.create_database(name)
    urls = [server.url(name) for name in ("one", "two")]
    all_at_once = await asyncio.gather(*(asyncio.to_thread(migrate, url) for url in urls))
    assert [finished.returncode for finished in all_at_once] == [0, 0], all_at_once
