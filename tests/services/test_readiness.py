import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.embeddings.base import EmbeddingIdentity
from app.local.embedded import EmbeddedPostgres, free_port
from app.services.readiness import check_readiness
from app.storage.database import Database
from app.storage.readiness import is_behind
from app.storage.spaces import open_space
from tests.databases import migrated


async def broker_is_up() -> bool:
    return True


async def broker_is_down() -> bool:
    return False


async def broker_hangs() -> bool:
    await asyncio.sleep(60)
    return True


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = Database(await migrated(postgres, "readiness"))
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def space_id(database: Database) -> int:
    return await open_space(database, EmbeddingIdentity("local", "small", 4))


async def test_nothing_is_missing_when_all_is_in_order(database: Database, space_id: int) -> None:
    readiness = await check_readiness(database, space_id, broker_is_up)
    assert (readiness.faults, readiness.degraded) == ({}, [])


async def test_a_database_that_takes_no_writes_is_a_fault(database: Database, space_id: int) -> None:
    async def set_to(value: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(text("SET TRANSACTION READ WRITE"))
            await connection.execute(
                text(f"ALTER DATABASE readiness SET default_transaction_read_only = {value}")
            )
        await database.close()  # a session keeps what it began with

    await set_to("on")
    readiness = await check_readiness(database, space_id, broker_is_up)
    await set_to("off")
    assert "takes no writes" in readiness.faults["database"]
    assert (await check_readiness(database, space_id, broker_is_up)).faults == {}


async def test_without_a_broker_the_service_is_degraded_not_down(database: Database, space_id: int) -> None:
    readiness = await check_readiness(database, space_id, broker_is_down)
    assert (readiness.faults, readiness.degraded) == ({}, ["broker"])


async def test_work_that_no_worker_asks_for_is_told(database: Database, space_id: int) -> None:
    async def found(is_broker_up: Callable[[], Coroutine[Any, Any, bool]] = broker_is_up) -> list[str]:
        readiness = await check_readiness(database, space_id, is_broker_up)
        assert readiness.faults == {}
        assert [outage.service for outage in readiness.outages] == [
            service for service in readiness.degraded if service != "broker"
        ]
        return readiness.degraded

    async def do(statement: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(text(statement), {"id": uuid7()} if ":id" in statement else {})

    await do(
        "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, status, created_at)"
        " VALUES (:id, :id, 'a.pdf', '', 1, 'queued', now() - interval '20 seconds')"
    )
    assert await found() == [], "it has not waited for long"
    await do("UPDATE ingestions SET created_at = now() - interval '31 seconds'")
    assert await found() == ["workers"]
    assert await found(broker_is_down) == ["broker"], "nobody can tell workers of it"
    await do("INSERT INTO outages (service, reason, next_probe_at) VALUES ('embedder', 'no key', now())")
    assert await found() == ["embedder"], "workers begin nothing in an outage"
    await do("DELETE FROM outages")
    await do("INSERT INTO workers (holder, seen_at) VALUES ('one', now() - interval '20 seconds')")
    assert await found() == [], "one has asked for work"
    await do("UPDATE workers SET seen_at = now() - interval '31 seconds'")
    await do("UPDATE ingestions SET next_attempt_at = now() + interval '1 minute'")
    assert await found() == [], "it is tried again later"
    await do("UPDATE ingestions SET next_attempt_at = now() - interval '31 seconds'")
    assert await found() == ["workers"]
    await do(
        "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, status)"
        " VALUES (:id, :id, 'b.pdf', '', 1, 'processing')"
    )
    assert await found() == [], "one is at work"
    await do("DELETE FROM ingestions")


async def test_a_role_without_its_rights_is_told(database: Database, space_id: int) -> None:
    """As of a database that was restored, and not migrated."""

    async def do(statement: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(text(statement))

    await do("REVOKE SELECT ON documents FROM pdf_ingest_tenant")
    readiness = await check_readiness(database, space_id, broker_is_up)
    await do("GRANT SELECT ON documents TO pdf_ingest_tenant")
    assert (readiness.faults, readiness.degraded) == ({}, ["tenant_role"])
    assert "pdf-ingest migrate" in readiness.outages[0].reason
    assert (await check_readiness(database, space_id, broker_is_up)).degraded == []


async def test_a_broker_that_hangs_delays_the_answer_by_two_seconds_at_most(
    database: Database, space_id: int
) -> None:
    began = time.monotonic()
    readiness = await check_readiness(database, space_id, broker_hangs)
    assert time.monotonic() - began < 8
    assert (readiness.faults, readiness.degraded) == ({}, ["broker"])


async def test_a_database_that_cannot_be_reached_is_named() -> None:
    database = Database(f"postgresql+asyncpg://postgres@127.0.0.1:{free_port()}/nothing")
    readiness = await check_readiness(database, 1, broker_is_up)
    assert list(readiness.faults) == ["database"]
    await database.close()


async def test_a_database_that_hangs_delays_the_answer_by_two_seconds_at_most() -> None:
    hanging = asyncio.Event()

    async def never_answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hanging.wait()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql+asyncpg://postgres@127.0.0.1:{port}/nothing")
    began = time.monotonic()
    readiness = await check_readiness(database, 1, broker_is_up)
    assert time.monotonic() - began < 8
    assert list(readiness.faults) == ["database"]
    hanging.set()
    await database.close()
    server.close()


async def test_a_database_without_tables_is_not_migrated(postgres: EmbeddedPostgres) -> None:
    postgres.create_database("unmigrated")
    database = Database(postgres.url("unmigrated"))
    readiness = await check_readiness(database, 1, broker_is_up)
    assert list(readiness.faults) == ["migrations"]
    await database.close()


async def test_another_live_embedding_space_is_named(database: Database, space_id: int) -> None:
    readiness = await check_readiness(database, space_id + 1, broker_is_up)
    assert list(readiness.faults) == ["embedding_space"]


def test_every_migration_but_the_newest_is_behind() -> None:
    newest, *older = [script.revision for script in ScriptDirectory("alembic").walk_revisions()]
    assert len(older) > 10
    assert all(map(is_behind, older))
    assert not is_behind(newest)


def test_a_database_migrated_by_a_newer_version_is_in_order() -> None:
    assert not is_behind("29990101a")
    assert is_behind(None)
