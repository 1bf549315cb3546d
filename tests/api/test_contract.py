"""Requests that nobody means well with: every answer is documented, fits its schema, and is no 5xx.

`make test-openapi` has thousands made up by schemathesis; the clients of the other tests are held to the
same (`contract`).
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.api.conftest import Served
from tests.api.contract import Contract
from tests.services.workshop import pdf

NOBODY = "00000000-0000-7000-8000-000000000000"
TEXTS = [
    "",
    "0",
    "-1",
    "9" * 400,
    "1e999",
    "nan",
    "null",
    "%00",
    "%ff%fe",
    "%F0%9F%92%A9",
    "..%2f",
    NOBODY,
]
VALUES: list[Any] = [
    None, True, -1, 2**70, 1e308, "", "\x00", "\ud800", "x" * 20_000, NOBODY, [], [None], [[]], {}, {"": None}
]  # fmt: skip
BODIES = [b"", b"null", b"[]", b"{", b"\xff", b'"\xff"', b"[" * 50_000, b'{"a":' + b"9" * 5_000 + b"}"]


@pytest.fixture(scope="module")
async def ready(client: httpx.AsyncClient, served: Served) -> str:
    """A document, whose chunks, pages and file can be asked for."""
    made = (await client.post("/documents", files={"file": pdf()})).json()
    return str(made["document_id"])


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def schema_of(openapi: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A schema without its references and without `anyOf` null."""
    while "$ref" in part or "anyOf" in part:
        if "$ref" in part:
            part = openapi["components"]["schemas"][part["$ref"].rpartition("/")[2]]
        else:
            part = part["anyOf"][0]
    return part


def requests_for(
    openapi: dict[str, Any], path: str, operation: dict[str, Any], document_id: str
) -> Iterator[dict[str, Any]]:
    """The operation with one thing wrong at a time."""
    known = re.sub(r"\{\w*id\}", document_id, path).replace("{page}", "1")
    yield {"url": known}
    for name, text in product(re.findall(r"\{(\w+)\}", path), TEXTS):
        yield {"url": re.sub(r"\{\w+\}", document_id, path.replace(f"{{{name}}}", text or "%20"))}
    for parameter, text in product(operation.get("parameters", []), TEXTS):
        if parameter["in"] == "query":
            yield {"url": f"{known}?{parameter['name']}={text}"}
        elif parameter["in"] == "header":
            yield {"url": known, "headers": {parameter["name"]: text}}
    bodies = operation.get("requestBody", {}).get("content", {})
    if json_body := bodies.get("application/json"):
        yield from ({"url": known} | body for body in json_bodies(schema_of(openapi, json_body["schema"])))
    if form := bodies.get("multipart/form-data"):
        yield from ({"url": known} | body for body in forms(form["schema"]))


def json_bodies(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sent = {"content-type": "application/json"}
    for content in BODIES:
        yield {"content": content, "headers": sent}
    for field, value in product(schema["properties"], VALUES):
        whole = dict.fromkeys(schema.get("required", []), "text") | {field: value}
        yield {"content": json.dumps(whole), "headers": sent}


def forms(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, text in product([*schema["properties"], "unknown"], TEXTS):
        yield {"files": {"file": pdf()}, "data": {name: text}}
    for content in BODIES:
        yield {"files": {"file": content}}
        yield {"content": content, "headers": {"content-type": "multipart/form-data"}}


@pytest.fixture(scope="module")
async def bare(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends headers as they are."""
    contract = Contract(served.app.openapi())
    async with httpx.AsyncClient(
        base_url=served.url, timeout=60, event_hooks={"response": [contract.check]}
    ) as client:
        yield client


@pytest.mark.heavy
async def test_no_wrong_request_gets_an_answer_that_is_not_documented(
    served: Served, bare: httpx.AsyncClient, ready: str
) -> None:
    openapi = served.app.openapi()
    sent = 0
    for method, path, operation in operations(openapi):
        document_id = str(uuid4()) if method == "delete" else ready
        for request in requests_for(openapi, path, operation, document_id):
            if "wait=9" in request["url"] or "events" in path:
                continue  # they wait as long as they are asked to
            answer = await bare.request(method, **request)
            assert answer.status_code < 500, (method, request)
            sent += 1
    assert sent > 500


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(418),
        httpx.Response(500, json={}),
        httpx.Response(200, text="alive"),
        httpx.Response(200, json={"status": 7}),
    ],
)
async def test_an_answer_off_the_description_is_noticed(served: Served, answer: httpx.Response) -> None:
    answer.request = httpx.Request("GET", "http://test/livez")
    with pytest.raises(AssertionError, match="GET http://test/livez"):
        await Contract(served.app.openapi()).check(answer)
