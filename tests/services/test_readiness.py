import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from app.embeddings.base import EmbeddingIdentity
from app.local.embedded import EmbeddedPostgres, free_port
from app.services.readiness import check_readiness
from app.storage.database import Database
from app.storage.models import Base
from app.storage.readiness import is_behind, newest_revision
from app.storage.spaces import open_space


async def broker_is_up() -> bool:
    return True


async def broker_is_down() -> bool:
    return False


async def broker_hangs() -> bool:
    await asyncio.sleep(60)
    return True


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    postgres.create_database("readiness")
    database = Database(postgres.url("readiness"))
    async with database.transaction() as connection:
        await connection.execute(text("CREATE EXTENSION vector"))
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        await connection.execute(
            text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": newest_revision()}
        )
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def space_id(database: Database) -> int:
    return await open_space(database, EmbeddingIdentity("local", "small", 4))


async def test_nothing_is_missing_when_all_is_in_order(database: Database, space_id: int) -> None:
    readiness = await check_readiness(database, space_id, broker_is_up)
    assert (readiness.faults, readiness.degraded) == ({}, [])


async def test_without_a_broker_the_service_is_degraded_not_down(database: Database, space_id: int) -> None:
    readiness = await check_readiness(database, space_id, broker_is_down)
    assert (readiness.faults, readiness.degraded) == ({}, ["broker"])


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


def test_a_database_migrated_by_a_newer_version_is_in_order() -> None:
    assert not is_behind("29990101a")
    assert not is_behind(newest_revision())
    assert is_behind(None)
