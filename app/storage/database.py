"""The connection pool. Every statement of the service runs in a short transaction opened here."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

Connection = AsyncConnection
"""The type of what `transaction()` yields, for services, which know no SQL library."""


class Database:
    """An engine with pooled connections. It belongs to the event loop that first uses it."""

    def __init__(self, url: str, *, pool_size: int = 10, is_pgbouncer: bool = False) -> None:
        self._is_pgbouncer = is_pgbouncer
        self._engine = create_async_engine(
            url,
            hide_parameters=True,  # they are the documents' text, and errors go to the log
            pool_size=pool_size,
            max_overflow=0,
            pool_recycle=1800,
            connect_args=_pgbouncer_arguments() if is_pgbouncer else {"timeout": 10},
        )
        event.listen(self._engine.sync_engine, "connect", _register_halfvec)
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back on an exception.

        Raises DatabaseUnavailable when the server cannot be reached or goes away.
        """
        with _unavailability():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A transaction for reading, in which all statements see the database as the first one saw it."""
        with _unavailability():
            async with self._engine.connect() as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ")
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        """Each statement is a transaction of its own, so no pause of this process can hold a lock.

        Behind PgBouncer it is one transaction: what is prepared is known to one server connection only.
        """
        if self._is_pgbouncer:
            async with self.transaction() as connection:
                yield connection
            return
        with _unavailability():
            async with self._engine.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def connections_in_use(self) -> int:
        return self._engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return]

    async def close(self) -> None:
        await self._engine.dispose()


def halfvecs(vectors: NDArray[np.float32]) -> list[bytes]:
    """The rows of an `(n, dimensions)` array in pgvector's binary format, for a halfvec[] parameter.

    Format (pgvector, halfvec_send): int16 dimensions, int16 zero, then big-endian float16 values.
    """
    count, dimensions = vectors.shape
    rows = np.empty((count, dimensions + 2), dtype=">u2")
    rows[:, 0] = dimensions
    rows[:, 1] = 0
    rows[:, 2:] = vectors.astype(">f2").view(">u2")
    return [row.tobytes() for row in rows]


@contextmanager
def _unavailability() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout, asyncpg.PostgresError, OSError) as error:
        if is_unavailable(error):
            log.warning("the database is not available", error=str(getattr(error, "orig", error)))
            raise DatabaseUnavailable from error
        raise


def is_unavailable(error: Exception) -> bool:
    """Whether the server, not the statement, is at fault.

    By the class of the SQLSTATE (PostgreSQL, appendix A): 08 connection, 25 idle transaction ended,
    40 rolled back by a deadlock, 53 resources, 55 not ready, 57 operator, 58 system. None: no server.
    """
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return sqlstate is None or sqlstate[:2] in {"08", "25", "40", "53", "55", "57", "58"}


def _pgbouncer_arguments() -> dict[str, Any]:
    """A pooled server connection changes between transactions: nothing prepared may outlive one."""
    return {
        "timeout": 10,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__{uuid4()}__",
    }


def _register_halfvec(dbapi_connection: Any, _record: Any) -> None:
    """Send vectors as binary: the text form makes inserts 6 to 17 times slower."""
    dbapi_connection.run_async(_set_halfvec_codec)


def _refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """After a restart of the server take a new connection. Free, where a ping costs three round trips."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


async def _set_halfvec_codec(connection: asyncpg.Connection) -> None:
    async with connection.transaction():  # behind PgBouncer it keeps the server connection
        schema = await connection.fetchval(
            "SELECT typnamespace::regnamespace::text FROM pg_type WHERE typname = 'halfvec'"
        )
        if schema is not None:  # before the first migration there is no such type
            await connection.set_type_codec(
                "halfvec", schema=schema, encoder=lambda row: row, decoder=lambda row: row, format="binary"
            )
