"""Webhooks over HTTP, with a real receiver; a database of their own, so that no other is told of."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from standardwebhooks import Webhook as Verifier

from app.config import Settings
from app.local.chaos.webhook_receiver import WebhookReceiver
from app.local.embedded import EmbeddedPostgres
from app.main import create_app
from tests.api.conftest import Served
from tests.api.contract import Contract
from tests.databases import migrated
from tests.services.workshop import Workshop, eventually, pdf

EVENTS = ["document.ready", "document.deleted"]


@pytest.fixture(scope="module")
async def service(settings: Settings, serve: Any, postgres: EmbeddedPostgres) -> AsyncIterator[Served]:
    own = {"database_url": await migrated(postgres, f"api_{uuid4().hex}"), "webhook_allow_private": True}
    async with serve(create_app(settings.model_copy(update=own))) as served:
        yield served


@pytest.fixture(scope="module")
async def asking(service: Served) -> AsyncIterator[httpx.AsyncClient]:
    hooks = {"response": [Contract(service.app.openapi()).check]}
    async with httpx.AsyncClient(base_url=service.url, timeout=30, event_hooks=hooks) as client:
        yield client


@pytest.fixture
async def webhook(asking: httpx.AsyncClient, receiver_url: str) -> AsyncIterator[dict[str, Any]]:
    made = await asking.post("/webhooks", json={"url": receiver_url, "events": EVENTS})
    assert made.status_code == 201
    yield made.json()
    await asking.delete(f"/webhooks/{made.json()['id']}")


async def test_who_asks_for_an_event_is_told_of_it_and_can_verify_it(
    service: Served,
    asking: httpx.AsyncClient,
    receiver: WebhookReceiver,
    webhook: dict[str, Any],
    tmp_path: Path,
) -> None:
    worker = Workshop(service.services.database, service.services.space_id, tmp_path)
    added = (await asking.post("/documents", files={"file": pdf()}, data={"collection": "r"})).json()
    await worker.ingest(UUID(added["task_id"]))
    await asking.delete(f"/documents/{added['document_id']}")

    async def told() -> bool:
        return len(receiver.messages) == 2

    await eventually(told)
    ready, deleted = [Verifier(webhook["secret"]).verify(one.body, one.headers) for one in receiver.messages]
    assert (ready["type"], deleted["type"]) == ("document.ready", "document.deleted")
    assert ready["data"] == {
        "document_id": added["document_id"],
        "task_id": added["task_id"],
        "collection": "r",
        "status": "ready",
    }


async def test_the_secret_is_said_once_and_a_webhook_can_be_listed_and_deleted(
    asking: httpx.AsyncClient, webhook: dict[str, Any]
) -> None:
    assert webhook["secret"].startswith("whsec_")
    shown = {name: value for name, value in webhook.items() if name != "secret"}
    assert (await asking.get(f"/webhooks/{webhook['id']}")).json() == shown
    listed = (await asking.get("/webhooks?limit=1")).json()
    assert listed == {"data": [shown], "next": None}
    assert (await asking.delete(f"/webhooks/{webhook['id']}")).status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/ping"), ("POST", "/rotate")):
        answer = await asking.request(method, f"/webhooks/{webhook['id']}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "webhook_not_found")


async def test_webhooks_are_listed_in_pages(asking: httpx.AsyncClient, receiver_url: str) -> None:
    for _ in range(3):
        await asking.post("/webhooks", json={"url": receiver_url, "events": EVENTS})
    first = (await asking.get("/webhooks?limit=2")).json()
    second = (await asking.get(f"/webhooks?limit=2&after={first['next']}")).json()
    ids = [one["id"] for one in first["data"] + second["data"]]
    assert (len(set(ids)), second["next"]) == (3, None)
    for webhook_id in ids:
        await asking.delete(f"/webhooks/{webhook_id}")


async def test_a_ping_is_delivered_listed_with_its_answer_and_replayed_under_the_same_id(
    asking: httpx.AsyncClient, receiver: WebhookReceiver, webhook: dict[str, Any]
) -> None:
    path = f"/webhooks/{webhook['id']}"
    pings = [(await asking.post(f"{path}/ping")).json() for _ in range(2)]

    async def deliveries() -> list[dict[str, Any]]:
        return (await asking.get(f"{path}/deliveries")).json()["data"]

    async def delivered() -> bool:
        return [one["status"] for one in await deliveries()] == ["delivered"] * 2

    await eventually(delivered)
    newest = (await deliveries())[0]
    assert newest["id"] == pings[1]["id"]
    assert newest["message"]["type"] == "ping"
    assert newest["answer"] == {"status": 204, "ms": newest["answer"]["ms"], "body": "", "error": None}
    page = (await asking.get(f"{path}/deliveries?limit=1")).json()
    rest = (await asking.get(f"{path}/deliveries?limit=1&after={page['next']}")).json()
    assert (rest["data"][0]["id"], rest["next"]) == (pings[0]["id"], None)

    again = await asking.post(f"{path}/deliveries/{newest['id']}/replay")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    await eventually(delivered)
    ranged = await asking.post(f"{path}/replay", json={"since": newest["created_at"]})
    assert ranged.json() == {"count": 1}
    outside = await asking.post(f"{path}/replay", json={"since": "0001-01-01T00:00:00+12:00"})
    assert (outside.status_code, outside.json()["code"]) == (422, "invalid_request")
    await eventually(delivered)
    assert [one.id for one in receiver.messages].count(newest["id"]) == 3
    unknown = await asking.post(f"{path}/deliveries/{uuid4()}/replay")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "delivery_not_found")


async def test_a_disabled_webhook_is_told_nothing(
    service: Served, asking: httpx.AsyncClient, webhook: dict[str, Any], tmp_path: Path
) -> None:
    worker = Workshop(service.services.database, service.services.space_id, tmp_path)
    await worker.scalars("UPDATE webhooks SET disabled_at = now() RETURNING id")
    answer = await asking.post(f"/webhooks/{webhook['id']}/ping")
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://example.com"},
        {"url": "example.com"},
        {"url": "http://user:secret@example.com"},
        {"url": "http://example.com/" + "x" * 2000},
        {"events": []},
        {"events": ["document.read"]},
        {"collections": []},
        {"collection": "r"},
    ],
)
async def test_what_is_no_webhook_is_refused(asking: httpx.AsyncClient, change: dict[str, Any]) -> None:
    answer = await asking.post("/webhooks", json={"url": "http://example.com", "events": EVENTS} | change)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "secret" not in answer.text


async def test_a_private_address_is_refused_unless_it_is_allowed(client: httpx.AsyncClient) -> None:
    answer = await client.post("/webhooks", json={"url": "http://127.0.0.1/", "events": EVENTS})
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_address_not_allowed")


async def test_without_a_secret_key_a_webhook_is_refused(settings: Settings, serve: Any) -> None:
    async with (
        serve(create_app(settings.model_copy(update={"secret_key": None}))) as served,
        httpx.AsyncClient(base_url=served.url) as client,
    ):
        answer = await client.post("/webhooks", json={"url": "http://192.0.2.1/", "events": EVENTS})
    assert (answer.status_code, answer.json()["code"]) == (422, "webhook_needs_secret_key")
