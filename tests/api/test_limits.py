"""How much a key may ask for, in a minute and in a month, and what it has."""

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.config import Settings
from app.main import create_app
from tests.api.conftest import ROOT, Served, bearer, made
from tests.services.workshop import eventually
from tests.test_migrations import execute

SAMPLES = Path(__file__).parent.parent.parent / "samples"


async def early_in_a_minute() -> None:
    """What is counted in a minute is not split by its end, so near it wait for the next."""
    if (second := time.time() % 60) > 40:
        await asyncio.sleep(60.5 - second)


async def upload(
    client: httpx.AsyncClient, key: str, content: bytes | None = None, collection: str = "letters"
) -> httpx.Response:
    form = {
        "files": {"file": ("a.pdf", content or b"%PDF-1.4 " + uuid4().bytes)},
        "data": {"collection": collection},
    }
    return await client.post("/documents", headers=bearer(key), **form)  # type: ignore[arg-type]


@pytest.mark.heavy
async def test_requests_of_a_minute_are_counted_and_told(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    await early_in_a_minute()
    secret = (await made(root, limits={"requests_per_minute": 3}))["secret"]
    answers = [await stranger.get("/documents", headers=bearer(secret)) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=60'}
    told = [re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["ratelimit"]) for answer in answers]
    assert [one and one[1] for one in told] == ["2", "1", "0", "0", "0"]
    assert answers[-1].json()["code"] == "rate_limited"
    assert answers[-1].headers["retry-after"] == (told[-1] and told[-1][2])
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert "ratelimit" not in (await root.get("/documents")).headers


async def test_a_forbidden_request_counts_and_a_token_counts_for_its_key(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    await early_in_a_minute()
    secret = (await made(root, limits={"requests_per_minute": 3}))["secret"]
    assert (await stranger.get("/stats", headers=bearer(secret))).status_code == 403
    token = (await stranger.post("/keys/tokens", headers=bearer(secret))).json()["token"]
    assert (await stranger.get("/documents", headers=bearer(token))).status_code == 200
    assert (await stranger.get("/documents", headers=bearer(token))).json()["code"] == "rate_limited"
    assert (await stranger.get("/documents", headers=bearer(secret))).json()["code"] == "rate_limited"


async def test_requests_are_counted_by_all_processes_together(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient, locked_settings: Settings, serve: Any
) -> None:
    await early_in_a_minute()
    secret = (await made(root, limits={"requests_per_minute": 10}))["secret"]

    async def status(client: httpx.AsyncClient) -> int:
        return (await client.get("/documents", headers=bearer(secret))).status_code

    async with (
        serve(create_app(locked_settings)) as other,
        httpx.AsyncClient(base_url=other.url, timeout=30) as elsewhere,
    ):
        for client in (stranger, elsewhere):
            for _ in range(4):
                assert await status(client) == 200
        await asyncio.sleep(2)  # eight are counted
        assert [await status(stranger), await status(elsewhere)] == [200, 200]

        async def is_over() -> bool:
            return [await status(stranger), await status(elsewhere)] == [429, 429]

        await asyncio.sleep(2)
        await eventually(is_over)


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [({"documents_per_month": 2}, 2), ({"bytes_per_month": 60}, 2), ({"documents_per_month": 100}, 4)],
)
async def test_what_is_over_the_month_is_refused(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient, limits: dict[str, int], allowed: int
) -> None:
    secret = (await made(root, limits=limits))["secret"]
    answers = [await upload(stranger, secret) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202] * allowed + [429] * (4 - allowed)
    assert {answer.json()["code"] for answer in answers[allowed:]} <= {"quota_exceeded"}
    assert not [answer for answer in answers[allowed:] if "retry-after" in answer.headers]


async def test_uploads_at_one_moment_do_not_go_over_the_month(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    secret = (await made(root, limits={"documents_per_month": 3}))["secret"]
    answers = await asyncio.gather(*(upload(stranger, secret) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5


async def test_more_than_its_documents_waiting_are_refused_until_some_are_done(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    secret = (await made(root, limits={"documents_waiting": 2}))["secret"]
    first, second, third = [await upload(stranger, secret) for _ in range(3)]
    assert [one.status_code for one in (first, second, third)] == [202, 202, 429]
    assert third.json()["code"] == "queue_full"
    assert int(third.headers["retry-after"]) <= 120
    assert (await upload(stranger, ROOT)).status_code == 202
    await root.post(f"/tasks/{first.json()['task_id']}/cancel")
    assert (await upload(stranger, secret)).status_code == 202


async def test_versions_and_retries_count_and_reading_does_not(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    secret = (await made(root, limits={"documents_per_month": 2}))["secret"]
    document = (await upload(stranger, secret)).json()
    path, key = f"/documents/{document['document_id']}", bearer(secret)
    version = {"file": ("b.pdf", b"%PDF-1.5 " + uuid4().bytes)}
    second = await stranger.put(path, headers=key, files=version)
    assert second.status_code == 202
    assert (await stranger.put(path, headers=key, files=version)).json()["code"] == "quota_exceeded"
    await root.post(f"/tasks/{second.json()['task_id']}/cancel")
    assert (await stranger.post(f"{path}/retry", headers=key)).json()["code"] == "quota_exceeded"
    assert (await stranger.get(path, headers=key)).status_code == 200


async def test_of_several_files_those_over_the_month_are_refused(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    secret = (await made(root, limits={"documents_per_month": 2}))["secret"]
    contents = [b"%PDF-1.5 " + uuid4().bytes for _ in range(4)]
    files = [("file", (f"{n}.pdf", contents[n])) for n in (0, 0, 1, 2, 3)]
    into = {"collection": "letters"}
    several = await stranger.post("/documents", headers=bearer(secret), files=files, data=into)
    assert several.status_code == 202
    outcomes = [(one.get("duplicate"), one.get("problem", {}).get("code")) for one in several.json()["data"]]
    assert outcomes == [(False, None), (True, None), (False, None), *[(None, "quota_exceeded")] * 2]
    again = await upload(stranger, secret, contents[0])
    assert (again.status_code, again.json()["duplicate"]) == (200, True)


async def test_failed_documents_are_ingested_again_as_far_as_the_month_allows(
    locked: Served, stranger: httpx.AsyncClient, root: httpx.AsyncClient, locked_settings: Settings
) -> None:
    key = await made(root, limits={"documents_per_month": 5})
    of_ours = {"collection": uuid4().hex}
    for _ in range(3):
        added = await upload(stranger, key["secret"], collection=of_ours["collection"])
        assert added.status_code == 202
    await execute(
        locked_settings.database_url,
        "UPDATE ingestions SET status = 'error', error_code = 'corrupted', finished_at = now()"
        f" WHERE asked_by = '{key['id']}'",
    )
    retried = await stranger.post("/documents/retry", headers=bearer(key["secret"]), json=of_ours)
    assert (retried.status_code, retried.json()) == (202, {"count": 2})
    retried = await stranger.post("/documents/retry", headers=bearer(key["secret"]), json=of_ours)
    assert (retried.status_code, retried.json()["code"]) == (429, "quota_exceeded")


async def test_what_was_asked_for_in_earlier_months_is_forgiven(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient, locked_settings: Settings
) -> None:
    key = await made(root, limits={"documents_per_month": 1})
    assert (await upload(stranger, key["secret"])).status_code == 202
    assert (await upload(stranger, key["secret"])).status_code == 429
    await execute(
        locked_settings.database_url,
        "UPDATE ingestions SET created_at = date_trunc('month', now(), 'UTC') - interval '1 second'"
        f" WHERE asked_by = '{key['id']}'",
    )
    assert (await upload(stranger, key["secret"])).status_code == 202


async def test_pages_and_tokens_count_when_they_are_read_and_embedded(
    locked: Served, stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    pages, tokens = [
        (await made(root, name=name, limits={f"{name}_per_month": 1}))["secret"]
        for name in ("pages", "tokens")
    ]
    content = (SAMPLES / "wildbienen.pdf").read_bytes()
    for secret, collection in ((pages, "bees"), (tokens, "more bees")):
        document = (await upload(stranger, secret, content, collection)).json()
        task_id = UUID(document["task_id"])
        await locked.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
        assert (await upload(stranger, secret)).json()["code"] == "quota_exceeded"
        chunks = await stranger.get(f"/documents/{document['document_id']}/chunks", headers=bearer(secret))
        (used,) = (await stranger.get("/usage", headers=bearer(secret))).json()["data"]
        assert (used["documents"], used["pages"], used["bytes"]) == (1, 2, len(content))
        assert used["tokens"] == sum(chunk["tokens"] for chunk in chunks.json()["data"]) > 0


async def test_who_has_used_what_is_told_by_key_and_collection(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    name = uuid4().hex
    secret = (await made(root, name=name))["secret"]
    for collection in ("reports", "reports", "letters"):
        await upload(stranger, secret, collection=collection)
    await upload(stranger, ROOT, collection="reports")
    own = (await stranger.get("/usage", headers=bearer(secret))).json()
    assert own["month"] == f"{datetime.now(UTC):%Y-%m}"
    assert [(one["key"], one["collection"], one["documents"]) for one in own["data"]] == [
        (name, "reports", 2),
        (name, "letters", 1),
    ]
    everybodys = (await root.get("/usage")).json()["data"]
    assert [one for one in everybodys if one["key"] == name] == own["data"]
    of_root = [
        one["documents"] for one in everybodys if (one["key"], one["collection"]) == ("root", "reports")
    ]
    assert of_root == [1]
    assert (await root.get("/usage?month=2020-01")).json() == {"month": "2020-01", "data": []}
    assert (await stranger.get("/usage?month=2020-13", headers=bearer(secret))).status_code == 422


async def test_of_a_collection_out_of_its_reach_a_key_does_not_hear_the_name(
    stranger: httpx.AsyncClient, root: httpx.AsyncClient
) -> None:
    secret = (await made(root, collections=["reports*"]))["secret"]
    document = (await upload(stranger, secret, collection="reports")).json()
    await root.patch(f"/documents/{document['document_id']}", json={"collection": "secret letters"})
    (used,) = (await stranger.get("/usage", headers=bearer(secret))).json()["data"]
    assert (used["collection"], used["documents"]) == (None, 1)


@pytest.mark.parametrize(
    "limits",
    [{"documents": 1}, {"documents_per_month": 0}, {"requests_per_minute": "9"}, {"pages_per_month": True}],
)
async def test_limits_that_make_no_sense_are_refused(root: httpx.AsyncClient, limits: dict[str, Any]) -> None:
    answer = await root.post("/keys", json={"name": "a", "scopes": ["read"], "limits": limits})
    assert answer.json()["code"] == "invalid_request"
