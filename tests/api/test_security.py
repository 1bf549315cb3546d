"""Keys, foreign web pages, headers and the size of bodies, on a real port."""

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from app.api.bodies import MAX_BODY_BYTES
from app.config import Settings
from app.main import create_app
from tests.api.conftest import Served
from tests.processes import PROJECT

ALICE, BOB, NEW_BOB = "alice-" + "a" * 30, "bob-ü-" + "b" * 30, "bob-" + "c" * 30
KEYS = f"alice:{ALICE}, bob:sha256={hashlib.sha256(BOB.encode()).hexdigest()}, bob:{NEW_BOB},"
PDF = b"%PDF-1.4 never read by anybody "


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"Authorization": b"Bearer " + key.encode()}


@pytest.fixture(scope="module")
async def locked(settings: Settings, serve: Any) -> AsyncIterator[Served]:
    with_keys = settings.model_copy(update={"api_keys": SecretStr(KEYS)})
    async with serve(create_app(with_keys)) as served:
        yield served


@pytest.fixture(scope="module")
async def stranger(locked: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=locked.url, timeout=30) as client:
        yield client


async def test_every_operation_wants_a_key_but_the_probes(
    locked: Served, stranger: httpx.AsyncClient
) -> None:
    asked = 0
    for path, operations in locked.app.openapi()["paths"].items():
        if path in {"/livez", "/readyz", "/metrics"}:
            continue
        for method in operations:
            answer = await stranger.request(method, re.sub(r"\{\w+\}", "1", path))
            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == 'Bearer realm="pdf-ingest"'
            assert answer.json()["code"] == "unauthorized"
            asked += 1
    assert asked >= 12
    assert (await stranger.get("/no/such/path")).status_code == 401


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/docs", "/openapi.json"])
async def test_probes_and_the_description_are_open(stranger: httpx.AsyncClient, path: str) -> None:
    assert (await stranger.get(path)).status_code == 200


@pytest.mark.parametrize("key", [ALICE, BOB, NEW_BOB])
async def test_each_key_opens(stranger: httpx.AsyncClient, key: str) -> None:
    assert (await stranger.get("/documents", headers=bearer(key))).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        f"Basic {ALICE}",
        ALICE,
        "Bearer alice",
    ],
)
async def test_anything_else_does_not(stranger: httpx.AsyncClient, value: str) -> None:
    answer = await stranger.get("/documents", headers={"Authorization": value})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_the_hash_of_a_key_is_no_key(stranger: httpx.AsyncClient) -> None:
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    for key in (digest, f"sha256={digest}"):
        answer = await stranger.get("/documents", headers=bearer(key))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="pdf-ingest", error="invalid_token"'


async def test_a_key_makes_host_and_origin_unimportant(stranger: httpx.AsyncClient) -> None:
    headers = {
        "Host": "pdf.example.com",
        "Origin": "https://app.example.com",
        "Authorization": f"Bearer {ALICE}",
    }
    assert (await stranger.get("/documents", headers=headers)).status_code == 200


async def test_callers_share_no_idempotency_keys(stranger: httpx.AsyncClient) -> None:
    key = {b"Idempotency-Key": uuid4().hex.encode()}
    content = {"file": ("a.pdf", PDF + uuid4().bytes)}
    other = {"file": ("b.pdf", PDF + uuid4().bytes)}
    first = await stranger.post("/documents", files=content, headers=bearer(ALICE) | key)
    again = await stranger.post("/documents", files=content, headers=bearer(ALICE) | key)
    of_bob = await stranger.post("/documents", files=other, headers=bearer(BOB) | key)
    of_bob_again = await stranger.post("/documents", files=other, headers=bearer(NEW_BOB) | key)
    assert first.json() == again.json()
    assert of_bob.status_code == 202
    assert of_bob.json()["document_id"] != first.json()["document_id"]
    assert of_bob.json() == of_bob_again.json()


async def test_the_description_shows_how_to_give_a_key(locked: Served, served: Served) -> None:
    openapi = locked.app.openapi()
    scheme = openapi["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            is_open = path in {"/livez", "/readyz", "/metrics"}
            assert ("security" not in operation, "401" not in operation["responses"]) == (is_open, is_open)
    for operations in served.app.openapi()["paths"].values():
        for operation in operations.values():
            assert operation.get("security", [{}])[-1] == {}  # a key may be made at any time


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "["]
)
async def test_without_keys_a_foreign_name_is_refused(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get("/documents", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "192.168.1.7:8000"]
)
async def test_addresses_and_localhost_are_our_own(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/documents", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "https://127.0.0.1", ""],
)
async def test_a_foreign_page_can_neither_read_nor_post(client: httpx.AsyncClient, origin: str) -> None:
    for answer in (
        await client.get("/documents", headers={"Origin": origin}),
        await client.post("/documents", files={"file": PDF}, headers={"Origin": origin}),
        await client.options(
            "/documents", headers={"Origin": origin, "Access-Control-Request-Method": "PUT"}
        ),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers


async def test_our_own_page_may_ask(client: httpx.AsyncClient, served: Served) -> None:
    assert (await client.get("/documents", headers={"Origin": served.url})).status_code == 200


async def test_whether_it_lives_is_said_under_any_name(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez", headers={"Host": "10-0-0-7.pods.example"})).status_code == 200


async def test_a_load_balancer_that_names_no_host_learns_whether_it_is_ready(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()


@pytest.mark.parametrize("asked", [b"OPTIONS *", b"PRI *"])
async def test_a_target_that_is_no_path_is_nothing_here(served: Served, asked: bytes) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(asked + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
async def test_a_foreign_page_learns_nothing_of_the_service(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, path: str
) -> None:
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert (await client.get(path, headers=foreign)).status_code == 403
        assert (await stranger.get(path, headers=foreign)).status_code == 200  # where all else wants a key
    assert (await client.get(path)).status_code == 200


async def test_names_can_be_allowed(settings: Settings, serve: Any) -> None:
    named = settings.model_copy(update={"allowed_hosts": ("pdf.example",)})
    async with serve(create_app(named)) as served, httpx.AsyncClient(base_url=served.url) as client:
        ours = {"Host": "PDF.example:8000", "Origin": "https://pdf.example"}
        assert (await client.get("/documents", headers=ours)).status_code == 200
        assert (await client.get("/documents", headers={"Host": "evil.example"})).status_code == 403
        foreign = {"Host": "pdf.example", "Origin": "https://evil.example"}
        assert (await client.get("/documents", headers=foreign)).status_code == 403


@pytest.mark.parametrize(
    "path", ["/documents", "/livez", "/docs", "/nothing", "/tasks/none", "/openapi.json"]
)
async def test_every_answer_has_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]


async def test_the_policy_of_the_docs_lets_in_all_that_they_load(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    rules = dict(rule.split(maxsplit=1) for rule in page.headers["content-security-policy"].split("; "))
    loaded = [url for url in re.findall(r'(?:src|href)="([^"]+)"', page.text) if not url.startswith("data:")]
    assert len(loaded) == 2
    for url in loaded:
        assert url.startswith("/")
        assert (await client.get(url)).status_code == 200
    assert "'self'" in rules["script-src"]
    assert "'self'" in rules["style-src"]
    assert "<script>" in page.text
    assert "'unsafe-inline'" in rules["script-src"]
    assert rules["connect-src"] == "'self'"


async def test_no_json_body_is_read_beyond_its_limit(served: Served) -> None:
    """A gigabyte that is announced is refused unread; one that is not, after the limit."""
    host, port = served.url.removeprefix("http://").split(":")
    for path in ("/search", f"/documents/{uuid4()}/retry"):
        for how in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            reader, writer = await asyncio.open_connection(host, int(port))
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data\r\n{how}\r\n\r\n"
            )
            writer.write(head.encode())
            if "chunked" in how:
                chunk = b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)
                writer.write(chunk * (MAX_BODY_BYTES // 100_000 + 1))
            async with asyncio.timeout(30):
                answer = (await reader.read(4096)).decode()
            assert answer.startswith("HTTP/1.1 413"), answer
            assert '"code":"too_large"' in answer
            writer.close()


async def test_every_operation_with_a_json_body_has_a_limit(
    served: Served, client: httpx.AsyncClient
) -> None:
    asked = 0
    for path, operations in served.app.openapi()["paths"].items():
        for method, operation in operations.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                url = re.sub(r"\{\w+\}", str(uuid4()), path)
                answer = await client.request(method, url, content=b" " * (MAX_BODY_BYTES + 1))
                assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
                asked += 1
    assert asked >= 2


async def test_the_command_line_sends_its_key(locked: Served) -> None:
    async def status(**environment: str) -> tuple[int | None, str]:
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.local.cli", "status"),
            cwd=PROJECT,
            env=os.environ | {"PDF_INGEST_URL": locked.url} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await command.communicate()
        return command.returncode, output.decode()

    allowed, refused = await asyncio.gather(status(PDF_INGEST_API_KEY=NEW_BOB), status(PDF_INGEST_API_KEY=""))
    assert allowed[0] == 0, allowed
    assert refused[0] != 0
    assert "wants an API key" in " ".join(refused[1].split())
