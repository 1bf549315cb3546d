"""The embedded servers, as real processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey, ServerFailed
from app.storage.database import Database


async def fetch(server: EmbeddedPostgres, statement: str) -> object:
    connection = await asyncpg.connect(server.url("postgres").replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def kill(server: EmbeddedPostgres | EmbeddedValkey) -> None:
    """kill -9 the server alone; what it leaves behind stays as it is."""
    process = psutil.Process(server.pid)
    children = process.children(recursive=True)
    process.kill()
    psutil.wait_procs([process, *children], timeout=10)


async def test_the_database_is_migrated_and_has_pgvector(database: Database) -> None:
    async with database.transaction() as connection:
        vector = await connection.exec_driver_sql("SELECT '[1,2]'::halfvec(2)::text, count(*) FROM documents")
        assert vector.one()[0] == "[1,2]"


async def test_text_is_folded_alike_whatever_the_system_locale_is(postgres: EmbeddedPostgres) -> None:
    assert await fetch(postgres, "SELECT to_tsvector('ÉTÉ')::text || lower('ÀÉÖ')") == "'été':1àéö"


async def test_both_servers_answer_only_with_their_password(
    postgres: EmbeddedPostgres, broker_url: str
) -> None:
    with redis.Redis.from_url(broker_url) as client:
        assert client.ping()
    with (
        redis.Redis.from_url("redis://" + broker_url.split("@")[1]) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", password="guessed")


async def test_postgres_keeps_its_rows_through_a_kill_in_a_long_path_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces, far deeper than the 107 bytes of a socket's path" / "postgres"
    server = EmbeddedPostgres(folder)
    server.start()
    await fetch(server, "CREATE TABLE kept AS SELECT 7 AS seven")
    kill(server)
    with server:
        assert await fetch(server, "SELECT seven FROM kept") == 7


async def test_a_stale_pid_that_now_belongs_to_another_process_does_not_stop_postgres(
    tmp_path: Path, valkey: EmbeddedValkey
) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.prepare()
    pid_file = tmp_path / "postgres" / "cluster" / "postmaster.pid"
    pid_file.write_text(f"{valkey.pid}\n{pid_file.parent}\n1700000000\n{server.port}\n\n127.0.0.1\n\n")
    with server:
        assert await fetch(server, "SELECT 1") == 1


async def test_a_server_left_over_from_a_lost_parent_is_stopped_before_the_next_start(
    tmp_path: Path,
) -> None:
    left_over = EmbeddedPostgres(tmp_path / "postgres")
    left_over.start()
    process = psutil.Process(left_over.pid)
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        assert await fetch(server, "SELECT 1") == 1
    left_over.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_the_servers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent_code = """
import sys, time
from pathlib import Path
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
servers = EmbeddedPostgres(Path(sys.argv[1]) / "p"), EmbeddedValkey(Path(sys.argv[1]) / "v")
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", parent_code, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_valkey_keeps_its_messages_through_a_kill(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "with space" / "valkey")
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.rpush("queue", "message")
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
    kill(server)
    with server, redis.Redis.from_url(server.url) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_valkey_is_ready_where_localhost_is_an_ipv6_address_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo

    def of_another_machine(host: str, *arguments: int) -> list[tuple[object, ...]]:
        return resolve("::1" if host == "localhost" else host, *arguments)

    with EmbeddedValkey(tmp_path / "valkey", is_durable=False) as server:
        monkeypatch.setattr(socket, "getaddrinfo", of_another_machine)
        assert server.is_ready(server.pid)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "first") as first:
        second = EmbeddedValkey(tmp_path / "second", port=first.port)
        with pytest.raises(ServerFailed, match=r"valkey did not start(.|\n)*[Aa]ddress already in use"):
            second.start()


def test_the_passwords_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "valkey")
    with server:
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "valkey").iterdir()}
    assert modes["password"] == modes["valkey.conf"] == 0o600
    assert server.password not in " ".join(server.command)
