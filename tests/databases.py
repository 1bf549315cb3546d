"""Databases of a test's own, beside the one that all tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from app.local.embedded import EmbeddedPostgres

PROJECT = Path(__file__).parent.parent


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
