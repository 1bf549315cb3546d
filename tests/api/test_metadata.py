"""Keys and values of the metadata over HTTP."""

from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

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
    ],
)
async def test_what_cannot_be_asked_is_refused(
    client: httpx.AsyncClient, path: str, parameters: dict[str, str | int]
) -> None:
    answer = await client.get(path, params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
