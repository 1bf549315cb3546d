"""The connection pool. Every statement of the service runs in a short transaction opened here.

Nothing waits for ever: a statement, a lock and an idle transaction are ended by the server, and a server that
does not answer (cut off, failed over without a word) is given up by us, with every connection to it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import asyncpg
import numpy as np
import structlog
from numpy.typing import NDArray
from pgvector import HalfVector
from sqlalchemy import ExceptionContext, PoolProxiedConnection, event, text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.util import greenlet_spawn

from app.errors import DatabaseUnavailable, TenantRoleMissing
from app.storage.reach import EVERYTHING, TENANT_ROLE, Reach

ALL_TAKEN = "The service has more to do at once than its connections to the database allow. Try again soon."

KEPT_SECONDS = 1.0
READ_ONLY = "25006"
# By SQLSTATE: what is more than that the database did not answer.
REASONS = {
    "53100": "The disk of the database is full.",
    READ_ONLY: "The database takes no writes at the moment.",
}

log = structlog.get_logger(__name__)

# The type of what `transaction()` yields, for services, which know no SQL library.
Connection = AsyncConnection

# A dead peer is noticed after 10 + 3 * 3 s of silence, and after 15 s when something was sent to it.
_KEEPALIVES = {"IDLE": 10, "INTERVAL": 3, "COUNT": 3}
_UNACKNOWLEDGED_SECONDS = 15


# A pooled server connection changes between transactions: nothing prepared may outlive one.
PGBOUNCER_ARGUMENTS: Mapping[str, Any] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__{uuid4()}__",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take, in seconds; the server ends a statement before we give up on the server."""

    statement_seconds: float
    lock_seconds: float
    idle_seconds: float = 10
    """Of an open transaction between two statements: its process is stopped or cut off."""
    answer_seconds: float
    connect_seconds: float
    """Also for a free connection of the pool."""
    turn_seconds: float = 25
    """Of `transaction_in_turn`: 200 uploads at once took 15 s on a busy machine, clients wait 30 to 60."""

    @property
    def of_server(self) -> dict[str, str]:
        """As Postgres names them."""
        return {
            "statement_timeout": _milliseconds(self.statement_seconds),
            "lock_timeout": _milliseconds(self.lock_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_seconds),
        }


_SET_LOCAL = text(
    "SELECT set_config(name, value, true)"
    " FROM unnest(CAST(:names AS text[]), CAST(:values AS text[])) AS setting (name, value)"
)
A_PERSON_WAITS = Limits(statement_seconds=8, lock_seconds=5, answer_seconds=10, connect_seconds=5)
WORK = Limits(statement_seconds=60, lock_seconds=30, answer_seconds=65, connect_seconds=10)


class Database:
    """An engine with pooled connections. It belongs to the event loop that first uses it."""

    def __init__(
        self, url: str, *, limits: Limits = WORK, pool_size: int = 10, is_pgbouncer: bool = False
    ) -> None:
        self._is_pgbouncer = is_pgbouncer
        self._limits = limits
        self._turns = asyncio.Semaphore(max(1, pool_size // 2))
        self._engine = create_async_engine(
            url,
            hide_parameters=True,  # they are the documents' text, and errors go to the log
            pool_size=pool_size,
            max_overflow=0,
            pool_recycle=1800,
            pool_timeout=limits.connect_seconds,
            connect_args={
                "timeout": limits.connect_seconds,
                "command_timeout": limits.answer_seconds,
                **(PGBOUNCER_ARGUMENTS if is_pgbouncer else {"server_settings": _session(limits)}),
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._repeatable_read = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        self._may_keep = pool_size > 1
        self._kept: PoolProxiedConnection | None = None
        self._giving_back: asyncio.TimerHandle | None = None
        event.listen(self._engine.sync_engine, "handle_error", self._give_up_useless)
        event.listen(self._engine.sync_engine, "connect", keep_alive)
        event.listen(self._engine.sync_engine, "connect", self._prepare)
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)

    @asynccontextmanager
    async def transaction(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end of the block, rolled back on an exception.

        In one of a bound reach Postgres itself shows and takes nothing outside of it. Raises
        DatabaseUnavailable when the server cannot be reached or goes away, and TenantRoleMissing.
        """
        with _unavailability(reach):
            async with self._engine.begin() as connection:
                await self._set_up(connection, reach)
                yield connection

    @asynccontextmanager
    async def transaction_in_turn(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        """As `transaction`, for what may come in heaps: it leaves half of the connections to all else.

        Raises DatabaseUnavailable for whoever has waited `turn_seconds` for a turn, too.
        """
        try:
            async with asyncio.timeout(self._limits.turn_seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(ALL_TAKEN) from error
        try:
            async with self.transaction(reach) as connection:
                yield connection
        finally:
            self._turns.release()

    @asynccontextmanager
    async def snapshot(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        """As `transaction`, for reading: all statements see the database as the first one saw it."""
        with _unavailability(reach):
            async with self._repeatable_read.begin() as connection:
                await self._set_up(connection, reach)
                yield connection

    @asynccontextmanager
    async def autocommit(self, reach: Reach = EVERYTHING) -> AsyncIterator[AsyncConnection]:
        """Each statement is a transaction of its own, so no pause of this process can hold a lock.

        Behind PgBouncer it is one transaction: what is prepared is known to one server connection only. So
        it is for a bound reach, which ends with its transaction.
        """
        if self._is_pgbouncer or reach.is_bound:
            async with self.transaction(reach) as connection:
                yield connection
            return
        with _unavailability():
            async with self._autocommit.connect() as connection:
                yield connection

    async def fetch(self, statement: str, *parameters: Any) -> Sequence[Any]:
        """The rows of one statement, which is its own transaction; its parameters are $1, $2 and so on.

        By the driver itself, for what is asked all the time: by SQLAlchemy it costs twice as much. Raises
        DatabaseUnavailable.
        """
        if self._is_pgbouncer:
            async with self.transaction() as connection:
                return (await connection.exec_driver_sql(statement, parameters)).all()
        with _unavailability():
            if (pooled := self._taken()) is None:
                pooled = await greenlet_spawn(self._engine.sync_engine.raw_connection)
            try:
                rows: Sequence[Any] = await pooled.driver_connection.fetch(  # type: ignore[union-attr]
                    statement, *parameters, record_class=_Row
                )
            except BaseException as error:
                if isinstance(error, TimeoutError):
                    self._terminate()
                if not isinstance(error, asyncpg.PostgresError):  # else the server's word: it is there
                    await greenlet_spawn(pooled.invalidate)
                pooled.close()
                raise
            self._keep(pooled)
            return rows

    @property
    def connections_in_use(self) -> int:
        return self._engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return]

    async def close(self) -> None:
        self._give_back()
        await self._engine.dispose()

    async def _set_up(self, connection: AsyncConnection, reach: Reach) -> None:
        """Until the transaction ends: behind PgBouncer the session's next one may be somebody else's."""
        settings = (self._limits.of_server if self._is_pgbouncer else {}) | reach.settings
        if settings:
            await _set_local(connection, settings)

    def _prepare(self, dbapi_connection: Any, _record: Any) -> None:
        """Send vectors as binary: the text form makes inserts 6 to 17 times slower.

        pgvector's type for SQLAlchemy sends that, so only its value is used, with a codec for it.
        """
        connection = dbapi_connection.driver_connection
        self._connections.add(connection)
        try:
            dbapi_connection.run_async(_set_halfvec_codec)
        except BaseException:
            connection.terminate()
            raise

    def _taken(self) -> PoolProxiedConnection | None:
        kept, self._kept = self._kept, None
        if kept is None or not kept.driver_connection.is_closed():  # type: ignore[union-attr]
            return kept
        kept.close()
        return None

    def _keep(self, pooled: PoolProxiedConnection) -> None:
        """For who asks next, a second at most: taking it from the pool costs as much as asking.

        One, and not where there is but one.
        """
        if self._kept is not None or not self._may_keep:
            pooled.close()
            return
        self._kept = pooled
        if self._giving_back is None:
            self._giving_back = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._give_back)

    def _give_back(self) -> None:
        if self._giving_back is not None:
            self._giving_back.cancel()
            self._giving_back = None
        if (kept := self._taken()) is not None:
            kept.close()

    def _give_up_useless(self, context: ExceptionContext) -> None:
        """What takes no writes has failed over, or is a standby: what is opened anew may lead elsewhere."""
        if _sqlstate(context.original_exception) == READ_ONLY:
            context.is_disconnect = True
        if isinstance(context.original_exception, TimeoutError) and context.connection is not None:
            context.is_disconnect = True
            self._terminate()

    def _terminate(self) -> None:
        """A server that has not even ended its statement in time will not be heard on other connections.

        Only terminating them is at once; each polite goodbye would take as long again.
        """
        for connection in self._connections:
            connection.terminate()


class _Row(asyncpg.Record):  # type: ignore[misc]
    """With its columns as attributes, as SQLAlchemy's rows have them."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def jsonb(value: object) -> str:
    """JSON for a parameter that is cast to jsonb.

    Not orjson's: that refuses whole numbers over 64 bits, which JSON and Postgres both take.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def halfvecs(vectors: NDArray[np.float32]) -> list[HalfVector]:
    """The rows of an `(n, dimensions)` array, for a halfvec[] parameter."""
    return [HalfVector(row) for row in vectors]


@asynccontextmanager
async def beyond(connection: AsyncConnection, reach: Reach) -> AsyncIterator[None]:
    """Within a transaction of this reach, what is about all there is: whoever uses it says why.

    After an exception the transaction can only end, and the role with it.
    """
    if not reach.is_bound:
        yield
        return
    await _set_local(connection, {"role": "none"})
    yield
    await _set_local(connection, {"role": TENANT_ROLE})


async def _set_local(connection: AsyncConnection, settings: dict[str, str]) -> None:
    await connection.execute(_SET_LOCAL, {"names": list(settings), "values": list(settings.values())})


# As they come while a connection is set up, or opened by `fetch`; of a statement SQLAlchemy turns all but
# InternalClientError into its own.
_OF_DRIVER = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    AsyncAdapt_asyncpg_dbapi.Error,
)


@contextmanager
def _unavailability(reach: Reach = EVERYTHING) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeout, *_OF_DRIVER, OSError) as error:
        if reach.is_bound and _is_role_missing(error):
            log.error(
                "migrate: the role of bound callers is missing", error=repr(getattr(error, "orig", error))
            )
            raise TenantRoleMissing from error
        if is_unavailable(error):
            log.warning("the database is not available", error=repr(getattr(error, "orig", error)))
            raise DatabaseUnavailable(_reason(error)) from error
        raise


def _is_role_missing(error: Exception) -> bool:
    """Whether it cannot be taken, or has no rights on a table.

    By the function of the server that says so: what a policy refuses, which is a fault of ours, has the same
    SQLSTATE.
    """
    met = getattr(getattr(error, "orig", error), "__cause__", None)
    source = getattr(met, "server_source_function", None)
    return source in {"call_string_check_hook", "aclcheck_error"}


def _reason(error: Exception) -> str | None:
    if isinstance(error, PoolTimeout):
        return ALL_TAKEN
    return REASONS.get(_sqlstate(getattr(error, "orig", error)) or "")


def is_unavailable(error: Exception) -> bool:
    """Whether the server, not the statement, is at fault.

    By the class of the SQLSTATE (PostgreSQL, appendix A): 08 connection, 25 idle transaction ended or no
    writes taken, 28 password, 3D name of the database, 40 rolled back by a deadlock, 53 resources, 55 not
    ready, 57 operator, 58 system. None: no server, unless the driver could not send a parameter.
    """
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    met = getattr(error, "orig", error)
    if isinstance(met.__cause__, asyncpg.DataError):
        return False
    sqlstate = _sqlstate(met)
    return sqlstate is None or sqlstate[:2] in {"08", "25", "28", "3D", "40", "53", "55", "57", "58"}


def _sqlstate(error: BaseException | None) -> str | None:
    return getattr(error, "sqlstate", None)


def _session(limits: Limits) -> dict[str, str]:
    """Settings of a session of our own. The server's end of it notices a dead peer as ours does."""
    return {
        **limits.of_server,
        **{f"tcp_keepalives_{name.lower()}": str(value) for name, value in _KEEPALIVES.items()},
        "tcp_user_timeout": _milliseconds(_UNACKNOWLEDGED_SECONDS),
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def keep_alive(dbapi_connection: Any, _record: Any) -> None:
    """Let the kernel notice a dead server; asyncpg has no option for it.

    A listener of an engine's `connect`. What a system does not know (TCP_USER_TIMEOUT: only Linux) is left.
    """
    end = dbapi_connection.driver_connection._transport.get_extra_info("socket")
    if end.family == socket.AF_UNIX:
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {
        "TCP_KEEPIDLE": _KEEPALIVES["IDLE"],
        "TCP_KEEPINTVL": _KEEPALIVES["INTERVAL"],
        "TCP_KEEPCNT": _KEEPALIVES["COUNT"],
        "TCP_USER_TIMEOUT": _UNACKNOWLEDGED_SECONDS * 1000,
    }
    for name, value in wanted.items():
        if (option := getattr(socket, name, None)) is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, value)


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
                "halfvec",
                schema=schema,
                encoder=HalfVector.to_binary,
                decoder=HalfVector.from_binary,
                format="binary",
            )
