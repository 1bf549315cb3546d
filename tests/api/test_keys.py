"""Keys of the database, on a service that begins without any: made, used, listed, revoked."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from app.config import Settings
from app.local.embedded import EmbeddedPostgres
from app.main import create_app
from tests.api.conftest import ROOT, Served, bearer, made
from tests.api.contract import Contract
from tests.api.test_uploads import BOUNDARY, END, part
from tests.databases import migrated
from tests.processes import PROJECT
from tests.services.workshop import pdf
from tests.test_migrations import execute

LET_EXPIRE = "UPDATE api_keys SET expires_at = now()"
PDF = b"%PDF-1.4 never read by anybody "


async def until_unauthorized(client: httpx.AsyncClient, **headers: str) -> None:
    """Keys are read again once a second, by a process that has time for it."""
    async with asyncio.timeout(30):
        while (await client.get("/documents", headers=headers)).status_code != 401:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def code_of(client: httpx.AsyncClient, key: str, method: str = "GET", path: str = "/documents") -> str:
    answer = await client.request(method, path, headers=bearer(key))
    return str(answer.json().get("code", answer.status_code))


async def test_a_key_opens_at_once_and_its_secret_is_shown_once(
    root: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    key = await made(root, name="reporter", collections=["reports*"])
    assert re.fullmatch(r"pdfi_[0-9a-f]{12}_[\w-]{43}", key["secret"])
    assert key["secret"].startswith(key["prefix"])
    assert await code_of(stranger, key["secret"]) == "200"
    listed = (await root.get("/keys")).json()["data"][0]
    assert listed | {"secret": key["secret"]} == key | {"last_used_at": listed["last_used_at"]}
    assert key["secret"] not in (await root.get("/keys")).text


async def test_of_a_secret_the_database_has_only_a_hash(
    root: httpx.AsyncClient, locked_settings: Settings
) -> None:
    key = await made(root)
    rows = await execute(locked_settings.database_url, "SELECT api_keys::text FROM api_keys")
    assert any(key["prefix"] in str(row) for row in rows)
    assert key["secret"].removeprefix(key["prefix"]) not in str(rows)


@pytest.mark.parametrize(
    "change", ["a wrong end", "no end", "another's beginning", "the prefix", "other case"]
)
async def test_what_is_not_the_whole_key_opens_nothing(
    root: httpx.AsyncClient, stranger: httpx.AsyncClient, change: str
) -> None:
    key, other = await made(root), await made(root)
    last = "A" if key["secret"][-1] != "A" else "B"
    wrong = {
        "a wrong end": key["secret"][:-1] + last,
        "no end": key["secret"][:-1],
        "another's beginning": other["prefix"] + key["secret"].removeprefix(key["prefix"]),
        "the prefix": key["prefix"],
        "other case": key["secret"].swapcase(),
    }[change]
    answer = await stranger.get("/documents", headers=bearer(wrong))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert await code_of(stranger, key["secret"]) == "200"


async def test_an_expired_key_opens_nothing(
    root: httpx.AsyncClient, stranger: httpx.AsyncClient, locked_settings: Settings
) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    key = await made(root, expires_at=expires_at.isoformat())
    assert await code_of(stranger, key["secret"]) == "200"
    await execute(locked_settings.database_url, f"{LET_EXPIRE} WHERE id = '{key['id']}'")
    await until_unauthorized(stranger, **bearer(key["secret"]))


async def test_a_revoked_key_opens_nothing_in_this_process_at_once_and_in_others_2_seconds_later(
    root: httpx.AsyncClient, locked_settings: Settings, stranger: httpx.AsyncClient, serve: Any
) -> None:
    key = await made(root)
    async with (
        serve(create_app(locked_settings)) as other,
        httpx.AsyncClient(base_url=other.url, timeout=30) as elsewhere,
    ):
        for _ in range(30):  # a busy process, that has read the keys and goes on to use them
            assert await code_of(elsewhere, key["secret"]) == "200"
        assert (await root.delete(f"/keys/{key['id']}")).status_code == 204
        assert await code_of(stranger, key["secret"]) == "unauthorized"
        await until_unauthorized(elsewhere, **bearer(key["secret"]))
    assert (await root.delete(f"/keys/{key['id']}")).json()["code"] == "key_not_found"
    listed = {one["id"]: one for one in (await root.get("/keys?limit=500")).json()["data"]}
    assert listed[key["id"]]["revoked_at"] is not None


async def test_an_upload_ends_with_its_key(root: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    key = await made(root, scopes=["write"])
    begun, content = asyncio.Event(), pdf()

    async def body() -> AsyncIterator[bytes]:
        yield part("file", content, "slow.pdf").removesuffix(b"\r\n")
        begun.set()
        for _ in range(100):
            await asyncio.sleep(0.1)
            yield b"%" * 10_000
        yield b"\r\n" + END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    uploading = asyncio.create_task(
        stranger.post("/documents", content=body(), headers=headers | bearer(key["secret"]))
    )
    await begun.wait()
    await root.delete(f"/keys/{key['id']}")
    answer = await uploading
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    found = await root.get("/documents", params={"filename": "slow.pdf"})
    assert found.json()["data"] == []


async def test_two_keys_of_a_name_make_rotation_and_a_third_is_refused(root: httpx.AsyncClient) -> None:
    name = uuid4().hex
    first, _ = await made(root, name=name), await made(root, name=name)
    third = await root.post("/keys", json={"name": name, "scopes": ["read"]})
    assert (third.status_code, third.json()["code"]) == (409, "key_name_taken")
    await root.delete(f"/keys/{first['id']}")
    await made(root, name=name)


async def test_of_many_made_at_one_moment_two_get_the_name(root: httpx.AsyncClient) -> None:
    body = {"name": uuid4().hex, "scopes": ["read"]}
    answers = await asyncio.gather(*(root.post("/keys", json=body) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 409, 409, 409, 409]


async def test_a_name_of_the_environment_is_taken(root: httpx.AsyncClient) -> None:
    answer = await root.post("/keys", json={"name": "root", "scopes": ["read"]})
    assert answer.json()["code"] == "key_name_taken"


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a b", "scopes": ["read"]},
        {"name": "a", "scopes": []},
        {"name": "a", "scopes": ["root"]},
        {"name": "a", "scopes": ["read"], "collections": []},
        {"name": "a", "scopes": ["admin"], "collections": ["a"]},
        {"name": "a", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "a", "scopes": ["read"], "expires_at": "2999-01-01T00:00:00"},
        {"name": "a", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-12:00"},
        {"name": "a", "scopes": ["read"], "secret": "mine"},
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(root: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await root.post("/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("scopes", "opened"),
    [
        (["read"], {"GET /documents", "POST /search"}),
        (["write"], {"POST /documents/retry", "DELETE /documents/1"}),
        (
            ["read", "write"],
            {"GET /documents", "POST /search", "POST /documents/retry", "DELETE /documents/1"},
        ),
        (
            ["admin"],
            {
                *("GET /documents", "POST /search", "POST /documents/retry", "DELETE /documents/1"),
                *("GET /keys", "POST /keys", "GET /stats"),
            },
        ),
    ],
)
async def test_a_key_opens_what_its_scopes_say(
    root: httpx.AsyncClient, stranger: httpx.AsyncClient, scopes: list[str], opened: set[str]
) -> None:
    key = await made(root, scopes=scopes)
    all_of_them = ["GET /documents", "POST /search", "POST /documents/retry", "DELETE /documents/1"]
    for one in [*all_of_them, "GET /keys", "POST /keys", "GET /stats"]:
        method, path = one.split()
        answer = await stranger.request(method, path, headers=bearer(key["secret"]))
        if one in opened:
            assert answer.status_code not in {401, 403}, one
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), one
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


async def test_when_a_key_was_used_last_is_noted_once_a_minute(
    root: httpx.AsyncClient, stranger: httpx.AsyncClient, locked_settings: Settings
) -> None:
    key = await made(root)

    async def last_used() -> object:
        ((used,),) = await execute(
            locked_settings.database_url, f"SELECT last_used_at FROM api_keys WHERE id = '{key['id']}'"
        )
        return used

    assert await last_used() is None
    await code_of(stranger, key["secret"])
    async with asyncio.timeout(30):
        while (first := await last_used()) is None:  # noqa: ASYNC110 - Postgres tells nobody
            await asyncio.sleep(0.05)
    for _ in range(4):
        await asyncio.sleep(0.6)
        await code_of(stranger, key["secret"])
    assert await last_used() == first


async def pdf_ingest_keys(url: str, key: str, *arguments: str) -> tuple[int | None, str, str]:
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.local.cli", "keys", *arguments),
        cwd=PROJECT,
        env=os.environ | {"PDF_INGEST_URL": url, "PDF_INGEST_API_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, told = await command.communicate()
    return command.returncode, output.decode(), told.decode()


async def test_the_command_line_makes_lists_and_revokes_keys(
    locked: Served, root: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    options = ("--scopes", "read", "--collections", "reports*, letters", "--expires", "90d")
    name = uuid4().hex
    code, output, told = await pdf_ingest_keys(locked.url, ROOT, "create", name, *options)
    assert code == 0, told
    secret = output.strip()
    assert await code_of(stranger, secret) == "200"
    (key,) = [one for one in (await root.get("/keys?limit=500")).json()["data"] if one["name"] == name]
    assert (key["scopes"], key["collections"]) == (["read"], ["reports*", "letters"])
    assert timedelta(days=89) < datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert f"\n{key['id']}\t{name}\t{key['prefix']}\tread\treports*, letters\t" in (
        "\n" + (await pdf_ingest_keys(locked.url, ROOT, "list"))[1]
    )
    assert (await pdf_ingest_keys(locked.url, ROOT, "revoke", key["id"]))[0] == 0
    assert await code_of(stranger, secret) == "unauthorized"
    code, _, told = await pdf_ingest_keys(locked.url, ROOT, "create", "a", "--expires", "soon")
    assert (code, "as 90d, 12h or 30m" in " ".join(told.split())) == (2, True), told


async def test_the_list_has_pages(root: httpx.AsyncClient) -> None:
    for _ in range(3):
        await made(root)
    first = (await root.get("/keys?limit=2")).json()
    second = (await root.get(f"/keys?limit=2&after={first['next']}")).json()
    ids = [key["id"] for key in first["data"] + second["data"]]
    assert len(set(ids)) == 4
    assert ids == sorted(ids, reverse=True)


async def test_the_first_key_must_be_for_an_administrator_and_closes_the_service_for_ever(
    settings: Settings, postgres: EmbeddedPostgres, serve: Any
) -> None:
    url = await migrated(postgres, f"keys_{uuid4().hex}")
    fresh = settings.model_copy(update={"database_url": url})
    async with AsyncExitStack() as closing:
        here, there = [await closing.enter_async_context(serve(create_app(fresh))) for _ in range(2)]
        check = {"response": [Contract(here.app.openapi()).check]}
        anybody, elsewhere = [
            await closing.enter_async_context(
                httpx.AsyncClient(base_url=one.url, timeout=30, event_hooks=check)
            )
            for one in (here, there)
        ]
        for client in (anybody, elsewhere):
            assert (await client.get("/documents")).status_code == 200
        refused = await anybody.post("/keys", json={"name": "a", "scopes": ["read", "write"]})
        assert (refused.status_code, refused.json()["code"]) == (409, "admin_key_first")
        assert (await anybody.get("/documents")).status_code == 200
        key = await made(anybody, scopes=["admin"])
        assert (await anybody.get("/documents")).json()["code"] == "unauthorized"
        await until_unauthorized(elsewhere)
        assert await code_of(elsewhere, key["secret"]) == "200"
        assert (await anybody.delete(f"/keys/{key['id']}", headers=bearer(key["secret"]))).status_code == 204
        assert (await anybody.get("/documents")).json()["code"] == "unauthorized"
        assert (await anybody.get("/livez")).status_code == 200
    async with serve(create_app(fresh)) as again, httpx.AsyncClient(base_url=again.url) as client:
        assert (await client.get("/documents")).json()["code"] == "unauthorized"


async def test_without_a_database_nobody_is_let_in_but_holders_of_keys_of_the_environment(
    settings: Settings, postgres: EmbeddedPostgres, serve: Any
) -> None:
    name = f"keys_{uuid4().hex}"
    url = await migrated(postgres, name)
    with_root = settings.model_copy(update={"database_url": url, "api_keys": SecretStr(f"root:{ROOT}")})
    async with (
        serve(create_app(with_root)) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
        httpx.AsyncClient(base_url=served.url, headers=bearer(ROOT)) as administrator,
    ):
        key = await made(administrator)
        assert await code_of(client, key["secret"]) == "200"
        admin = postgres.url("postgres")
        await execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await execute(
            admin, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        await asyncio.sleep(2)
        for wrong in (key["secret"], "nobody's"):
            async with asyncio.timeout(12):
                answer = await client.get("/openapi.json/none", headers=bearer(wrong))
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_failed")
        assert await code_of(client, ROOT, path="/none") == "not_found"
        assert (await client.get("/livez")).status_code == 200
        await execute(admin, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        async with asyncio.timeout(20):
            while await code_of(client, key["secret"]) != "200":  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.2)
