"""Databases of a test's own, beside the one that all tests share."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakSet

from alembic import command
from alembic.config import Config
from redis import Redis
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage.database import Database
from app.storage.reach import EVERYTHING, TENANT_ROLE, Reach

PROJECT = Path(__file__).parent.parent

_with_template: WeakSet[EmbeddedPostgres] = WeakSet()


class CountingDatabase(Database):
    """A database that counts how often a connection of it is taken, and notes what is fetched."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.taken = 0
        self.fetched: list[str] = []

    @asynccontextmanager
    async def transaction(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        self.taken += 1
        async with super().transaction(reach) as connection:
            yield connection

    @asynccontextmanager
    async def autocommit(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        self.taken += 1
        async with super().autocommit(reach) as connection:
            yield connection

    async def fetch(self, statement: str, *parameters: Any) -> Sequence[Any]:
        self.taken += 1
        self.fetched.append(statement)
        return await super().fetch(statement, *parameters)


async def migrated(postgres: EmbeddedPostgres, name: str) -> str:
    """The URL of a new database with all migrations: a copy of one, since running them takes a second."""
    if postgres not in _with_template:
        postgres.create_database("migrated")
        await run_alembic(postgres.url("migrated"), command.upgrade, "head")
        _with_template.add(postgres)
    engine = create_async_engine(postgres.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE migrated'))
    await engine.dispose()
    return postgres.url(name)


@asynccontextmanager
async def new_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A migrated database of a test's own, open."""
    database = Database(await migrated(postgres, f"own_{uuid4().hex}"))
    yield database
    await database.close()


async def owned(postgres: EmbeddedPostgres, name: str) -> str:
    """The URL of a new, empty database, for a user who owns it and may do nothing else on the server."""
    postgres.create_database(name)
    await run_sql(
        postgres.url(name),
        f"CREATE ROLE {name} LOGIN PASSWORD '{name}'",
        f"ALTER DATABASE {name} OWNER TO {name}",
        "CREATE EXTENSION vector",
    )
    return f"postgresql+asyncpg://{name}:{name}@127.0.0.1:{postgres.port}/{name}"


async def run_sql(url: str, *statements: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def drop_everything(postgres: EmbeddedPostgres) -> None:
    """All databases and roles of a server but those it came with."""
    engine = create_async_engine(postgres.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for found in (
            "SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database"
            " WHERE datname <> 'postgres' AND NOT datistemplate",
            "SELECT format('DROP ROLE %I', rolname) FROM pg_roles"
            " WHERE rolname <> 'postgres' AND rolname !~ '^pg_'",
        ):
            for statement in (await connection.execute(text(found))).scalars().all():
                await connection.execute(text(statement))
    await engine.dispose()


async def migrated_by_owner(postgres: EmbeddedPostgres, name: str) -> str:
    """As `migrated`, with its URL for a user who owns it and is no superuser, as in production."""
    await migrated(postgres, f"{name}_first")  # makes the role, which belongs to all databases
    url = await owned(postgres, name)
    await run_sql(postgres.url(name), f"GRANT {TENANT_ROLE} TO {name}")
    await run_alembic(url, command.upgrade, "head")
    return url


async def run_alembic(url: str, action: Callable[..., Any], *arguments: str) -> None:
    """An alembic command in one transaction, with the project's own env.py."""

    def run(connection: Connection) -> None:
        config = Config(PROJECT / "alembic.ini")
        config.attributes["connection"] = connection
        action(config, *arguments)

    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def empty_broker(valkey: EmbeddedValkey, number: int) -> str:
    """The URL of one of its 16 databases, without the messages that other tests have left."""
    url = valkey.url.removesuffix("/0") + f"/{number}"
    with Redis.from_url(url) as broker:
        broker.flushdb()
    return url
