"""Keys and values of the metadata over HTTP."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.storage.filters import Scalar
from tests.api.conftest import Served

SAMPLES = Path(__file__).parent.parent.parent / "samples"


@pytest.fixture(scope="module")
async def collection(served: Served, client: httpx.AsyncClient) -> str:
    """Three documents that are published, and one that waits."""
    name = f"c-{uuid4()}"
    article = (SAMPLES / "salt-marsh-article.pdf").read_bytes()
    described = ('{"year": 2025, "pages": "A4"}', '{"year": 2025}', '{"year": [2024, 2025.5]}', '{"year": 1}')
    for number, metadata in enumerate(described):
        form = {"collection": name, "metadata": metadata, "on_duplicate": "keep"}
        answer = await client.post("/documents", files={"file": ("a.pdf", article)}, data=form)
        if number < 3:
            task_id = UUID(answer.json()["task_id"])
            await served.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
    return name


async def test_keys_and_values_are_counted_and_work_in_a_filter(
    client: httpx.AsyncClient, collection: str
) -> None:
    keys = await client.get("/metadata", params={"collection": collection})
    assert keys.json() == {
        "data": [{"key": "year", "documents": 3}, {"key": "metadata.pages", "documents": 1}],
        "has_more": False,
    }
    for key in ("year", "metadata.pages"):
        values = await client.get("/metadata/values", params={"collection": collection, "key": key})
        for counted in values.json()["data"]:
            question = {"query": "salt marsh plants", "collection": collection, "group_by": "document"}
            question["filter"] = {"type": "eq", "key": key, "value": counted["value"]}  # type: ignore[assignment]
            found = await client.post("/search", json=question)
            assert len(found.json()["data"]) == counted["documents"], counted
    assert values.json() == {"data": [{"value": "A4", "documents": 1}], "has_more": False}


async def test_what_is_left_out_is_said(client: httpx.AsyncClient, collection: str) -> None:
    asked = {"collection": collection, "limit": 1}
    keys = (await client.get("/metadata", params=asked)).json()
    assert keys == {"data": [{"key": "year", "documents": 3}], "has_more": True}
    values = (await client.get("/metadata/values", params=asked | {"key": "year"})).json()
    assert values == {"data": [{"value": 2025, "documents": 2}], "has_more": True}
    both = (await client.get("/metadata/values", params=asked | {"key": "year", "limit": 3})).json()
    assert both["has_more"] is False
    assert [one["value"] for one in both["data"]] == [2025, 2024, 2025.5]


@pytest.fixture(scope="module")
async def library(served: Served, client: httpx.AsyncClient) -> dict[str, str]:
    """A collection of three documents in two languages, by their files' names, and one elsewhere."""
    name, ids = f"c-{uuid4()}", {}
    described: dict[str, dict[str, Any]] = {
        "annual-report.pdf": {"year": 2025, "topic": ["wind", "sea"]},
        "salt-marsh-article.pdf": {"year": 2024, "topic": "sea"},
        "wildbienen.pdf": {"year": 2025, "topic": ["bees"]},
    }
    for file, metadata in described.items():
        form = {"collection": name, "metadata": json.dumps(metadata)}
        files = {"file": (file, (SAMPLES / file).read_bytes())}
        answer = (await client.post("/documents", files=files, data=form)).json()
        ids[file] = answer["document_id"]
        task_id = UUID(answer["task_id"])
        await served.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
    return ids | {"collection": name}


def compared(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("key", "wanted", "counts"),
    [
        ("topic", None, {"sea": 2, "wind": 1, "bees": 1}),
        ("topic", compared("eq", "year", 2025), {"sea": 1, "wind": 1, "bees": 1}),
        ("topic", {"year": 2024}, {"sea": 1}),
        ("topic", compared("eq", "language", "de"), {"bees": 1}),
        ("topic", compared("eq", "topic", "wind"), {"wind": 1, "sea": 1}),
        ("year", compared("lt", "pages", 4), {2024: 1, 2025: 1}),
        ("language", None, {"en": 2, "de": 1}),
        ("language", compared("in", "topic", ["wind", "bees"]), {"en": 1, "de": 1}),
        ("filename", compared("eq", "year", 2024), {"salt-marsh-article.pdf": 1}),
        ("pages", compared("eq", "filename", "wildbienen.pdf"), {2: 1}),
        ("metadata.pages", None, {}),
        (
            "year",
            {"type": "or", "filters": [{"topic": "sea"}, compared("eq", "language", "de")]},
            {2024: 1, 2025: 1},
        ),
    ],
)
async def test_counts_follow_the_filter(
    client: httpx.AsyncClient,
    library: dict[str, str],
    key: str,
    wanted: dict[str, Any] | None,
    counts: dict[Scalar, int],
) -> None:
    """Each is what a search finds with the value beside that filter."""
    of = {"collection": library["collection"]}
    narrowed = of if wanted is None else of | {"filter": json.dumps(wanted)}
    answer = await client.get("/metadata/values", params=narrowed | {"key": key})
    assert {one["value"]: one["documents"] for one in answer.json()["data"]} == counts
    for value, count in counts.items():
        both = [compared("eq", key, value), *([] if wanted is None else [wanted])]
        question = {"query": "sea wind bees turbines", "group_by": "document", "mode": "vector"}
        asked = question | of | {"filter": {"type": "and", "filters": both}}
        found = await client.post("/search", json=asked)
        assert len(found.json()["data"]) == count, (key, value)


async def test_keys_and_values_are_counted_in_some_documents_only(
    client: httpx.AsyncClient, library: dict[str, str]
) -> None:
    ids = [library["annual-report.pdf"], library["wildbienen.pdf"]]
    keys = (await client.get("/metadata", params={"document_ids": ids})).json()["data"]
    assert keys == [{"key": "topic", "documents": 2}, {"key": "year", "documents": 2}]
    german = {"document_ids": ids, "filter": json.dumps(compared("eq", "language", "de"))}
    keys = (await client.get("/metadata", params=german)).json()["data"]
    assert keys == [{"key": "topic", "documents": 1}, {"key": "year", "documents": 1}]
    values = (await client.get("/metadata/values", params=german | {"key": "topic"})).json()["data"]
    assert values == [{"value": "bees", "documents": 1}]
    many = {"document_ids": [str(uuid4()) for _ in range(499)] + ids[:1]}
    assert len((await client.get("/metadata", params=many)).json()["data"]) == 2


@pytest.mark.parametrize("key", ["..", "/", "a/b", "%2e", "ä", "\u202e", "metadata."])
async def test_a_key_of_any_shape_may_be_asked_for(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.get("/metadata/values", params={"key": key, "collection": "nowhere"})
    assert answer.json() == {"data": [], "has_more": False}


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/metadata/values", {}),
        ("/metadata/values", {"key": "a\0b"}),
        ("/metadata/values", {"key": "a" * 201}),
        ("/metadata", {"limit": 0}),
        ("/metadata", {"collection": ""}),
        ("/metadata", {"filter": "year"}),
        ("/metadata", {"filter": "[1]"}),
        ("/metadata", {"filter": '{"year": NaN}'}),
        ("/metadata", {"filter": '{"type": "gt", "key": "pages", "value": "many"}'}),
        ("/metadata", {"filter": '{"type":"or","filters":[' * 6 + "{}" + "]}" * 6}),
        ("/metadata", {"filter": "[" * 10_000}),
        ("/metadata", {"document_ids": "1"}),
        ("/metadata/values", {"key": "created_at"}),
        ("/metadata/values", {"key": "year", "filter": '{"type": "eq", "key": "year"}'}),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    client: httpx.AsyncClient, path: str, parameters: dict[str, str | int]
) -> None:
    answer = await client.get(path, params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
