"""Runs the migrations over the async engine; `pdf-ingest migrate` hands in the URL."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection, event, pool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from app.errors import DatabaseUnavailable
from app.storage.database import PGBOUNCER_ARGUMENTS, is_unavailable, keep_alive
from app.storage.models import Base
from app.storage.readiness import is_ahead, is_behind
from app.storage.tenants import give_rights

LOCK = 0x4D69_6772  # any number, the same in every process
CONNECT_SECONDS = 10
# What waits for a lock makes everybody behind it wait, so it gives up and comes again: a backup may hold one.
LOCK_SECONDS = 4
# A deadlock and a lock that is not given. Migrations of several versions, which lock all tables, met three
# deadlocks in six seconds beside a busy service.
HELD = {"40P01", "55P03"}
PATIENCE_SECONDS = 60


def is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """Tables of vectors are made at start-up, one per embedding space, and belong to no migration."""
    return not (kind == "table" and (name or "").startswith("embeddings_"))


def migrate(connection: Connection) -> None:
    """Leaves a database of a newer version alone: it has all that this one needs.

    A database that is as it should be may have been restored without the role of tenants, or its rights.
    """
    context.configure(connection=connection, target_metadata=Base.metadata, include_name=is_ours)
    with context.begin_transaction():
        if is_ahead(revision := context.get_context().get_current_revision()):
            context.config.print_stdout(
                "The database is of a newer version (%s); nothing to migrate.", revision
            )
        else:
            context.run_migrations()
            if not is_behind(context.get_context().get_current_revision()):
                give_rights(connection)


def is_held(error: BaseException) -> bool:
    """Somebody else holds what we want, or we what the other wants. Nothing is changed yet: we come again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in HELD


@retry(
    retry=retry_if_exception(is_held),
    stop=stop_after_delay(PATIENCE_SECONDS),
    wait=wait_random(0.1, 1),
    reraise=True,
)
async def migrate_in_one_transaction(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL statement_timeout = 0"))  # a role's own is for queries
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
        await connection.run_sync(migrate)


async def migrate_async(url: str, *, is_pgbouncer: bool) -> None:
    """One at a time: the second of two that start together finds nothing left to do."""
    arguments = {"timeout": CONNECT_SECONDS, **(PGBOUNCER_ARGUMENTS if is_pgbouncer else {})}
    engine = create_async_engine(url, poolclass=pool.NullPool, connect_args=arguments)
    event.listen(engine.sync_engine, "connect", keep_alive)
    try:
        await migrate_in_one_transaction(engine)
    except DBAPIError as error:
        if is_held(error):
            raise DatabaseUnavailable(
                "for a minute others have held its tables, such as a backup (pg_stat_activity shows them); "
                "nothing was changed"
            ) from error
        if is_unavailable(error):
            raise DatabaseUnavailable(str(error.orig)) from error
        raise
    finally:
        await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    from app.config import settings_or_exit

    settings = settings_or_exit()
    asyncio.run(migrate_async(settings.database_url, is_pgbouncer=settings.database_pgbouncer))
