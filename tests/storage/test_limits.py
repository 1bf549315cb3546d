"""Nothing asked of the database waits without a limit."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.errors import DatabaseUnavailable
from app.local.chaos.cable import Cable
from app.local.embedded import EmbeddedPostgres
from app.storage.database import A_PERSON_WAITS, WORK, Database, Limits
from tests.databases import migrated, run_sql

SHORT = Limits(
    statement_seconds=1,
    lock_seconds=0.3,
    idle_seconds=0.5,
    answer_seconds=1.5,
    connect_seconds=1.5,
    turn_seconds=6,
)
SOON = 8  # seconds in which what is limited to 1.5 has ended on a busy machine, too
SECONDS = "SELECT CAST(extract(epoch FROM CAST(current_setting(:name) AS interval)) AS float8)"
TIMES = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
async def short(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, limits=SHORT, pool_size=3)
    yield database
    await database.close()


async def ask(database: Database, statement: str = "SELECT 1") -> object:
    async with database.transaction() as connection:
        return await connection.scalar(text(statement))


async def look(database: Database, statement: str = "SELECT 1") -> object:
    """The same by the driver itself."""
    (row,) = await database.fetch(statement)
    return row[0]


either_way = pytest.mark.parametrize("ask", [ask, look])
Ask = Callable[..., Awaitable[object]]


@pytest.fixture
async def cable(postgres: EmbeddedPostgres) -> AsyncIterator[Cable]:
    async with Cable(postgres.port) as cable:
        yield cable


@pytest.fixture
async def far(database_url: str, postgres: EmbeddedPostgres, cable: Cable) -> AsyncIterator[Database]:
    """The same database at the other end of a cable."""
    url = database_url.replace(f":{postgres.port}/", f":{cable.port}/")
    database = Database(url, limits=SHORT, pool_size=3)
    yield database
    await database.close()


@either_way
async def test_a_statement_that_takes_too_long_is_ended_and_its_connection_serves_on(
    short: Database, ask: Ask
) -> None:
    session = await ask(short, "SELECT pg_backend_pid()")
    async with asyncio.timeout(SOON):
        with pytest.raises(DatabaseUnavailable):
            await ask(short, "SELECT pg_sleep(60)")
    assert await ask(short, "SELECT pg_backend_pid()") == session


@either_way
async def test_who_finds_all_connections_taken_is_told_that_and_not_of_a_silent_database(
    short: Database, ask: Ask
) -> None:
    async with AsyncExitStack() as taken, asyncio.timeout(SOON):
        for _ in range(3):
            await taken.enter_async_context(short.autocommit())
        with pytest.raises(DatabaseUnavailable, match="more to do at once"):
            await ask(short)
    assert await ask(short) == 1


async def test_what_comes_in_heaps_waits_in_turn_and_leaves_connections_to_others(short: Database) -> None:
    """10 at once, for longer together than one would wait for a connection."""

    async def slow(seconds: float) -> object:
        async with short.transaction_in_turn() as connection:
            return await connection.scalar(text("SELECT 1 FROM pg_sleep(:seconds)"), {"seconds": seconds})

    heap = asyncio.gather(*(slow(0.3) for _ in range(10)))
    for _ in range(10):
        assert await ask(short) == 1
    assert not heap.done()
    assert await heap == [1] * 10
    too_many = await asyncio.gather(*(slow(0.9) for _ in range(12)), return_exceptions=True)
    late = [one for one in too_many if isinstance(one, DatabaseUnavailable)]
    assert late
    assert all("more to do at once" in one.message for one in late)


async def test_a_connection_kept_for_the_next_look_is_free_again_when_none_comes(short: Database) -> None:
    session = await look(short, "SELECT pg_backend_pid()")
    assert short.connections_in_use == 1
    assert await look(short, "SELECT pg_backend_pid()") == session
    async with asyncio.timeout(SOON):
        while short.connections_in_use:  # noqa: ASYNC110 - of nobody who could tell
            await asyncio.sleep(0.05)


async def test_the_only_connection_is_kept_for_nobody(database_url: str) -> None:
    database = Database(database_url, limits=SHORT, pool_size=1)
    assert await look(database) == 1
    assert database.connections_in_use == 0
    await database.close()


async def test_a_kept_connection_that_has_ended_is_not_asked(short: Database, database: Database) -> None:
    session = await look(short, "SELECT pg_backend_pid()")
    await ask(database, f"SELECT pg_terminate_backend({session})")
    await asyncio.sleep(0.2)  # until this end of it has heard
    assert await look(short, "SELECT pg_backend_pid()") != session


async def test_a_lock_is_not_waited_for_for_ever(short: Database, database: Database) -> None:
    async with database.transaction() as holding, asyncio.timeout(SOON):
        await holding.execute(text("SELECT pg_advisory_xact_lock(4711)"))
        with pytest.raises(DatabaseUnavailable):
            await ask(short, "SELECT pg_advisory_xact_lock(4711)")


async def test_a_transaction_that_stands_still_loses_its_locks(short: Database, database: Database) -> None:
    async def stop_half_way() -> None:
        async with short.transaction() as stopped:
            await stopped.execute(text("SELECT pg_advisory_xact_lock(4712)"))
            async with asyncio.timeout(SOON):
                await ask(database, "SELECT pg_advisory_xact_lock(4712)")
            await stopped.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        await stop_half_way()


@either_way
async def test_a_database_cut_off_without_a_word_is_given_up(far: Database, cable: Cable, ask: Ask) -> None:
    await ask(far)
    cable.cut()
    for _ in range(2):  # on the old connection, and on a new one
        async with asyncio.timeout(SOON):
            with pytest.raises(DatabaseUnavailable):
                await ask(far)


@either_way
async def test_statements_in_flight_are_given_up_too(far: Database, cable: Cable, ask: Ask) -> None:
    flights = [asyncio.ensure_future(ask(far, "SELECT pg_sleep(0.9)")) for _ in range(3)]
    await asyncio.sleep(0.5)
    cable.cut()
    async with asyncio.timeout(SOON):
        ends = await asyncio.gather(*flights, return_exceptions=True)
    assert [type(end) for end in ends] == [DatabaseUnavailable] * 3


@either_way
async def test_after_a_failover_dead_connections_are_not_tried_one_after_the_other(
    far: Database, cable: Cable, ask: Ask
) -> None:
    async with far.transaction(), far.transaction(), far.transaction():
        pass  # three connections are open
    cable.cut()
    cable.mend()
    with pytest.raises(DatabaseUnavailable):
        await ask(far)
    began = time.monotonic()
    assert [await ask(far) for _ in range(3)] == [1, 1, 1]
    assert time.monotonic() - began < SHORT.answer_seconds


@either_way
async def test_who_is_cancelled_while_the_database_is_silent_is_free_soon(
    far: Database, cable: Cable, ask: Ask
) -> None:
    await ask(far)
    cable.cut()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask(far)
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("limits", [A_PERSON_WAITS, WORK])
@pytest.mark.parametrize("is_pgbouncer", [False, True])
async def test_a_transaction_has_the_limits_of_its_profile(
    database_url: str, limits: Limits, is_pgbouncer: bool
) -> None:
    database = Database(database_url, limits=limits, pool_size=1, is_pgbouncer=is_pgbouncer)
    async with database.transaction() as connection:
        found = [
            float(
                await connection.scalar(
                    text(f"SELECT extract(epoch FROM current_setting('{name}')::interval)")
                )
            )
            for name in TIMES
        ]
    assert found == [limits.statement_seconds, limits.lock_seconds, limits.idle_seconds]
    await database.close()


async def test_behind_pgbouncer_nothing_stays_with_the_session(database_url: str) -> None:
    database = Database(database_url, limits=SHORT, pool_size=1, is_pgbouncer=True)
    await ask(database)
    async with database._engine.connect() as connection:
        assert await connection.scalar(text("SHOW statement_timeout")) == "0"
    await database.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
async def test_both_ends_of_a_connection_notice_a_dead_peer(short: Database) -> None:
    assert await ask(short, "SHOW tcp_user_timeout") == "15000"
    assert await ask(short, "SHOW tcp_keepalives_idle") == "10"
    async with short.transaction() as connection:
        pooled = await connection.get_raw_connection()
        end = pooled.driver_connection._transport.get_extra_info("socket")
    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000


@either_way
async def test_a_password_or_a_name_that_holds_no_more_is_a_database_that_is_away(
    postgres: EmbeddedPostgres, database_url: str, ask: Ask
) -> None:
    for wrong in (database_url.replace(postgres.password, "old"), postgres.url("renamed")):
        database = Database(wrong, limits=SHORT)
        with pytest.raises(DatabaseUnavailable):
            await ask(database)
        await database.close()


async def test_a_connection_that_ends_while_it_is_set_up_is_a_database_that_is_away(
    postgres: EmbeddedPostgres,
) -> None:
    url = await migrated(postgres, "ends_in_set_up")
    await run_sql(url, "ALTER DATABASE ends_in_set_up SET idle_session_timeout = '1ms'")
    database = Database(url, limits=SHORT)
    found = await asyncio.gather(*(ask(database) for _ in range(30)), return_exceptions=True)
    assert {type(one) for one in found} <= {int, DatabaseUnavailable}
    assert any(isinstance(one, DatabaseUnavailable) for one in found)
    await database.close()


@either_way
async def test_a_database_whose_disk_is_full_says_so(database: Database, ask: Ask) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"^The disk of the database is full\.$"):
        await ask(database, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$")


async def test_a_parameter_that_cannot_be_sent_is_no_fault_of_the_database(database: Database) -> None:
    with pytest.raises(DBAPIError):
        async with database.transaction() as connection:
            await connection.execute(text("SELECT CAST(:number AS integer)"), {"number": 2**40})


async def test_a_server_that_takes_no_writes_is_left_for_one_that_does(postgres: EmbeddedPostgres) -> None:
    """As after a failover: what is opened anew, by a name or of several hosts, leads to another server."""
    url = await migrated(postgres, "read_only")
    await run_sql(url, "ALTER DATABASE read_only SET default_transaction_read_only = on")
    database = Database(url, limits=SHORT)
    async with database.transaction(), database.transaction():
        pass  # two connections are open
    other = url.replace("/read_only", "/postgres")
    await run_sql(other, "ALTER DATABASE read_only RESET default_transaction_read_only")
    with pytest.raises(DatabaseUnavailable, match="takes no writes"):
        await ask(database, "DELETE FROM outages RETURNING 1")
    async with database.transaction() as one, database.transaction() as two:
        for connection in (one, two):
            await connection.execute(text("DELETE FROM outages"))
    await database.close()
