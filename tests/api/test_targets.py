"""The forms of a request's target, on a real socket: HTTP clients send one of them only."""

import asyncio
import json

import httpx
import pytest

from tests.api.conftest import Served


async def ask(served: Served, target: str, host: str) -> httpx.Response:
    url = httpx.URL(served.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return httpx.Response(int(head.split()[1]), content=body)


@pytest.mark.parametrize("path", ["/livez", "/documents?limit=1", "/collections/of%20nobody", "", "/"])
async def test_a_target_with_scheme_and_host_is_its_path(served: Served, path: str) -> None:
    plain = await ask(served, path or "/", "127.0.0.1")
    for scheme in ("http", "HTTPS"):
        absolute = await ask(served, f"{scheme}://127.0.0.1{path}", "127.0.0.1")
        assert (absolute.status_code, absolute.text) == (plain.status_code, plain.text)


async def test_the_host_of_the_target_counts_not_the_header(served: Served) -> None:
    foreign = await ask(served, "http://evil.example/documents", "127.0.0.1")
    assert (foreign.status_code, json.loads(foreign.content)["code"]) == (403, "foreign_host")
    own = await ask(served, "http://127.0.0.1/documents?limit=1", "evil.example")
    assert own.status_code == 200


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/livez", "*", "livez", "http:/livez"])
async def test_any_other_target_is_not_found(served: Served, target: str) -> None:
    assert (await ask(served, target, "127.0.0.1")).status_code == 404
