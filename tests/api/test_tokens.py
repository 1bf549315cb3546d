"""Tokens: a part of a key, for a while, in a header or in a link."""

import asyncio
import logging
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from app.config import Settings
from app.local.embedded import EmbeddedPostgres
from app.main import create_app
from app.services.tokens import Claims, Signer
from tests.api.conftest import ROOT, Served, bearer, made
from tests.databases import migrated

PDF = b"%PDF-1.4 never read by stranger "


async def token_of(client: httpx.AsyncClient, key: str, **wanted: Any) -> str:
    answer = await client.post("/keys/tokens", json=wanted, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


async def code_of(
    client: httpx.AsyncClient, token: str, method: str = "GET", path: str = "/documents"
) -> str:
    answer = await client.request(method, path, headers=bearer(token))
    return str(answer.json().get("code", answer.status_code))


async def upload(root: httpx.AsyncClient, collection: str) -> str:
    form = {"files": {"file": ("a.pdf", PDF + uuid4().bytes)}, "data": {"collection": collection}}
    return str((await root.post("/documents", **form)).json()["document_id"])  # type: ignore[arg-type]


async def test_a_token_opens_what_its_key_does_until_it_ends(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    key = await made(root)
    token = await token_of(stranger, key["secret"], expires_in=600)
    assert await code_of(stranger, token) == "200"
    assert await code_of(stranger, token, "POST", "/documents/retry") == "scope_missing"
    short = await token_of(stranger, key["secret"], expires_in=1)
    await asyncio.sleep(1.1)
    assert await code_of(stranger, short) == "unauthorized"
    assert await code_of(stranger, token) == "200"


async def test_a_token_is_never_broader_than_its_key(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    key = await made(root, scopes=["read"], collections=["reports*"])
    for wanted, status, code in (
        ({"scopes": ["write"]}, 403, "scope_missing"),
        ({"scopes": ["admin"]}, 422, "invalid_request"),
        ({"collections": ["*"]}, 404, "collection_not_found"),
        ({"collections": ["reports", "letters"]}, 404, "collection_not_found"),
        ({"expires_in": 86_401}, 422, "invalid_request"),
        ({"expires_in": True}, 422, "invalid_request"),
        ({"document_ids": [str(uuid4())], "scopes": ["read", "write"]}, 422, "invalid_request"),
        (
            {"collections": [f"reports-{letter * 190}" for letter in "abcdefghijklmnopqrst"]},
            422,
            "token_too_long",
        ),
    ):
        answer = await stranger.post("/keys/tokens", json=wanted, headers=bearer(key["secret"]))
        assert (answer.status_code, answer.json()["code"]) == (status, code), wanted
    here, there = await upload(root, "reports-2026"), await upload(root, "letters")
    token = await token_of(stranger, key["secret"])
    assert await code_of(stranger, token, path=f"/documents/{here}") == "200"
    assert await code_of(stranger, token, path=f"/documents/{there}") == "document_not_found"


async def test_a_token_can_be_narrower_than_its_key(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    here, beside, there = [await upload(root, name) for name in ("letters", "letters", "reports")]
    of_letters = await token_of(stranger, ROOT, collections=["letter*"], scopes=["read", "write"])
    assert await code_of(stranger, of_letters, path=f"/documents/{beside}") == "200"
    assert await code_of(stranger, of_letters, path=f"/documents/{there}") == "document_not_found"
    of_one = await token_of(stranger, ROOT, document_ids=[here])
    assert await code_of(stranger, of_one, path=f"/documents/{here}") == "200"
    assert await code_of(stranger, of_one, path=f"/documents/{beside}") == "document_not_found"
    listed = await stranger.get("/documents", headers=bearer(of_one))
    assert [one["document_id"] for one in listed.json()["data"]] == [here]
    tasks = await stranger.get("/tasks", headers=bearer(of_one))
    assert [one["document_id"] for one in tasks.json()["data"]] == [here]


async def test_a_token_tells_what_was_asked_for_where_it_opens_all_and_nowhere_else(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    here, _ = await upload(root, "letters used"), await upload(root, "reports used")
    for wanted, named in (
        ({"document_ids": [here]}, set()),
        ({"document_ids": [here], "collections": ["letters*"]}, set()),
        ({"collections": ["letters used"]}, {"letters used"}),
    ):
        token = await token_of(stranger, ROOT, **wanted)
        used = await stranger.get("/usage", headers=bearer(token))
        assert {one["collection"] for one in used.json()["data"]} == named, wanted
    everything = await stranger.get("/usage", headers=bearer(await token_of(stranger, ROOT)))
    assert {"letters used", "reports used"} <= {one["collection"] for one in everything.json()["data"]}


async def test_a_token_ends_with_its_key(stranger: httpx.AsyncClient, root: httpx.AsyncClient) -> None:
    key = await made(root)
    token = await token_of(stranger, key["secret"])
    assert await code_of(stranger, token) == "200"
    await root.delete(f"/keys/{key['id']}")
    assert await code_of(stranger, token) == "unauthorized"


async def test_a_token_of_the_environment_ends_when_its_key_is_changed(
    locked_settings: Settings, stranger: httpx.AsyncClient, serve: Any
) -> None:
    token = await token_of(stranger, ROOT)
    assert await code_of(stranger, token) == "200"
    changed = locked_settings.model_copy(update={"api_keys": SecretStr("root:another")})
    async with serve(create_app(changed)) as other, httpx.AsyncClient(base_url=other.url) as client:
        assert await code_of(client, token) == "unauthorized"


@pytest.mark.parametrize(
    "change", ["payload", "signature", "no signature", "another secret", "nothing", "odd"]
)
async def test_what_was_not_signed_here_opens_nothing(stranger: httpx.AsyncClient, change: str) -> None:
    token = await token_of(stranger, ROOT)
    payload, _, signature = token.partition(".")
    elsewhere = Signer(SecretStr(Fernet.generate_key().decode()))
    wrong = {
        "payload": f"{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{signature}",
        "signature": f"{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        "no signature": f"{payload}.",
        "another secret": elsewhere.token(Claims("env-0", 2**40, ("read",))),
        "nothing": "pdft_",
        "odd": "pdft_\xff\xfe.\xff",
    }[change]
    answer = await stranger.get(
        "/documents", headers={b"Authorization": b"Bearer " + wrong.encode("latin-1")}
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_a_token_makes_no_tokens_and_neither_does_nobody(
    stranger: httpx.AsyncClient, settings: Settings, postgres: EmbeddedPostgres, serve: Any
) -> None:
    token = await token_of(stranger, ROOT)
    assert await code_of(stranger, token, "POST", "/keys/tokens") == "scope_missing"
    fresh = {"database_url": await migrated(postgres, f"tokens_{uuid4().hex}")}
    async with (
        serve(create_app(settings.model_copy(update=fresh))) as opened,
        httpx.AsyncClient(base_url=opened.url) as client,
    ):
        assert (await client.post("/keys/tokens")).json()["code"] == "unauthorized"


async def test_without_a_secret_there_are_no_tokens(locked_settings: Settings, serve: Any) -> None:
    without = locked_settings.model_copy(update={"secret_key": None})
    async with serve(create_app(without)) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.post("/keys/tokens", headers=bearer(ROOT))
        assert (answer.status_code, answer.json()["code"]) == (422, "tokens_need_secret_key")


async def test_a_link_opens_a_file_or_a_page_and_nothing_else(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    document_id = await upload(root, "letters")
    token = await token_of(stranger, ROOT, document_ids=[document_id])
    link = {"token": token}
    file = await stranger.get(f"/documents/{document_id}/file", params=link)
    assert (file.status_code, file.content[:8]) == (200, PDF[:8])
    page = await stranger.get(f"/documents/{document_id}/pages/1.png", params=link | {"width": 99})
    assert page.json()["code"] == "invalid_request"  # what else is in the address still counts
    for path in (f"/documents/{document_id}", "/documents", f"/documents/{document_id}/chunks", "/tasks"):
        assert (await stranger.get(path, params=link)).status_code == 401
    for wrong in (ROOT, token[:-1], "", (await made(root))["secret"]):
        answer = await stranger.get(f"/documents/{document_id}/file", params={"token": wrong})
        assert answer.status_code == 401, wrong


async def test_no_log_line_has_the_token_of_a_link(
    locked: Served,
    stranger: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = await token_of(stranger, ROOT)
    access = logging.getLogger("uvicorn.access")
    for name, value in (("propagate", True), ("disabled", False)):  # whatever other tests have set up
        monkeypatch.setattr(access, name, value)
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, access.name):
        logging.getLogger("httpx").setLevel("WARNING")  # the client's own
        logging.getLogger("httpcore").setLevel("WARNING")
        async with httpx.AsyncClient(base_url=locked.url) as client:  # a connection looks once at who listens
            await client.get(f"/documents/{uuid4()}/file", params={"token": token})
            await client.get(f"/documents/{uuid4()}/file", params={"token": token[:-1]})
    output = capfd.readouterr()
    told = caplog.text + output.out + output.err
    assert "request refused" in told
    assert token[:-1] not in told
    assert "GET /documents/" in told  # uvicorn's own line


async def test_a_stream_ends_with_the_key(stranger: httpx.AsyncClient, root: httpx.AsyncClient) -> None:
    key = await made(root)
    token = await token_of(stranger, key["secret"], expires_in=86_400)
    async with (
        asyncio.timeout(30),
        stranger.stream("GET", "/tasks/events", headers=bearer(key["secret"])) as of_the_key,
        stranger.stream("GET", "/tasks/events", headers=bearer(token)) as of_the_token,
    ):
        assert {of_the_key.status_code, of_the_token.status_code} == {200}
        await asyncio.sleep(2.5)
        assert await code_of(stranger, token) == "200"
        await root.delete(f"/keys/{key['id']}")
        for stream in (of_the_key, of_the_token):
            async for _ in stream.aiter_lines():
                pass
