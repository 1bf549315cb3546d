"""A key that is bound to collections, against all that is in others: it is as if it were not there."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.errors import CollectionNotFound, DocumentNotFound, TaskNotFound
from app.local.embedded import EmbeddedPostgres
from app.services.catalog import Catalog
from app.services.idempotency import Answer
from app.services.keys import Caller
from app.services.searching import Mode, Search
from app.services.uploads import UploadOptions
from app.storage.document_views import DocumentFilter, DocumentOrder
from app.storage.documents import Change, FailedDocuments
from app.storage.filters import SearchFilter
from app.storage.reach import Reach
from app.storage.tasks import TaskFilter
from tests.api.conftest import ROOT, Served, bearer, made
from tests.api.contract import Contract
from tests.databases import migrated_by_owner

SAMPLES = Path(__file__).parent.parent.parent / "samples"
OWN, FOREIGN = "reports-2026", "letters%"
NOBODY = "00000000-0000-7000-8000-000000000000"
OPEN = {"GET /livez", "GET /readyz", "GET /metrics"}


@dataclass(frozen=True)
class Library:
    """Documents of one collection: one that is ready, one that has failed, one that waits."""

    ready: dict[str, Any]
    failed: dict[str, Any]
    waiting: dict[str, Any]
    chunk_id: str

    @property
    def traces(self) -> set[str]:
        """Text that tells of them."""
        documents = (self.ready, self.failed, self.waiting)
        ids = {document[name] for document in documents for name in ("document_id", "task_id")}
        return ids | {self.chunk_id}


@pytest.fixture(scope="module")
async def locked_settings(settings: Settings, postgres: EmbeddedPostgres) -> Settings:
    """Of a service that is not Postgres' superuser, whom no policy binds."""
    url = await migrated_by_owner(postgres, f"reach_{uuid4().hex}")
    return settings.model_copy(update={"database_url": url, "api_keys": SecretStr(f"root:{ROOT}")})


@pytest.fixture(scope="module")
async def bound(locked: Served, root: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    key = await made(root, name="bound", collections=["reports*"])
    hooks = {"response": [Contract(locked.app.openapi()).check]}
    async with httpx.AsyncClient(
        base_url=locked.url, timeout=30, headers=bearer(key["secret"]), event_hooks=hooks
    ) as client:
        yield client


async def upload(client: httpx.AsyncClient, collection: str, content: bytes, name: str) -> dict[str, Any]:
    told = {"collection": collection, "metadata": json.dumps({"shelf": collection, collection: True})}
    answer = await client.post("/documents", files={"file": (name, content)}, data=told)
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


async def ingest(locked: Served, document: dict[str, Any]) -> None:
    task_id = UUID(document["task_id"])
    with suppress(Exception):  # the verdict is in the row
        await locked.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)


async def filled(locked: Served, root: httpx.AsyncClient, collection: str) -> Library:
    name = f"{collection}.pdf"
    ready = await upload(root, collection, (SAMPLES / "salt-marsh-article.pdf").read_bytes(), name)
    failed = await upload(root, collection, (SAMPLES / "board-minutes-locked.pdf").read_bytes(), name)
    waiting = await upload(root, collection, (SAMPLES / "wildbienen.pdf").read_bytes(), name)
    for document in (ready, failed):
        await ingest(locked, document)
    chunks = (await root.get(f"/documents/{ready['document_id']}/chunks")).json()["data"]
    return Library(ready, failed, waiting, chunks[0]["chunk_id"])


@pytest.fixture(scope="module")
async def own(locked: Served, root: httpx.AsyncClient) -> Library:
    return await filled(locked, root, OWN)


@pytest.fixture(scope="module")
async def foreign(locked: Served, root: httpx.AsyncClient) -> Library:
    return await filled(locked, root, FOREIGN)


Walk = Callable[[httpx.AsyncClient, Library, Library], Awaitable[list[httpx.Response]]]


def like_nothing(method: str, path: str, **request: Any) -> Walk:
    """A foreign thing's answer is a 404, and to the letter that of one that never was."""

    async def walk(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
        answers = []
        for document in (foreign.ready, foreign.failed, foreign.waiting):
            ids = {"document_id": document["document_id"], "task_id": document["task_id"]}
            there = await bound.request(method, path.format(**ids), **request)
            nowhere = await bound.request(method, path.format(document_id=NOBODY, task_id=NOBODY), **request)
            assert (there.status_code, there.content) == (404, nowhere.content), path
            assert nowhere.status_code == 404
            answers.append(there)
        return answers

    return walk


def lists_its_own(path: str, name: str) -> Walk:
    async def walk(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
        everything = await bound.get(path)
        assert {one[name] for one in everything.json()["data"]} == {
            document[name] for document in (own.ready, own.failed, own.waiting)
        }
        other = await bound.get(path, params={"collection": FOREIGN})
        assert other.json()["data"] == []
        one_a_page = await bound.get(path, params={"limit": 1})
        assert one_a_page.json()["data"][0][name] == everything.json()["data"][0][name]
        return [everything, other, one_a_page]

    return walk


def counts_nothing(path: str, *bodies: Callable[[Library], dict[str, Any]]) -> Walk:
    async def walk(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
        answers = [await bound.post(path, json=body(foreign)) for body in bodies]
        for answer in answers:
            assert answer.json() == {"count": 0}
        return answers

    return walk


def wants_an_administrator(method: str, path: str, **request: Any) -> Walk:
    async def walk(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
        answer = await bound.request(method, re.sub(r"\{\w+\}", NOBODY, path), **request)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        return [answer]

    return walk


async def uploads(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    content = (SAMPLES / "salt-marsh-article.pdf").read_bytes()
    form = {"files": {"file": ("a.pdf", content)}, "data": {"collection": FOREIGN}}
    there = await bound.post("/documents", **form)  # type: ignore[arg-type]
    form["data"] = {"collection": f"letters-{uuid4()}"}
    nowhere = await bound.post("/documents", **form)  # type: ignore[arg-type]
    assert (there.status_code, there.json()["code"]) == (404, "collection_not_found")
    assert there.content == nowhere.content
    form["data"] = {"collection": "reports of its own"}
    here = await bound.post("/documents", **form)  # type: ignore[arg-type]
    assert (here.status_code, here.json()["duplicate"]) == (202, False)
    deleted = await bound.delete(f"/documents/{here.json()['document_id']}")
    assert deleted.status_code == 204
    return [there, nowhere, here]


async def changes(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    change = like_nothing("PATCH", "/documents/{document_id}", json={"title": "mine", "collection": OWN})
    moved = await bound.patch(f"/documents/{own.ready['document_id']}", json={"collection": FOREIGN})
    assert (moved.status_code, moved.json()["code"]) == (404, "collection_not_found")
    for title in ("Of its own", None):
        named = await bound.patch(f"/documents/{own.ready['document_id']}", json={"title": title})
        assert named.status_code == 200, named.text
    return [moved, named, *(await change(bound, own, foreign))]


async def searches(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    answers = []
    for mode in ("hybrid", "vector", "text"):
        question = {"query": "salt marsh plants", "mode": mode, "neighbours": 1, "limit": 50}
        question["highlight"] = True
        found = await bound.post("/search", json=question)
        assert {hit["document_id"] for hit in found.json()["data"]} == {own.ready["document_id"]}
        assert any(hit["marks"] for hit in found.json()["data"])
        answers.append(found)
        for narrower in (
            {"collection": FOREIGN},
            {"document_ids": [foreign.ready["document_id"]]},
            {"filter": {"type": "eq", "key": "filename", "value": f"{FOREIGN}.pdf"}},
        ):
            nothing = await bound.post("/search", json=question | narrower)
            assert nothing.json()["data"] == []
            answers.append(nothing)
    return answers


async def draws(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    page = await like_nothing("GET", "/documents/{document_id}/pages/1.png")(bound, own, foreign)
    path = f"/documents/{own.ready['document_id']}/pages/1.png"
    marked = await bound.get(path, params={"highlight": foreign.chunk_id})
    assert marked.json()["code"] == "chunk_not_found"
    return [*page, marked]


async def follows(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    named = await bound.get("/tasks/events", params={"ids": foreign.waiting["task_id"]})
    nobodys = await bound.get("/tasks/events", params={"ids": NOBODY})
    assert (named.status_code, named.content) == (404, nobodys.content)
    both = {"ids": f"{foreign.ready['task_id']},{own.ready['task_id']}"}
    assert await streamed(bound, both) == {own.ready["task_id"]}
    assert own.waiting["task_id"] in await streamed(bound, {}, until=own.waiting["task_id"])
    assert await streamed(bound, {"collection": FOREIGN}, seconds=1) == set()
    return [named]


async def streamed(
    client: httpx.AsyncClient, parameters: dict[str, str], *, until: str = "", seconds: float = 30
) -> set[str]:
    """Ids of the tasks that a stream shows to its end, or until it shows one of them, or so long."""
    found: set[str] = set()
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            client.stream("GET", "/tasks/events", params=parameters) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.add(json.loads(line.removeprefix("data: "))["task_id"])
                if until in found:
                    break
    return found


async def cancels(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    other = await bound.post("/tasks/cancel", json={"collection": FOREIGN})
    assert other.json() == {"count": 0}
    everything = await bound.post("/tasks/cancel")
    assert everything.json() == {"count": 1}
    return [other, everything]


async def makes_tokens(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    refused = [
        await bound.post("/keys/tokens", json={"collections": patterns})
        for patterns in ([FOREIGN], ["*"], [OWN, FOREIGN], ["report*"])
    ]
    assert {answer.json()["code"] for answer in refused} == {"collection_not_found"}
    made = await bound.post("/keys/tokens", json={"document_ids": [foreign.ready["document_id"]]})
    token = {"Authorization": f"Bearer {made.json()['token']}"}
    page = await bound.get(f"/documents/{foreign.ready['document_id']}", headers=token)
    assert page.json()["code"] == "document_not_found"
    everything = await bound.get("/documents", headers=token)
    assert everything.json()["data"] == []
    return [*refused, page, everything]


async def counts_its_own(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    used = await bound.get("/usage")
    assert {(one["key"], one["collection"]) for one in used.json()["data"]} <= {("bound", None)}
    return [used]


def like_no_collection(method: str, **request: Any) -> Walk:
    """A foreign one's answer is to the letter that of one that never was."""

    async def walk(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
        names = (quote(FOREIGN, safe=""), f"letters-{uuid4()}")
        there, nowhere = [await bound.request(method, f"/collections/{name}", **request) for name in names]
        assert (there.status_code, there.json()["code"]) == (404, "collection_not_found")
        assert there.content == nowhere.content
        return [there]

    return walk


async def lists_its_collections(
    bound: httpx.AsyncClient, own: Library, foreign: Library
) -> list[httpx.Response]:
    listed = await bound.get("/collections")
    assert OWN in {one["name"] for one in listed.json()["data"]}
    assert not [one for one in listed.json()["data"] if not one["name"].startswith("reports")]
    return [listed]


async def makes_collections(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    there = await bound.post("/collections", json={"name": FOREIGN})
    nowhere = await bound.post("/collections", json={"name": f"letters-{uuid4()}"})
    assert (there.status_code, there.json()["code"]) == (404, "collection_not_found")
    assert there.content == nowhere.content
    here = await bound.post("/collections", json={"name": "reports, more"})
    assert here.status_code == 201
    return [there, here]


async def renames(bound: httpx.AsyncClient, own: Library, foreign: Library) -> list[httpx.Response]:
    there = await like_no_collection("PATCH", json={"name": "reports, mine"})(bound, own, foreign)
    away = await bound.patch(f"/collections/{OWN}", json={"name": FOREIGN})
    assert (away.status_code, away.json()["code"]) == (404, "collection_not_found")
    return [*there, away]


async def counts_its_own_metadata(
    bound: httpx.AsyncClient, own: Library, foreign: Library
) -> list[httpx.Response]:
    """The metadata of each document names its collection: see `upload`."""
    keys = await bound.get("/metadata")
    assert keys.json()["data"] == [{"key": OWN, "documents": 1}, {"key": "shelf", "documents": 1}]
    values = await bound.get("/metadata/values", params={"key": "shelf"})
    assert values.json()["data"] == [{"value": OWN, "documents": 1}]
    there = [await bound.get("/metadata", params={"collection": FOREIGN})]
    there.append(await bound.get("/metadata", params={"document_ids": [foreign.ready["document_id"]]}))
    by_name = {"filter": json.dumps({"type": "eq", "key": "filename", "value": f"{FOREIGN}.pdf"})}
    there.append(await bound.get("/metadata", params=by_name))
    for key in ("shelf", FOREIGN):
        there.append(await bound.get("/metadata/values", params={"collection": FOREIGN, "key": key}))
    for answer in there:
        assert answer.json() == {"data": [], "has_more": False}
    return [keys, values, *there]


WALKS: dict[str, Walk] = {
    "POST /collections": makes_collections,
    "GET /collections": lists_its_collections,
    "GET /collections/{name}": like_no_collection("GET"),
    "PATCH /collections/{name}": renames,
    "DELETE /collections/{name}": like_no_collection("DELETE", params={"dry_run": True}),
    **{
        operation: wants_an_administrator(*operation.split())
        for operation in (
            "POST /webhooks",
            "GET /webhooks",
            "GET /webhooks/{webhook_id}",
            "DELETE /webhooks/{webhook_id}",
            "POST /webhooks/{webhook_id}/ping",
            "POST /webhooks/{webhook_id}/rotate",
            "POST /webhooks/{webhook_id}/replay",
            "GET /webhooks/{webhook_id}/deliveries",
            "POST /webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
        )
    },
    "GET /usage": counts_its_own,
    "POST /documents": uploads,
    "GET /documents": lists_its_own("/documents", "document_id"),
    "GET /documents/{document_id}": like_nothing("GET", "/documents/{document_id}"),
    "PUT /documents/{document_id}": like_nothing(
        "PUT", "/documents/{document_id}", files={"file": ("a.pdf", b"%PDF-1.4 ")}
    ),
    "PATCH /documents/{document_id}": changes,
    "DELETE /documents/{document_id}": like_nothing("DELETE", "/documents/{document_id}"),
    "POST /documents/retry": counts_nothing(
        "/documents/retry",
        lambda foreign: {"collection": FOREIGN},
        lambda foreign: {"document_ids": [foreign.failed["document_id"]]},
    ),
    "POST /documents/delete": counts_nothing(
        "/documents/delete",
        lambda foreign: {"document_ids": [foreign.ready["document_id"], foreign.waiting["document_id"]]},
    ),
    "POST /documents/{document_id}/retry": like_nothing("POST", "/documents/{document_id}/retry"),
    "GET /documents/{document_id}/chunks": like_nothing("GET", "/documents/{document_id}/chunks"),
    "GET /documents/{document_id}/file": like_nothing("GET", "/documents/{document_id}/file"),
    "GET /documents/{document_id}/pages/{page}.png": draws,
    "GET /tasks": lists_its_own("/tasks", "task_id"),
    "GET /tasks/events": follows,
    "GET /tasks/{task_id}": like_nothing("GET", "/tasks/{task_id}", params={"wait": 1}),
    "GET /tasks/{task_id}/events": like_nothing("GET", "/tasks/{task_id}/events"),
    "POST /tasks/{task_id}/cancel": like_nothing("POST", "/tasks/{task_id}/cancel"),
    "POST /search": searches,
    "GET /metadata": counts_its_own_metadata,
    "GET /metadata/values": counts_its_own_metadata,
    "GET /workers": wants_an_administrator("GET", "/workers"),
    "GET /stats": wants_an_administrator("GET", "/stats"),
    "POST /keys": wants_an_administrator("POST", "/keys", json={"name": "a", "scopes": ["admin"]}),
    "POST /keys/tokens": makes_tokens,
    "GET /keys": wants_an_administrator("GET", "/keys"),
    "DELETE /keys/{key_id}": wants_an_administrator("DELETE", "/keys/{key_id}"),
    "POST /tasks/cancel": cancels,
}


def test_each_operation_is_walked(locked: Served) -> None:
    """Whoever adds one says here what a bound key sees of it."""
    operations = {
        f"{method.upper()} {path}"
        for path, methods in locked.app.openapi()["paths"].items()
        for method in methods
    }
    assert operations - OPEN == set(WALKS)


# First: among the walks of the next test is one that cancels what waits.
@pytest.mark.parametrize("operation", [one for one in WALKS if one[:4] == "GET " and one != "GET /usage"])
async def test_a_token_of_an_unbound_key_reads_as_little_as_a_bound_key(
    locked: Served, operation: str, root: httpx.AsyncClient, own: Library, foreign: Library
) -> None:
    token = (await root.post("/keys/tokens", json={"collections": ["reports*"]})).json()["token"]
    async with httpx.AsyncClient(base_url=locked.url, timeout=30, headers=bearer(token)) as client:
        for answer in await WALKS[operation](client, own, foreign):
            told = answer.content.decode(errors="replace")
            assert not [trace for trace in foreign.traces if trace in told], (operation, told)


@pytest.mark.parametrize("operation", WALKS)
async def test_of_what_is_out_of_its_reach_a_key_learns_and_changes_nothing(
    operation: str, root: httpx.AsyncClient, bound: httpx.AsyncClient, own: Library, foreign: Library
) -> None:
    before = await everything_of(root, foreign)
    for answer in await WALKS[operation](bound, own, foreign):
        told = answer.content.decode(errors="replace")
        assert not [trace for trace in foreign.traces if trace in told], (operation, told)
    assert await everything_of(root, foreign) == before


@pytest.mark.parametrize("path", ["/documents/{}/file", "/documents/{}/pages/1.png"])
@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"If-None-Match": "*"}), ("GET", {"Range": "bytes=0-0"}), ("OPTIONS", {})],
)
async def test_no_condition_of_a_request_tells_that_a_foreign_document_is_there(
    bound: httpx.AsyncClient, foreign: Library, path: str, method: str, headers: dict[str, str]
) -> None:
    answers = [
        await bound.request(method, path.format(document_id), headers=headers)
        for document_id in (foreign.ready["document_id"], NOBODY)
    ]
    there, nowhere = [(answer.status_code, answer.content, set(answer.headers)) for answer in answers]
    assert there == nowhere
    assert there[0] in {404, 405}


async def everything_of(root: httpx.AsyncClient, library: Library) -> list[Any]:
    documents = (library.ready, library.failed, library.waiting)
    paths = [f"/documents/{one['document_id']}" for one in documents]
    tasks = await root.get("/tasks", params={"collection": FOREIGN})
    moving = {"queue_position"}
    return [(await root.get(path)).json() for path in paths] + [
        {name: value for name, value in task.items() if name not in moving} for task in tasks.json()["data"]
    ]


async def test_what_a_key_follows_ends_when_it_leaves_its_reach(
    root: httpx.AsyncClient, bound: httpx.AsyncClient
) -> None:
    waiting = await upload(root, OWN, b"%PDF-1.4 " + uuid4().bytes, "a.pdf")
    seen: list[str] = []

    async def follow() -> None:
        async with bound.stream("GET", f"/tasks/{waiting['task_id']}/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    seen.append(line)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(30):
        while not seen:  # noqa: ASYNC110 - the server tells nobody else
            await asyncio.sleep(0.05)
        moved = await root.patch(f"/documents/{waiting['document_id']}", json={"collection": FOREIGN})
        assert moved.status_code == 200
        assert (await bound.get(f"/tasks/{waiting['task_id']}")).status_code == 404
        await root.post(f"/tasks/{waiting['task_id']}/cancel")
        await following
    assert not [line for line in seen if "cancelled" in line]


async def test_who_waits_for_a_task_hears_its_end_though_its_document_is_deleted(
    root: httpx.AsyncClient, bound: httpx.AsyncClient
) -> None:
    waiting = await upload(root, OWN, b"%PDF-1.4 " + uuid4().bytes, "a.pdf")
    asking = asyncio.create_task(bound.get(f"/tasks/{waiting['task_id']}", params={"wait": 20}))
    await asyncio.sleep(0.5)
    assert (await root.delete(f"/documents/{waiting['document_id']}")).status_code == 204
    assert (await asking).json()["status"] == "cancelled"
    assert (await bound.get(f"/tasks/{waiting['task_id']}")).json()["status"] == "cancelled"
    elsewhere = await upload(root, FOREIGN, b"%PDF-1.4 " + uuid4().bytes, "a.pdf")
    await root.delete(f"/documents/{elsewhere['document_id']}")
    for path in (f"/tasks/{elsewhere['task_id']}", f"/tasks/{elsewhere['task_id']}/events"):
        assert (await bound.get(path)).json()["code"] == "task_not_found"


async def test_the_deletion_of_a_collection_is_a_task_of_those_who_may_see_it(
    root: httpx.AsyncClient, bound: httpx.AsyncClient
) -> None:
    for name, status in ((f"letters-{uuid4()}", 404), (f"reports-{uuid4()}", 200)):
        await root.post("/collections", json={"name": name})
        task = (await root.delete(f"/collections/{name}")).json()
        for wait in (0, 1):
            answer = await bound.get(f"/tasks/{task['task_id']}", params={"wait": wait})
            assert answer.status_code == status


async def test_callers_of_one_name_share_no_idempotency_keys(locked: Served, root: httpx.AsyncClient) -> None:
    first, second = await made(root, name="twice"), await made(root, name="twice", collections=["reports*"])
    form = {"files": {"file": ("a.pdf", b"%PDF-1.4 " + uuid4().bytes)}, "data": {"collection": FOREIGN}}
    again = {"Idempotency-Key": uuid4().hex}
    async with httpx.AsyncClient(base_url=locked.url, timeout=30) as client:
        for key, status in ((first, 202), (second, 404), (first, 202)):
            headers = bearer(key["secret"]) | again
            answer = await client.post("/documents", headers=headers, **form)  # type: ignore[arg-type]
            assert answer.status_code == status


@dataclass(frozen=True, slots=True)
class Forgetful(Reach):
    """What all statements and services would do if each of them forgot its condition."""

    def sql(self, documents: str) -> str:
        return "true"

    def sql_of_collections(self, name: str) -> str:
        return "true"

    @property
    def parameters(self) -> dict[str, Any]:
        return {}

    def has_collection(self, collection: str | None) -> bool:
        return True

    def has_all_of(self, collection: str) -> bool:
        return True

    def has_document(self, collection: str | None, document_id: UUID) -> bool:
        return True


FORGETFUL = Forgetful(("reports*",))


@pytest.mark.parametrize("document", ["ready", "failed", "waiting"])
async def test_a_service_that_forgets_its_conditions_finds_no_foreign_document(
    locked: Served, root: httpx.AsyncClient, foreign: Library, document: str
) -> None:
    services = locked.services
    documents = services.documents.for_caller(Caller(reach=FORGETFUL))
    catalog = Catalog(services.database, services.files, FORGETFUL)
    there: dict[str, Any] = getattr(foreign, document)
    document_id, task_id = UUID(there["document_id"]), UUID(there["task_id"])
    before = await everything_of(root, foreign)
    async with documents.uploading() as upload:
        file = await upload.receive("a.pdf", pieces(b"%PDF-1.4 " + uuid4().bytes))
        for refused in (
            catalog.find(document_id),
            documents.require(document_id),
            catalog.list_chunks(document_id, None, 10),
            catalog.find_original(document_id),
            documents.change(document_id, Change(title="mine")),
            documents.change(document_id, Change(collection=OWN)),
            documents.replace(document_id, upload, file),
            documents.retry(document_id),
            documents.delete(document_id),
            services.pictures.find(document_id, 1, None, 100, FORGETFUL),
        ):
            with pytest.raises(DocumentNotFound):
                await refused
    with pytest.raises(TaskNotFound):
        await documents.cancel(task_id)
    assert await documents.delete_all([document_id]) == 0
    assert await documents.retry_failed(FailedDocuments(document_ids=[document_id])) == 0
    assert await documents.cancel_waiting(FOREIGN) == 0
    assert await everything_of(root, foreign) == before


async def test_a_service_that_forgets_its_conditions_lists_and_finds_its_own(
    locked: Served, own: Library, foreign: Library
) -> None:
    services = locked.services
    catalog = Catalog(services.database, services.files, FORGETFUL)
    listed = await catalog.list_documents(DocumentFilter(), DocumentOrder(), None, 500)
    assert str(own.ready["document_id"]) in {str(view.id) for view, _ in listed}
    assert {view.collection for view, _ in listed if not view.collection.startswith("reports")} == set()
    assert FOREIGN not in {counted.key for counted in await catalog.count_keys(SearchFilter(), 500)}
    assert {counted.value for counted in await catalog.count_values(SearchFilter(), "shelf", 500)} == {OWN}
    tasks = await services.progress.list_tasks(TaskFilter(), None, 500, FORGETFUL)
    assert str(own.ready["task_id"]) in {str(task.task_id) for task in tasks}
    assert not {str(task.task_id) for task in tasks} & foreign.traces
    question = {"query": "salt marsh plants", "limit": 50, "neighbours": 1}
    for mode in get_args(Mode):
        found = await services.rag.search(Search(**question, mode=mode, filter=SearchFilter(reach=FORGETFUL)))
        assert {str(hit.document_id) for hit in found.hits} == {own.ready["document_id"]}
        only = SearchFilter(document_ids=(UUID(foreign.ready["document_id"]),), reach=FORGETFUL)
        assert (await services.rag.search(Search(**question, mode=mode, filter=only))).hits == []


async def test_a_service_that_forgets_its_conditions_knows_no_foreign_collection(
    locked: Served, root: httpx.AsyncClient, own: Library, foreign: Library
) -> None:
    collections = locked.services.collections.within(FORGETFUL)
    for refused in (
        collections.find(FOREIGN),
        collections.change(FOREIGN, None, {"description": "mine"}),
        collections.change(FOREIGN, f"{OWN}-2", {}),
        collections.delete(FOREIGN),
    ):
        with pytest.raises(CollectionNotFound):
            await refused
    listed = await collections.list(None, 500)
    assert OWN in {counted.collection.name for counted in listed}
    assert FOREIGN not in {counted.collection.name for counted in listed}
    await root.post("/collections", json={"name": "letters to delete"})
    deletion = (await root.delete("/collections/letters to delete")).json()
    with pytest.raises(TaskNotFound):
        await collections.deletion(UUID(deletion["task_id"]))
    documents = locked.services.documents.for_caller(Caller(reach=FORGETFUL))
    async with documents.uploading() as upload:
        file = await upload.receive("a.pdf", pieces(b"%PDF-1.4 " + uuid4().bytes))
        with pytest.raises(DBAPIError, match="row-level security"):
            await documents.add(upload, [file], UploadOptions(collection=FOREIGN), lambda _: Answer(202, {}))


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content
