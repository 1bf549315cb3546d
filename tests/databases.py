"""Databases of a test's own, beside the one that all tests share."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.local.embedded import EmbeddedPostgres
from app.storage.database import Database

PROJECT = Path(__file__).parent.parent


class CountingDatabase(Database):
    """A database that counts how often a connection of it is taken."""

    taken = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        self.taken += 1
        async with super().transaction() as connection:
            yield connection

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        self.taken += 1
        async with super().autocommit() as connection:
            yield connection


async def migrated(postgres: EmbeddedPostgres, name: str) -> str:
    """The URL of a new database with all migrations."""
    postgres.create_database(name)
    url = postgres.url(name)
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
