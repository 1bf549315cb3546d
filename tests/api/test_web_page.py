"""What the page at / is made of, and what browsers are told about it; tests/browser uses it."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.api.web_page import SAMPLES, WEB
from app.config import Settings
from app.main import create_app

PAGE_BYTES = 100_000


async def test_the_front_door_is_the_page(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="(/web/[^"]+)"', page.text)
    assert len(loaded) > 10
    for url in loaded:
        answer = await client.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["etag"]


async def test_nothing_of_the_page_comes_from_elsewhere(client: httpx.AsyncClient) -> None:
    files = [path for path in WEB.iterdir() if path.is_file()]
    for path in files:
        addresses = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name
    named = set(re.findall(r'from "\./([^"]+)"|import "\./([^"]+)"', " ".join(p.read_text() for p in files)))
    assert {first or second for first, second in named} < {path.name for path in files}


async def test_the_whole_page_is_small(client: httpx.AsyncClient) -> None:
    sent = 0
    for path in ["", *(f"web/{path.name}" for path in WEB.iterdir())]:
        async with client.stream("GET", f"/{path}", headers={"Accept-Encoding": "gzip"}) as answer:
            sent += len(b"".join([part async for part in answer.aiter_raw()]))
    assert 10_000 < sent < PAGE_BYTES


async def test_scripts_and_styles_come_from_here_alone_and_no_text_becomes_markup(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    rules = dict(rule.partition(" ")[::2] for rule in policy.split("; "))
    assert "unsafe" not in policy
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["frame-ancestors"] == "'none'"
    assert not re.search(r"<style|style=|<script>| on[a-z]+=", page.text)
    scripts = " ".join(path.read_text() for path in WEB.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)


@pytest.mark.parametrize("name", ["annual-report.pdf", "salt-marsh-article.pdf", "wildbienen.pdf"])
async def test_samples_for_a_first_look_are_there(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/web/samples/{name}")
    assert (answer.status_code, answer.content) == (200, (SAMPLES / name).read_bytes())


@pytest.mark.parametrize(
    "path",
    ["samples/damaged.pdf", "samples/..%2f..%2fREADME.md", "..%2fmain.py", "../main.py", "nothing.js", ""],
)
async def test_nothing_else_is_served_from_there(client: httpx.AsyncClient, path: str) -> None:
    url = client.base_url.copy_with(raw_path=f"/web/{path}".encode())
    assert (await client.get(url)).status_code in {404, 422}


async def test_the_page_needs_no_key_and_what_it_shows_does(settings: Settings, serve: Any) -> None:
    locked = settings.model_copy(update={"api_keys": SecretStr("alice:a-long-key")})
    async with serve(create_app(locked)) as served, httpx.AsyncClient(base_url=served.url) as stranger:
        for path in ("/", "/favicon.ico", "/web/main.js", "/web/samples/wildbienen.pdf"):
            assert (await stranger.get(path)).status_code == 200
        for path in ("/documents", "/tasks", "/tasks/events", "/workers", "/stats", "/web/../documents"):
            url = httpx.URL(served.url).copy_with(raw_path=path.encode())
            assert (await stranger.get(url)).status_code in {401, 404}, path
        answer = await stranger.post("/search", json={"query": "bees"})
        assert answer.status_code == 401


def test_the_image_has_the_samples() -> None:
    project = Path(__file__).parent.parent.parent
    assert "COPY samples/*.pdf samples/" in (project / "Dockerfile").read_text()
    assert "!samples/*.pdf" in (project / ".dockerignore").read_text()
