import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from uuid_utils.compat import uuid7

from app.api.originals import content_disposition
from app.config import Settings
from app.errors import Corrupted, EmbeddingFailed
from app.main import create_app
from tests.api.conftest import Served
from tests.services.workshop import Workshop, eventually, pdf

Serve = Callable[[Any], AbstractAsyncContextManager[Served]]


@dataclass
class Shelf:
    """A collection of a test's own, over HTTP, and a worker's hands to move its tasks along."""

    client: httpx.AsyncClient
    worker: Workshop

    async def upload(
        self, content: bytes | None = None, filename: str = "report.pdf", **fields: str
    ) -> httpx.Response:
        return await self.client.post(
            "/documents",
            data={"collection": self.worker.collection, **fields},
            files={"file": (filename, pdf() if content is None else content)},
        )

    async def added(self, content: bytes | None = None, **fields: str) -> dict[str, Any]:
        response = await self.upload(content, **fields)
        assert response.status_code == 202, response.text
        body: dict[str, Any] = response.json()
        return body

    async def ready(self, content: bytes | None = None, **fields: str) -> dict[str, Any]:
        added = await self.added(content, **fields)
        await self.worker.ingest(UUID(added["task_id"]))
        return added

    async def get(self, path: str, **options: Any) -> Any:
        response = await self.client.get(path, **options)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def shelf(client: httpx.AsyncClient, served: Served, settings: Settings) -> Shelf:
    folder = Path(httpx.URL(settings.storage_url).path)
    return Shelf(client, Workshop(served.services.database, served.services.space_id, folder))


def problem_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "retryable"} <= set(body)
    assert (body["status"], body["code"]) == (status, code)
    return body


async def test_an_upload_is_accepted_with_everything_needed_to_follow_it(shelf: Shelf):
    response = await shelf.upload()
    assert response.status_code == 202
    body = response.json()
    assert body == {
        "document_id": body["document_id"],
        "task_id": body["task_id"],
        "status": "queued",
        "duplicate": False,
        "links": {
            "document": f"/documents/{body['document_id']}",
            "task": f"/tasks/{body['task_id']}",
            "events": f"/tasks/{body['task_id']}/events",
        },
    }
    assert response.headers["location"] == f"/documents/{body['document_id']}"
    assert int(response.headers["retry-after"]) >= 1
    assert UUID(body["document_id"]).version == UUID(body["task_id"]).version == 7
    task = await shelf.get(body["links"]["task"])
    assert (task["status"], task["document_id"]) == ("queued", body["document_id"])
    document = await shelf.get(body["links"]["document"])
    assert (document["status"], document["filename"]) == ("queued", "report.pdf")


async def test_the_same_bytes_are_answered_with_the_document_there_is(shelf: Shelf):
    content = pdf()
    added = await shelf.ready(content)
    response = await shelf.upload(content)
    assert response.status_code == 200
    assert "retry-after" not in response.headers
    assert response.json() == {**added, "status": "success", "duplicate": True}
    kept = await shelf.added(content, on_duplicate="keep")
    assert kept["document_id"] != added["document_id"]
    replaced = await shelf.added(content, on_duplicate="replace")
    assert replaced["document_id"] == added["document_id"]
    assert replaced["task_id"] != added["task_id"]
    assert replaced["duplicate"]


async def test_one_file_sent_at_the_same_moment_is_one_document(shelf: Shelf):
    content = pdf()
    responses = await asyncio.gather(*(shelf.upload(content) for _ in range(16)))
    assert sorted(response.status_code for response in responses) == [200] * 15 + [202]
    assert len({response.json()["document_id"] for response in responses}) == 1


async def test_bulk_waits_behind_what_comes_later_and_is_interactive(shelf: Shelf):
    bulk = [await shelf.added(pdf(), priority="bulk") for _ in range(3)]
    interactive = await shelf.added(pdf())

    async def place(document: dict[str, Any]) -> int:
        return (await shelf.client.get(f"/tasks/{document['task_id']}")).json()["queue_position"]

    async def is_in_order() -> bool:
        places = [await place(one) for one in (bulk[0], bulk[1], bulk[2])]
        return places == sorted(places) and await place(interactive) < places[1]

    await eventually(is_in_order)


async def test_fields_may_come_in_any_order(shelf: Shelf):
    boundary = "x" * 30
    metadata = json.dumps({"after": "the file", "n": 2**70})
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n',
        "Content-Type: application/pdf\r\n\r\n",
        pdf().decode(),
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{metadata}',
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="collection"\r\n\r\n',
        shelf.worker.collection,
        f"\r\n--{boundary}--\r\n",
    ]
    response = await shelf.client.post(
        "/documents",
        content="".join(lines).encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    assert response.status_code == 202, response.text
    document = await shelf.get(f"/documents/{response.json()['document_id']}")
    assert document["collection"] == shelf.worker.collection
    assert document["metadata"] == {"after": "the file", "n": 2**70}


async def test_several_files_are_accepted_or_refused_one_by_one(shelf: Shelf):
    known = pdf()
    await shelf.added(known)
    response = await shelf.client.post(
        "/documents",
        data={"collection": shelf.worker.collection},
        files=[
            ("file", ("new.pdf", pdf())),
            ("file", ("notes.txt", b"plain text " * 5000)),
            ("file", ("known.pdf", known)),
            ("file", ("empty.pdf", b"")),
        ],
    )
    assert response.status_code == 202
    new, notes, duplicate, empty = response.json()["data"]
    assert (new["filename"], new["duplicate"], new["status"]) == ("new.pdf", False, "queued")
    assert (duplicate["filename"], duplicate["duplicate"]) == ("known.pdf", True)
    assert (notes["filename"], notes["problem"]["code"]) == ("notes.txt", "not_a_pdf")
    assert (empty["problem"]["status"], empty["problem"]["code"]) == (400, "empty_file")
    assert await shelf.worker.count_documents() == 2


async def test_when_all_of_several_files_are_refused_the_answer_is_a_problem(shelf: Shelf):
    response = await shelf.client.post(
        "/documents", files=[("file", ("a.txt", b"text")), ("file", ("b.pdf", b""))]
    )
    body = problem_of(response, 415, "not_a_pdf")
    assert [entry["problem"]["code"] for entry in body["data"]] == ["not_a_pdf", "empty_file"]


@pytest.mark.parametrize(
    ("content", "status", "code"), [(b"", 400, "empty_file"), (b"\x89PNG" * 999, 415, "not_a_pdf")]
)
async def test_what_cannot_be_a_pdf_is_refused(shelf: Shelf, content: bytes, status: int, code: str):
    problem_of(await shelf.upload(content), status, code)
    assert await shelf.worker.count_documents() == 0


@pytest.mark.parametrize(
    ("fields", "code", "where"),
    [
        ({"colection": "typo"}, "invalid_request", "body.colection"),
        ({"collection": ""}, "invalid_request", "body.collection"),
        ({"collection": "c" * 201}, "invalid_request", "body.collection"),
        ({"collection": "a\0b"}, "invalid_request", "body.collection"),
        ({"on_duplicate": "overwrite"}, "invalid_request", "body.on_duplicate"),
        ({"priority": "urgent"}, "invalid_request", "body.priority"),
        ({"password": "p" * 1001}, "invalid_request", "body.password"),
        ({"metadata": "x" * 20_000}, "invalid_request", "body.metadata"),
        ({"metadata": "[1, 2]"}, "invalid_metadata", None),
        ({"metadata": "{'a': 1}"}, "invalid_metadata", None),
        ({"metadata": '{"a": NaN}'}, "invalid_metadata", None),
        ({"metadata": '{"a": 1e999}'}, "invalid_metadata", None),
        ({"metadata": '{"a": "\\u0000"}'}, "invalid_metadata", None),
        ({"metadata": '{"a": "\\ud800"}'}, "invalid_metadata", None),
        ({"metadata": '{"a":' * 3000}, "invalid_metadata", None),
        ({"metadata": json.dumps({"a": "é" * 6000}, ensure_ascii=False)}, "invalid_metadata", None),
    ],
)
async def test_a_wrong_field_is_refused_and_nothing_is_kept(
    shelf: Shelf, fields: dict[str, str], code: str, where: str | None
):
    before = shelf.worker.stored()
    body = problem_of(await shelf.upload(**fields), 422, code)
    if where:
        assert [fault["where"] for fault in body["errors"]] == [where]
    assert shelf.worker.stored() == before


async def test_a_password_never_comes_back_in_an_answer(shelf: Shelf):
    response = await shelf.upload(password="open sesame" * 200)
    assert "sesame" not in response.text
    added = await shelf.added(password="open sesame")
    document = await shelf.client.get(f"/documents/{added['document_id']}")
    assert "sesame" not in document.text


async def test_a_request_that_is_no_form_with_a_file_is_refused(shelf: Shelf):
    problem_of(await shelf.client.post("/documents", json={"file": "a.pdf"}), 422, "invalid_request")
    problem_of(await shelf.client.post("/documents"), 422, "invalid_request")
    problem_of(await shelf.client.post("/documents", files={"fields": b"x"}), 422, "invalid_request")
    twice = [("collection", (None, b"a")), ("collection", (None, b"b")), ("file", ("a.pdf", pdf()))]
    body = problem_of(await shelf.client.post("/documents", files=twice), 422, "invalid_request")
    assert body["errors"] == [{"where": "body.collection", "detail": "was given twice"}]


async def test_a_repeated_request_with_its_key_gets_the_first_answer(shelf: Shelf):
    content = pdf()
    collection = shelf.worker.collection

    async def send(content: bytes, key: str) -> httpx.Response:
        return await shelf.client.post(
            "/documents",
            data={"collection": collection, "on_duplicate": "keep"},
            files={"file": ("a.pdf", content)},
            headers={"Idempotency-Key": key},
        )

    key = str(uuid4())
    first = await send(content, key)
    again = await send(content, key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert await shelf.worker.count_documents() == 1
    problem_of(await send(pdf(), key), 422, "idempotency_key_reused")
    refused_key = str(uuid4())
    problem_of(await send(b"no", refused_key), 415, "not_a_pdf")
    assert (await send(pdf(), refused_key)).status_code == 202
    problem_of(await send(pdf(), "k" * 256), 422, "invalid_request")


async def test_a_key_whose_first_request_still_uploads_is_refused(shelf: Shelf):
    key = str(uuid4())
    headers = {"Idempotency-Key": key, "Content-Type": "multipart/form-data; boundary=b"}
    may_end = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n' + pdf()
        await may_end.wait()
        yield b"\r\n--b--\r\n"

    first = asyncio.create_task(shelf.client.post("/documents", content=slowly(), headers=headers))
    await eventually(lambda: shelf.worker.scalars("SELECT 1 FROM idempotency_keys WHERE key = :key", key=key))
    second = await shelf.client.post(
        "/documents", files={"file": ("a.pdf", pdf())}, headers={"Idempotency-Key": key}
    )
    problem_of(second, 409, "idempotency_key_in_work")
    may_end.set()
    assert (await first).status_code == 202


async def test_a_document_shows_its_served_version(shelf: Shelf):
    content = pdf()
    added = await shelf.ready(content, metadata='{"year": 2025}')
    document = await shelf.get(f"/documents/{added['document_id']}")
    assert document["created_at"].endswith("Z")
    assert document["updated_at"] > document["created_at"]
    del document["created_at"], document["updated_at"], document["sha256"]
    assert document == {
        "document_id": added["document_id"],
        "task_id": added["task_id"],
        "status": "ready",
        "filename": "report.pdf",
        "title": "Title",
        "collection": shelf.worker.collection,
        "pages": 3,
        "pages_failed": [],
        "pages_without_text": [3],
        "engine": "pdfium",
        "language": "en",
        "chunks": 2,
        "bytes": len(content),
        "metadata": {"year": 2025},
        "error": None,
        "update": None,
    }
    problem_of(await shelf.client.get(f"/documents/{uuid7()}"), 404, "document_not_found")
    problem_of(await shelf.client.get("/documents/abc"), 422, "invalid_request")


async def test_all_that_failed_is_retried_at_once(shelf: Shelf):
    failed = [await shelf.added() for _ in range(3)]
    for added, error in zip(failed, (EmbeddingFailed(), EmbeddingFailed(), Corrupted()), strict=True):
        await shelf.worker.fail(UUID(added["task_id"]), error)
    await shelf.ready(pdf())
    mine = {"collection": shelf.worker.collection}
    listed = await shelf.get("/documents", params={**mine, "code": "embedding_failed"})
    assert {one["document_id"] for one in listed["data"]} == {one["document_id"] for one in failed[:2]}
    assert (await shelf.get("/documents", params={**mine, "code": "no_text"}))["data"] == []

    answer = await shelf.client.post("/documents/retry", json={**mine, "codes": ["embedding_failed"]})
    assert (answer.status_code, answer.json()) == (202, {"count": 2})
    for added in failed[:2]:
        document = await shelf.get(f"/documents/{added['document_id']}")
        assert (document["status"], document["error"]) == ("queued", None)
        assert document["task_id"] != added["task_id"]
        await shelf.worker.ingest(UUID(document["task_id"]))
    assert (await shelf.client.post("/documents/retry", json=mine)).json() == {"count": 1}
    assert (await shelf.client.post("/documents/retry", json=mine)).json() == {"count": 0}
    problem_of(await shelf.client.post("/documents/retry", json={"codes": []}), 422, "invalid_request")
    problem_of(await shelf.client.post("/documents/retry", json={"code": "x"}), 422, "invalid_request")


async def test_a_document_that_failed_says_why_and_can_be_retried(shelf: Shelf):
    added = await shelf.added()
    path = f"/documents/{added['document_id']}"
    problem_of(await shelf.client.post(f"{path}/retry"), 409, "already_in_work")
    await shelf.worker.fail(UUID(added["task_id"]))
    document = await shelf.get(path)
    assert document["status"] == "failed"
    assert document["error"] == {
        "code": "corrupted",
        "message": "The PDF is damaged or cut short: no engine here can read its pages.",
        "retryable": False,
    }
    problem_of(await shelf.client.post(f"{path}/retry", json={"pasword": "x"}), 422, "invalid_request")
    again = await shelf.client.post(f"{path}/retry", json={"password": "open sesame"})
    assert again.status_code == 202
    assert again.json()["document_id"] == added["document_id"]
    assert again.json()["task_id"] != added["task_id"]
    assert again.headers["location"] == path
    row = await shelf.worker.row(UUID(again.json()["task_id"]))
    assert row.password is not None
    problem_of(await shelf.client.post(f"/documents/{uuid7()}/retry"), 404, "document_not_found")


async def test_a_password_with_half_a_character_is_refused(shelf: Shelf):
    added = await shelf.added()
    await shelf.worker.fail(UUID(added["task_id"]))
    response = await shelf.client.post(
        f"/documents/{added['document_id']}/retry",
        content=rb'{"password": "\ud800"}',
        headers={"content-type": "application/json"},
    )
    body = problem_of(response, 422, "invalid_request")
    assert [fault["where"] for fault in body["errors"]] == ["body.password"]


async def test_a_new_version_is_an_update_until_it_is_published(shelf: Shelf):
    added = await shelf.ready()
    path = f"/documents/{added['document_id']}"
    response = await shelf.client.put(path, files={"file": ("v2.pdf", pdf())}, data={"metadata": '{"v": 2}'})
    assert response.status_code == 202
    newer = response.json()
    assert (newer["document_id"], newer["status"]) == (added["document_id"], "queued")
    document = await shelf.get(path)
    assert (document["status"], document["filename"]) == ("ready", "report.pdf")
    assert document["update"] == {"task_id": newer["task_id"], "status": "queued", "error": None}
    await shelf.worker.ingest(UUID(newer["task_id"]))
    document = await shelf.get(path)
    assert (document["filename"], document["metadata"], document["update"]) == ("v2.pdf", {"v": 2}, None)


async def test_a_new_version_is_one_file_and_a_pdf(shelf: Shelf):
    path = f"/documents/{(await shelf.added())['document_id']}"
    before = shelf.worker.stored()
    two = [("file", ("a.pdf", pdf())), ("file", ("b.pdf", pdf()))]
    problem_of(await shelf.client.put(path, files=two), 422, "invalid_request")
    problem_of(await shelf.client.put(path, files={"file": b"text"}), 415, "not_a_pdf")
    field = {"on_duplicate": "keep"}
    problem_of(await shelf.client.put(path, files={"file": pdf()}, data=field), 422, "invalid_request")
    unknown = await shelf.client.put(f"/documents/{uuid7()}", files={"file": pdf()})
    problem_of(unknown, 404, "document_not_found")
    assert shelf.worker.stored() <= before


async def test_a_deleted_document_is_gone_with_its_file(shelf: Shelf):
    added = await shelf.ready()
    path = f"/documents/{added['document_id']}"
    assert (await shelf.client.delete(path)).status_code == 204
    problem_of(await shelf.client.get(path), 404, "document_not_found")
    problem_of(await shelf.client.get(f"{path}/file"), 404, "document_not_found")
    problem_of(await shelf.client.get(f"{path}/chunks"), 404, "document_not_found")
    problem_of(await shelf.client.delete(path), 404, "document_not_found")

    async def file_is_gone() -> bool:
        return f"{added['task_id']}.pdf" not in shelf.worker.stored()

    await eventually(file_is_gone)
    assert (await shelf.get(f"/tasks/{added['task_id']}"))["status"] == "success"


async def test_cancelling_a_task_cancels_its_document(shelf: Shelf):
    added = await shelf.added()
    response = await shelf.client.post(f"/tasks/{added['task_id']}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "cancelled")
    assert (await shelf.get(f"/documents/{added['document_id']}"))["status"] == "cancelled"


async def test_documents_are_listed_page_by_page(shelf: Shelf):
    added = [await shelf.added(filename=f"{n}.pdf") for n in range(5)]
    await shelf.worker.ingest(UUID(added[3]["task_id"]))
    wanted = {"collection": shelf.worker.collection}
    seen = []
    after: dict[str, str] = {}
    while True:
        page = await shelf.get("/documents", params={**wanted, "limit": "2", **after})
        seen += [document["filename"] for document in page["data"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == ["4.pdf", "3.pdf", "2.pdf", "1.pdf", "0.pdf"]
    ready = await shelf.get("/documents", params={**wanted, "status": "ready"})
    assert [document["filename"] for document in ready["data"]] == ["3.pdf"]
    named = await shelf.get("/documents", params={**wanted, "filename": "1.pdf"})
    assert [document["document_id"] for document in named["data"]] == [added[1]["document_id"]]


@pytest.mark.parametrize(
    "wrong", [{"limit": "0"}, {"limit": "501"}, {"after": "x"}, {"status": "done"}, {"collection": "a\0b"}]
)
async def test_a_wrong_question_for_documents_is_refused(shelf: Shelf, wrong: dict[str, str]):
    problem_of(await shelf.client.get("/documents", params=wrong), 422, "invalid_request")


async def test_chunks_are_listed_page_by_page_of_one_version(shelf: Shelf):
    added = await shelf.ready()
    path = f"/documents/{added['document_id']}/chunks"
    first = await shelf.get(path, params={"limit": "1"})
    (chunk,) = first["data"]
    assert chunk == {
        "chunk_id": chunk["chunk_id"],
        "ordinal": 0,
        "page_start": 1,
        "page_end": 1,
        "heading": None,
        "text": "chunk 0",
        "tokens": 2,
        "hidden_text": False,
    }
    last = await shelf.get(path, params={"after": first["next"]})
    assert [chunk["ordinal"] for chunk in last["data"]] == [1]
    assert last["next"] is None
    newer = await shelf.client.put(path.removesuffix("/chunks"), files={"file": pdf()})
    await shelf.worker.ingest(UUID(newer.json()["task_id"]))
    stale = await shelf.client.get(path, params={"after": first["next"]})
    problem_of(stale, 409, "document_replaced")
    for wrong in ("x", "1:2", f"{uuid7()}", f"{uuid7()}:x", f"{uuid7()}:{'9' * 20}"):
        problem_of(await shelf.client.get(path, params={"after": wrong}), 422, "invalid_request")


async def test_a_file_keeps_its_name_whatever_it_is(shelf: Shelf):
    for name in ('Über "uns"; a=b.pdf', "../../日本.pdf", "100 %.pdf"):
        added = await shelf.added(filename=name)
        document = await shelf.get(f"/documents/{added['document_id']}")
        assert document["filename"] == name.removeprefix("../../")


async def test_a_file_comes_back_whole_and_as_what_it_is(shelf: Shelf):
    content = pdf("x" * 300_000)
    added = await shelf.added(content)
    response = await shelf.client.get(f"/documents/{added['document_id']}/file")
    assert (response.status_code, response.content) == (200, content)
    assert response.headers["content-type"] == "application/pdf"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["accept-ranges"] == "bytes"
    document = await shelf.get(f"/documents/{added['document_id']}")
    assert response.headers["etag"] == f'"{document["sha256"]}"'
    head = await shelf.client.head(f"/documents/{added['document_id']}/file")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(content)), b"")
    cached = await shelf.client.get(
        f"/documents/{added['document_id']}/file", headers={"If-None-Match": response.headers["etag"]}
    )
    assert (cached.status_code, cached.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=990-", 206, 990, 1000),
        ("bytes=-10", 206, 990, 1000),
        ("bytes=0-99999", 206, 0, 1000),
        ("bytes=-99999", 206, 0, 1000),
        ("bytes=1000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=9-1", 200, 0, 1000),
        ("bytes=0-1,5-6", 200, 0, 1000),
        ("bytes=", 200, 0, 1000),
        ("bytes=-", 200, 0, 1000),
        ("lines=1-2", 200, 0, 1000),
        ("bytes=²-3", 200, 0, 1000),
    ],
)
async def test_a_range_of_a_file(shelf: Shelf, asked: str, status: int, start: int, end: int):
    content = pdf().ljust(1000, b"\n")
    added = await shelf.added(content)
    response = await shelf.client.get(
        f"/documents/{added['document_id']}/file", headers={"Range": asked.encode("latin-1")}
    )
    if status == 416:
        problem_of(response, 416, "range_not_satisfiable")
        assert response.headers["content-range"] == "bytes */1000"
        return
    assert response.status_code == status
    assert response.content == content[start:end]
    assert response.headers.get("content-range") == (
        f"bytes {start}-{end - 1}/1000" if status == 206 else None
    )


async def test_a_range_of_another_version_gets_the_whole_file(shelf: Shelf):
    content = pdf()
    added = await shelf.added(content)
    path = f"/documents/{added['document_id']}/file"
    etag = (await shelf.client.get(path)).headers["etag"]
    same = await shelf.client.get(path, headers={"Range": "bytes=0-3", "If-Range": etag})
    assert (same.status_code, same.content) == (206, content[:4])
    other = await shelf.client.get(path, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, content)


async def test_a_file_that_is_gone_is_a_problem_and_no_broken_answer(shelf: Shelf):
    added = await shelf.added()
    (shelf.worker.folder / f"{added['task_id']}.pdf").unlink()
    response = await shelf.client.get(f"/documents/{added['document_id']}/file")
    problem_of(response, 404, "file_not_found")


@pytest.mark.parametrize(
    "filename", ['a"; x="b.pdf', "a\r\nX-Evil: 1.pdf", "😀 日本.pdf", "a\\b.pdf", "%22.pdf"]
)
def test_no_filename_breaks_out_of_its_header(filename: str):
    header = content_disposition(filename)
    header.encode("ascii")
    assert header.isprintable()
    assert header.count('"') == 2
    assert header.count(";") == 2


async def test_the_examples_of_the_form_s_description_work(shelf: Shelf):
    openapi = (await shelf.client.get("/openapi.json")).json()
    body = openapi["paths"]["/documents"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = body["schema"]["properties"]
    examples = {
        name: field["examples"][0] if "examples" in field else field["default"]
        for name, field in fields.items()
        if name != "file"
    }
    assert set(examples) == {"collection", "metadata", "password", "on_duplicate", "priority"}
    sent = {name: value if isinstance(value, str) else json.dumps(value) for name, value in examples.items()}
    response = await shelf.client.post("/documents", data=sent, files={"file": pdf()})
    assert response.status_code == 202, response.text
    document = await shelf.get(response.json()["links"]["document"])
    assert (document["collection"], document["metadata"]) == (examples["collection"], examples["metadata"])


async def test_uploads_are_refused_while_the_queue_is_full(settings: Settings, serve: Serve):
    full = create_app(settings.model_copy(update={"max_queued": 1}))
    async with serve(full) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        await client.post("/documents", files={"file": pdf()})
        refused = await client.post("/documents", files={"file": pdf()})
        assert problem_of(refused, 429, "queue_full")["retryable"]
        assert int(refused.headers["retry-after"]) > 0


async def test_the_first_answer_is_given_again_however_full_the_queue_is(settings: Settings, serve: Serve):
    full = create_app(settings.model_copy(update={"max_queued": 1}))
    key, content = {"Idempotency-Key": uuid4().hex}, {"file": pdf()}
    async with (
        serve(create_app(settings)) as roomy,
        serve(full) as served,
        httpx.AsyncClient(timeout=30) as client,
    ):
        first = await client.post(f"{roomy.url}/documents", files=content, headers=key)
        again = await client.post(f"{served.url}/documents", files=content, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())


async def test_without_a_key_a_password_is_refused(settings: Settings, serve: Serve):
    keyless = create_app(settings.model_copy(update={"secret_key": None}))
    async with serve(keyless) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        refused = await client.post("/documents", files={"file": pdf()}, data={"password": "x"})
        problem_of(refused, 422, "password_needs_secret_key")
        assert (
            await client.post("/documents", files={"file": pdf()}, data={"password": ""})
        ).status_code == 202


async def test_a_store_that_takes_nothing_is_507(settings: Settings, serve: Serve, tmp_path: Path):
    (tmp_path / "a file").write_text("no folder")
    broken = create_app(settings.model_copy(update={"storage_url": f"{tmp_path.as_uri()}/a%20file"}))
    async with serve(broken) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        refused = await client.post("/documents", files={"file": pdf()})
        assert problem_of(refused, 507, "storage_failed")["retryable"]
        assert "retry-after" in refused.headers


@pytest.mark.parametrize("key", ["title", "filename", "pages", "chunks", "bytes", "updated_at", "status"])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_documents_are_listed_in_any_order_page_by_page(sorted_shelf: Shelf, key: str, order: str):
    seen: list[dict[str, Any]] = []
    wanted = {"collection": sorted_shelf.worker.collection, "sort": key, "order": order, "limit": "2"}
    after: dict[str, str] = {}
    while True:
        page = await sorted_shelf.get("/documents", params={**wanted, **after})
        seen += page["data"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len({one["document_id"] for one in seen}) == 5
    values = [one[key] or one["filename"] if key == "title" else one[key] or 0 for one in seen]
    assert values == sorted(values, reverse=order == "desc")
    other = {**wanted, "sort": "bytes" if key == "filename" else "filename", **after}
    problem_of(await sorted_shelf.client.get("/documents", params=other), 422, "invalid_request")


@pytest.fixture
async def sorted_shelf(shelf: Shelf) -> Shelf:
    for n in (3, 1, 4, 2, 0):
        added = await shelf.added(pdf("x" * 10 * n + str(uuid4())), filename=f"{n}.pdf")
        if n % 2:
            await shelf.worker.ingest(UUID(added["task_id"]))
    return shelf


async def test_documents_are_found_by_a_part_of_their_name_or_title(shelf: Shelf):
    ids = [(await shelf.added(filename=name))["document_id"] for name in ("Bees_100%.pdf", "wasps.pdf")]
    await shelf.client.patch(f"/documents/{ids[1]}", json={"title": "Not a BEE"})
    mine = {"collection": shelf.worker.collection}

    async def found(name: str) -> set[str]:
        listed = await shelf.get("/documents", params={**mine, "name": name})
        return {one["document_id"] for one in listed["data"]}

    assert await found("bee") == set(ids)
    assert await found("WASP") == {ids[1]}
    assert await found("0%") == {ids[0]}
    assert await found("_1") == {ids[0]}
    assert await found("%") == {ids[0]}
    assert await found("hornet") == set()


async def test_a_document_is_changed_without_being_ingested_again(shelf: Shelf):
    added = await shelf.ready(metadata='{"year": 2024}')
    path = f"/documents/{added['document_id']}"
    before = await shelf.get(path)

    async def change(**wishes: Any) -> dict[str, Any]:
        answer = await shelf.client.patch(path, json=wishes)
        assert answer.status_code == 200, answer.text
        assert answer.json() == await shelf.get(path)
        return answer.json()

    assert (await change(title="A better one")) == {**before, "title": "A better one"}
    assert (await change(metadata={"year": 2025}))["metadata"] == {"year": 2025}
    elsewhere = f"{shelf.worker.collection}-2"
    moved = await change(collection=elsewhere)
    assert (moved["title"], moved["collection"], moved["task_id"]) == (
        "A better one",
        elsewhere,
        before["task_id"],
    )
    assert await change() == moved
    assert (await change(title=None))["title"] == before["title"]
    problem_of(await shelf.client.patch(path, json={"filename": "x"}), 422, "invalid_request")
    problem_of(await shelf.client.patch(path, json={"title": "a\0b"}), 422, "invalid_request")
    problem_of(await shelf.client.patch(f"/documents/{uuid7()}", json={}), 404, "document_not_found")


async def test_a_title_given_by_a_person_outlives_a_new_version(shelf: Shelf):
    added = await shelf.ready()
    path = f"/documents/{added['document_id']}"
    await shelf.client.patch(path, json={"title": "Mine"})
    newer = await shelf.client.put(path, files={"file": ("newer.pdf", pdf())})
    await shelf.worker.ingest(UUID(newer.json()["task_id"]))
    document = await shelf.get(path)
    assert (document["filename"], document["title"]) == ("newer.pdf", "Mine")


async def test_many_documents_are_deleted_together(shelf: Shelf):
    ids = [(await shelf.ready())["document_id"] for _ in range(3)]
    wanted = {"document_ids": [*ids[:2], ids[0], str(uuid7())]}
    answer = await shelf.client.post("/documents/delete", json=wanted)
    assert (answer.status_code, answer.json()) == (200, {"count": 2})
    left = await shelf.get("/documents", params={"collection": shelf.worker.collection})
    assert [one["document_id"] for one in left["data"]] == [ids[2]]
    problem_of(
        await shelf.client.post("/documents/delete", json={"document_ids": []}), 422, "invalid_request"
    )


async def test_failed_documents_that_are_named_are_retried(shelf: Shelf):
    failed = [await shelf.added() for _ in range(3)]
    for added in failed:
        await shelf.worker.fail(UUID(added["task_id"]), Corrupted())
    ids = [one["document_id"] for one in failed]
    answer = await shelf.client.post("/documents/retry", json={"document_ids": ids[:2]})
    assert answer.json() == {"count": 2}
    assert [(await shelf.get(f"/documents/{one}"))["status"] for one in ids] == ["queued", "queued", "failed"]
