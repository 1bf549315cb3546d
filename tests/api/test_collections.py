"""Collections over HTTP, with the sweeper of the served API, which deletes their documents."""

from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest

from app.config import Settings
from tests.api.conftest import Served
from tests.services.workshop import Workshop, pdf


@pytest.fixture
def name() -> str:
    return f"c-{uuid4()}"


@pytest.fixture
def worker(served: Served, settings: Settings, name: str) -> Workshop:
    folder = Path(httpx.URL(settings.storage_url).path)
    return Workshop(served.services.database, served.services.space_id, folder, collection=name)


async def upload(client: httpx.AsyncClient, collection: str, content: bytes | None = None) -> dict[str, Any]:
    answer = await client.post(
        "/documents", data={"collection": collection}, files={"file": content or pdf()}
    )
    assert answer.status_code in (200, 202), answer.text
    body: dict[str, Any] = answer.json()
    return body


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_collection_is_made_with_what_is_said_of_it(client: httpx.AsyncClient, name: str) -> None:
    said = {
        "name": name,
        "description": "Reports of all years.",
        "metadata": {"owner": "finance"},
        "language": "de",
        "expires_after_days": 3650,
    }
    made = await client.post("/collections", json=said)
    assert made.status_code == 201
    body = made.json()
    assert body.items() >= said.items()
    assert body["documents"] == {"queued": 0, "processing": 0, "ready": 0, "failed": 0, "cancelled": 0}
    assert (body["pages"], body["chunks"], body["bytes"]) == (0, 0, 0)
    assert UUID(body["collection_id"]).version == 7
    assert (await client.get(made.headers["location"])).json() == body
    assert_problem(await client.post("/collections", json=said), 409, "collection_exists")


async def test_uploading_into_an_unknown_name_makes_the_collection(
    client: httpx.AsyncClient, worker: Workshop, name: str
) -> None:
    assert_problem(await client.get(f"/collections/{name}"), 404, "collection_not_found")
    content = pdf()
    ready, failed = await upload(client, name, content), await upload(client, name)
    await upload(client, name)
    await worker.ingest(UUID(ready["task_id"]))
    await worker.fail(UUID(failed["task_id"]))
    body = (await client.get(f"/collections/{name}")).json()
    assert body["documents"] == {"queued": 1, "processing": 0, "ready": 1, "failed": 1, "cancelled": 0}
    assert (body["pages"], body["chunks"]) == (3, 2)
    assert body["bytes"] == 3 * len(content)
    assert (body["description"], body["metadata"], body["language"]) == (None, {}, None)


async def test_collections_are_listed_page_by_page(client: httpx.AsyncClient, name: str) -> None:
    names = [f"{name}-{number}" for number in range(5)]
    for one in reversed(names):
        await client.post("/collections", json={"name": one})
    await upload(client, names[1])
    seen: list[dict[str, Any]] = []
    after: str | None = name
    while after is not None:
        page = (await client.get("/collections", params={"limit": 2, "after": after})).json()
        assert len(page["data"]) <= 2
        seen += page["data"]
        after = page["next"] if len(seen) < 5 else None
    assert [one["name"] for one in seen][:5] == names
    assert [one["documents"]["queued"] for one in seen][:5] == [0, 1, 0, 0, 0]


async def test_a_collection_is_renamed_with_its_documents(client: httpx.AsyncClient, name: str) -> None:
    added = await upload(client, name)
    renamed = await client.patch(f"/collections/{name}", json={"name": f"{name} 2"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, f"{name} 2")
    assert (await client.get(f"/documents/{added['document_id']}")).json()["collection"] == f"{name} 2"
    assert_problem(await client.get(f"/collections/{name}"), 404, "collection_not_found")
    await upload(client, name)
    again = await client.patch(f"/collections/{quote(name)}", json={"name": f"{name} 2"})
    assert_problem(again, 409, "collection_exists")


async def test_what_is_not_named_in_a_change_stays_and_null_takes_away(
    client: httpx.AsyncClient, name: str
) -> None:
    await client.post("/collections", json={"name": name, "description": "a", "expires_after_days": 9})
    changed = await client.patch(f"/collections/{name}", json={"expires_after_days": None, "language": "fr"})
    body = changed.json()
    assert (body["description"], body["expires_after_days"], body["language"]) == ("a", None, "fr")
    assert_problem(await client.patch(f"/collections/{name}x", json={}), 404, "collection_not_found")


@pytest.mark.parametrize("odd", ["a/b", "a b", "ä%2F", "..", "?x=1#y", "/", "日本"])
async def test_any_name_can_be_asked_for(client: httpx.AsyncClient, name: str, odd: str) -> None:
    made = await client.post("/collections", json={"name": f"{name}{odd}"})
    there = await client.get(made.headers["location"])
    assert (there.status_code, there.json()["name"]) == (200, f"{name}{odd}")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "x\0"},
        {"name": "x\n"},
        {"name": "."},
        {"name": "x/../y"},
        {"name": "x", "language": "german"},
        {"name": "x", "expires_after_days": 0},
        {"name": "x", "expires_after_days": 1.5},
        {"name": "x", "expires_after_days": "10"},
        {"name": "x", "expires_after_days": True},
        {"name": "x", "metadata": {"x": "y" * 10_001}},
        {"name": "x", "owner": "me"},
    ],
)
async def test_what_is_wrong_with_a_collection_is_said(client: httpx.AsyncClient, wrong: Any) -> None:
    assert_problem(await client.post("/collections", json=wrong), 422, "invalid_request")


async def test_deleting_is_a_task_that_ends_with_the_last_document(
    client: httpx.AsyncClient, worker: Workshop, name: str
) -> None:
    added = [await upload(client, name) for _ in range(3)]
    await worker.ingest(UUID(added[0]["task_id"]))
    counted = await client.delete(f"/collections/{name}", params={"dry_run": True})
    assert (counted.status_code, counted.json()) == (200, (await client.get(f"/collections/{name}")).json())
    assert sum(counted.json()["documents"].values()) == 3

    asked = await client.delete(f"/collections/{name}")
    assert asked.status_code == 202
    task = asked.json()
    assert (task["status"], task["document_id"], task["collection"]) == ("queued", None, name)
    assert task["progress"] == {"stage": "queued", "documents_done": 0, "documents_total": 3}
    assert asked.headers["location"] == f"/tasks/{task['task_id']}"
    assert_problem(await client.get(f"/collections/{name}"), 404, "collection_not_found")
    assert_problem(await client.delete(f"/collections/{name}"), 404, "collection_not_found")

    done = (await client.get(f"/tasks/{task['task_id']}", params={"wait": 30})).json()
    assert done["status"] == "success"
    assert done["progress"] == {"stage": "deleting", "documents_done": 3, "documents_total": 3}
    assert done["result"] == {"status": "success", "documents": 3}
    assert done["created_at"] < done["started_at"] < done["finished_at"]
    for one in added:
        answer = await client.get(f"/documents/{one['document_id']}")
        assert_problem(answer, 404, "document_not_found")
    assert (await client.get(f"/tasks/{added[1]['task_id']}")).json()["status"] == "cancelled"


async def test_what_is_uploaded_while_a_collection_is_deleted_stays(
    client: httpx.AsyncClient, worker: Workshop, name: str
) -> None:
    content = pdf()
    first = await upload(client, name, content)
    await worker.ingest(UUID(first["task_id"]))
    question = {"query": "chunk", "mode": "text", "collection": name}
    assert len((await client.post("/search", json=question)).json()["data"]) == 2
    task = (await client.delete(f"/collections/{name}")).json()
    second = await upload(client, name, content)
    assert (second["duplicate"], second["document_id"] != first["document_id"]) == (False, True)
    assert (await client.post("/search", json=question)).json()["data"] == []
    for path in ("", "/chunks", "/file"):
        answer = await client.get(f"/documents/{first['document_id']}{path}")
        assert_problem(answer, 404, "document_not_found")
    counted = (await client.get(f"/collections/{name}")).json()
    assert (counted["documents"]["queued"], counted["documents"]["ready"]) == (1, 0)
    done = (await client.get(f"/tasks/{task['task_id']}", params={"wait": 30})).json()
    assert done["result"] == {"status": "success", "documents": 1}
    left = (await client.get("/documents", params={"collection": name})).json()["data"]
    assert [one["document_id"] for one in left] == [second["document_id"]]


async def test_a_deletion_is_no_task_to_follow_or_cancel(client: httpx.AsyncClient, name: str) -> None:
    await client.post("/collections", json={"name": name})
    task = (await client.delete(f"/collections/{name}")).json()
    assert_problem(await client.post(f"/tasks/{task['task_id']}/cancel"), 404, "task_not_found")
    assert_problem(await client.get(f"/tasks/{task['task_id']}/events"), 404, "task_not_found")
