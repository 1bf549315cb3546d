"""What webhooks are told of documents and tasks, in a database of their own, by a real receiver's account."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook as Verifier
from starlette.responses import RedirectResponse, Response

from app.embeddings.base import EmbeddingIdentity
from app.errors import Corrupted, WebhookAddressRefused
from app.local.chaos.embedding_stub import serving
from app.local.chaos.webhook_receiver import WebhookReceiver
from app.services.collection_service import CollectionService, delete_doomed
from app.services.webhook_delivery import IN_FLIGHT_PER_WEBHOOK, RETRY_SECONDS, WebhookDispatcher
from app.services.webhook_sender import WebhookSender, is_public
from app.services.webhook_service import WebhookService
from app.storage import outbox, runs
from app.storage.collections import CollectionFields
from app.storage.database import Database
from app.storage.spaces import open_space
from tests.services.workshop import Workshop, eventually, pdf

ALL = ("document.ready", "document.failed", "document.deleted", "task.cancelled")


@dataclass
class Post:
    """Webhooks, their receivers and who delivers."""

    workshop: Workshop
    sender: WebhookSender

    def __post_init__(self) -> None:
        self.database = self.workshop.database
        self.service = WebhookService(self.database, self.sender, self.workshop.cipher)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Killed at the end of the block, whatever it does."""
        dispatcher = WebhookDispatcher(self.database, self.sender, self.workshop.cipher)
        running = asyncio.create_task(dispatcher.run(lambda: True))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def add(
        self, url: str, events: Sequence[str] = ALL, collections: Sequence[str] | None = None
    ) -> tuple[UUID, str]:
        webhook, secret = await self.service.add(url, events, collections)
        return webhook.id, secret

    async def execute(self, statement: str, **parameters: Any) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(text(statement), parameters)

    async def only_delivery(self, webhook_id: UUID) -> outbox.Delivery:
        (delivery,) = await self.service.list_deliveries(webhook_id, None, 10)
        return delivery

    async def have_time_pass(self) -> None:
        """Until everything is due that waits for another try."""
        await self.execute("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE status = 'pending'")


@pytest.fixture
async def post(module_database: Database, tmp_path: Path) -> AsyncIterator[Post]:
    space_id = await open_space(module_database, EmbeddingIdentity("test", "model", 256))
    sender = WebhookSender(allow_private=True)
    post = Post(Workshop(module_database, space_id, tmp_path / "files"), sender)
    yield post
    await sender.close()
    await post.execute("TRUNCATE webhooks, webhook_deliveries")


def told(receiver: WebhookReceiver) -> list[str]:
    return [message.content["type"] for message in receiver.messages]


async def test_every_end_of_a_task_and_of_a_document_is_told_with_its_ids_and_nothing_else(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    await post.add(receiver_url)
    workshop = post.workshop
    ready, failed, cancelled = [await workshop.add(pdf()) for _ in range(3)]
    await workshop.ingest(ready.task_id)
    await workshop.fail(failed.task_id, Corrupted())
    await workshop.service.cancel(cancelled.task_id)
    await workshop.service.delete(ready.document_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 4))
    by_type = {message.content["type"]: message.content["data"] for message in receiver.messages}
    place = {"collection": workshop.collection}

    def ids(of: Any) -> dict[str, str]:
        return {"document_id": str(of.document_id), "task_id": str(of.task_id), **place}

    assert by_type == {
        "document.ready": ids(ready) | {"status": "ready"},
        "document.failed": ids(failed) | {"status": "failed", "code": "corrupted"},
        "task.cancelled": ids(cancelled) | {"status": "cancelled", "code": "cancelled"},
        "document.deleted": ids(ready) | {"status": "deleted"},
    }
    assert all(message.content["timestamp"].endswith("Z") for message in receiver.messages)


async def is_told(receiver: WebhookReceiver, count: int) -> bool:
    return len(receiver.messages) >= count


async def test_a_version_that_takes_the_place_of_a_waiting_one_stops_its_task_and_a_failed_one_leaves_the_old(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    await post.add(receiver_url)
    first = await post.workshop.add(pdf())
    second = await post.workshop.replace(first.document_id, pdf())
    await post.workshop.ingest(second.task_id)
    third = await post.workshop.replace(first.document_id, pdf())
    await post.workshop.fail(third.task_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 3))
    shown = [
        (content["type"], content["data"]["task_id"], content["data"]["status"], content["data"].get("code"))
        for content in (message.content for message in receiver.messages)
    ]
    assert shown == [
        ("task.cancelled", str(first.task_id), "queued", "superseded"),
        ("document.ready", str(second.task_id), "ready", None),
        ("document.failed", str(third.task_id), "ready", "corrupted"),
    ]


async def test_a_verdict_of_the_sweeper_and_one_of_a_run_without_a_document_are_told_too(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    await post.add(receiver_url)
    lease = await post.workshop.begin((await post.workshop.add(pdf())).task_id)
    orphan = uuid4()
    async with post.database.autocommit() as connection:
        await connection.execute(
            text("UPDATE ingestions SET deaths = 5 WHERE id = :id"), {"id": lease.ingestion_id}
        )
        lost = runs.LostLease(lease.ingestion_id, lease.epoch, is_own_death=True)
        await runs.requeue_lost(connection, post.workshop.space_id, [lost])
        await runs.ask_by_path(connection, orphan, uuid4(), "a.pdf", "/nowhere/a.pdf")
        await runs.refuse(connection, orphan, post.workshop.space_id, Corrupted())
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 2))
    by_code = {message.content["data"]["code"]: message.content["data"] for message in receiver.messages}
    assert set(by_code) == {"worker_lost", "corrupted"}
    assert by_code["corrupted"]["collection"] == "default"


async def test_only_what_is_wanted_is_told_and_a_verdict_that_is_rolled_back_is_not(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url, ["document.failed"], [post.workshop.collection])
    elsewhere = await post.workshop.add(pdf(), collection=f"other-{uuid4()}")
    await post.workshop.fail(elsewhere.task_id)
    ready = await post.workshop.add(pdf())
    await post.workshop.ingest(ready.task_id)
    failed = await post.workshop.add(pdf())
    async with post.database.transaction() as connection:
        await runs.end(connection, failed.task_id, post.workshop.space_id, Corrupted())
        await connection.rollback()
    assert not await post.service.list_deliveries(webhook_id, None, 10)
    await post.workshop.fail(failed.task_id)
    delivery = await post.only_delivery(webhook_id)
    assert delivery.data["task_id"] == str(failed.task_id)


async def test_a_collection_that_is_deleted_is_told_of_once_its_last_document_is_gone(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    await post.add(receiver_url, ["document.deleted", "collection.deleted"])
    workshop = post.workshop
    await workshop.add(pdf())
    deletion = await CollectionService(post.database).delete(workshop.collection)
    await delete_doomed(post.database, workshop.space_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 2))
    by_type = {message.content["type"]: message.content["data"] for message in receiver.messages}
    assert by_type["document.deleted"]["collection"] == workshop.collection
    assert by_type["collection.deleted"] == {
        "task_id": str(deletion.id),
        "collection": workshop.collection,
        "status": "deleted",
    }


async def test_a_webhook_of_a_collection_follows_it_to_its_new_name(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url, ["document.ready"], ["other", post.workshop.collection])
    added = await post.workshop.add(pdf())
    new_name = f"renamed-{uuid4()}"
    await CollectionService(post.database).change(post.workshop.collection, new_name, {})
    await post.workshop.ingest(added.task_id)
    assert (await post.service.get(webhook_id)).collections == ["other", new_name]
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 1))
    assert receiver.messages[0].content["data"]["collection"] == new_name


async def test_a_webhook_of_a_pattern_is_told_of_all_collections_that_fit_it(
    post: Post, receiver_url: str
) -> None:
    name = f"50%_of\\{post.workshop.collection}"
    webhook_id, _ = await post.add(receiver_url, ["document.failed"], ["other", f"{name[:-4]}*"])
    fitting = await post.workshop.add(pdf(), collection=name)
    for another in (f"x{name}", name.replace("%", "x"), name.replace("_", "x"), name.replace("\\", "")):
        added = await post.workshop.add(pdf(), collection=another)
        await post.workshop.fail(added.task_id)
    await post.workshop.fail(fitting.task_id)
    delivery = await post.only_delivery(webhook_id)
    assert delivery.data["task_id"] == str(fitting.task_id)


async def test_a_pattern_stays_when_a_collection_of_that_name_is_renamed(
    post: Post, receiver_url: str
) -> None:
    name = f"{post.workshop.collection}*"
    webhook_id, _ = await post.add(receiver_url, ["document.failed"], [name])
    collections = CollectionService(post.database)
    await collections.create(name, CollectionFields())
    await collections.change(name, f"renamed-{uuid4()}", {})
    assert (await post.service.get(webhook_id)).collections == [name]


async def test_the_library_of_the_standard_verifies_our_messages_and_no_others(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, secret = await post.add(receiver_url)
    await post.service.ping(webhook_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 1))
    (message,) = receiver.messages
    assert Verifier(secret).verify(message.body, message.headers)["type"] == "ping"
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(secret).verify(message.body + b" ", message.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(secret).verify(message.body, message.headers | {"webhook-id": str(uuid4())})


async def test_while_the_secret_is_changed_both_verify_and_afterwards_the_new_one_only(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, old = await post.add(receiver_url)
    _, new = await post.service.rotate(webhook_id)
    await post.service.ping(webhook_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 1))
        await post.execute("UPDATE webhooks SET old_secret_expires_at = now()")
        await post.service.ping(webhook_id)
        await eventually(lambda: is_told(receiver, 2))
    during, after = receiver.messages
    for secret in (old, new):
        Verifier(secret).verify(during.body, during.headers)
    Verifier(new).verify(after.body, after.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(old).verify(after.body, after.headers)


async def test_secrets_are_not_readable_in_the_database(post: Post, receiver_url: str) -> None:
    _, secret = await post.add(receiver_url)
    (stored,) = await post.workshop.scalars("SELECT secret FROM webhooks")
    assert secret.removeprefix("whsec_").encode() not in stored


@pytest.mark.heavy
async def test_what_is_refused_is_tried_again_later_and_later_under_one_id_and_given_up_at_last(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    receiver.answers = [Response("busy", 503) for _ in range(10)]
    await post.service.ping(webhook_id)
    pauses = []
    async with post.delivering():
        for attempt in range(1, len(RETRY_SECONDS) + 1):
            await eventually(lambda attempt=attempt: has_tried(post, webhook_id, attempt))
            (seconds,) = await post.workshop.scalars(
                "SELECT extract(epoch FROM next_attempt_at - clock_timestamp()) FROM webhook_deliveries"
            )
            pauses.append(float(seconds))
            await post.have_time_pass()
        await eventually(lambda: has_tried(post, webhook_id, 10))
    for pause, expected in zip(pauses, RETRY_SECONDS, strict=True):
        assert expected - 3 < pause <= expected * 1.1
    delivery = await post.only_delivery(webhook_id)
    assert (delivery.status, delivery.answer_status, delivery.answer_body) == ("failed", 503, "busy")
    assert {message.id for message in receiver.messages} == {str(delivery.id)}
    assert len({message.body for message in receiver.messages}) == 1


async def has_tried(post: Post, webhook_id: UUID, attempts: int) -> bool:
    return (await post.only_delivery(webhook_id)).attempts == attempts


async def test_what_was_being_sent_by_a_killed_process_is_sent_again_once_its_lease_is_over(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    receiver.delay_seconds = 30
    await post.service.ping(webhook_id)
    async with post.delivering():
        await eventually(lambda: in_flight(receiver))
    receiver.delay_seconds = 0
    async with post.delivering():
        await asyncio.sleep(1.5)
        assert receiver.messages == []
        await post.execute("UPDATE webhook_deliveries SET leased_until = clock_timestamp()")
        await eventually(lambda: is_quiet(post))
    assert told(receiver) == ["ping"]


async def in_flight(receiver: WebhookReceiver) -> bool:
    return receiver.in_flight > 0


async def test_who_wakes_after_its_lease_changes_nothing(post: Post, receiver_url: str) -> None:
    webhook_id, _ = await post.add(receiver_url)
    await post.service.ping(webhook_id)
    async with post.database.autocommit() as connection:
        (zombie,) = await outbox.lease_due(connection, 4)
        assert not await outbox.lease_due(connection, 4)
        await connection.execute(text("UPDATE webhook_deliveries SET leased_until = clock_timestamp()"))
        (holder,) = await outbox.lease_due(connection, 4)
        await outbox.note_answer(connection, holder, outbox.Answer(204, 1), None)
        await outbox.note_answer(connection, zombie, outbox.Answer(500, 1), None)
    delivery = await post.only_delivery(webhook_id)
    assert (delivery.status, delivery.answer_status, delivery.attempts) == ("delivered", 204, 1)


async def test_a_document_is_told_of_in_order_and_does_not_wait_for_others(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    await post.add(receiver_url)
    first, other = [await post.workshop.add(pdf()) for _ in range(2)]
    await post.workshop.ingest(first.task_id)
    await post.workshop.service.delete(first.document_id)
    receiver.answers = [Response(status_code=500)]
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 1))
        await post.workshop.ingest(other.task_id)
        await eventually(lambda: is_told(receiver, 2))
        await post.have_time_pass()
        await eventually(lambda: is_told(receiver, 4))
    shown = [(message.content["type"], message.content["data"]["task_id"]) for message in receiver.messages]
    assert shown == [
        ("document.ready", str(first.task_id)),
        ("document.ready", str(other.task_id)),
        ("document.ready", str(first.task_id)),
        ("document.deleted", str(first.task_id)),
    ]


async def test_a_receiver_that_hangs_has_few_in_flight_and_holds_up_no_other(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    hanging = WebhookReceiver(delay_seconds=30)
    with serving(hanging.app) as slow_url:
        slow_id, _ = await post.add(slow_url)
        quick_id, _ = await post.add(receiver_url)
        for _ in range(2 * IN_FLIGHT_PER_WEBHOOK):
            await post.service.ping(slow_id)
        async with post.delivering():
            await eventually(lambda: is_full(hanging))
            for _ in range(20):
                await post.service.ping(quick_id)
            await eventually(lambda: is_told(receiver, 20), seconds=5)
            assert hanging.most_in_flight == IN_FLIGHT_PER_WEBHOOK


async def is_full(receiver: WebhookReceiver) -> bool:
    return receiver.in_flight == IN_FLIGHT_PER_WEBHOOK


async def test_410_disables_the_webhook_and_gives_up_what_waits(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    accepted = await post.workshop.add(pdf())
    await post.workshop.ingest(accepted.task_id)
    await post.workshop.service.delete(accepted.document_id)
    receiver.answers = [Response(status_code=410)]
    async with post.delivering():
        await eventually(lambda: is_disabled(post, webhook_id))
        later = await post.workshop.add(pdf())
        await post.workshop.ingest(later.task_id)
        await asyncio.sleep(1.5)
    assert told(receiver) == ["document.ready"]
    deliveries = await post.service.list_deliveries(webhook_id, None, 10)
    assert [(one.event, one.status) for one in deliveries] == [
        ("document.deleted", "failed"),
        ("document.ready", "failed"),
    ]


async def is_disabled(post: Post, webhook_id: UUID) -> bool:
    return (await post.service.get(webhook_id)).disabled_at is not None


async def test_redirects_are_not_followed(post: Post, receiver: WebhookReceiver, receiver_url: str) -> None:
    webhook_id, _ = await post.add(receiver_url)
    receiver.answers = [RedirectResponse(f"{receiver_url}/elsewhere")]
    await post.service.ping(webhook_id)
    async with post.delivering():
        await eventually(lambda: has_tried(post, webhook_id, 1))
    delivery = await post.only_delivery(webhook_id)
    assert (delivery.status, delivery.answer_status, len(receiver.messages)) == ("pending", 307, 1)


async def test_of_an_answer_the_beginning_is_kept_and_no_more_is_read(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    receiver.answers = [Response("é\0" * 50_000_000, 500)]
    await post.service.ping(webhook_id)
    async with post.delivering():
        await eventually(lambda: has_tried(post, webhook_id, 1))
    assert (await post.only_delivery(webhook_id)).answer_body == "é" * 1000


async def test_what_was_delivered_is_sent_again_on_demand_one_or_all_of_a_time(
    post: Post, receiver: WebhookReceiver, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    other_id, _ = await post.add(receiver_url)
    for _ in range(3):
        await post.service.ping(webhook_id)
    await post.service.ping(other_id)
    async with post.delivering():
        await eventually(lambda: is_told(receiver, 4))
        await eventually(lambda: is_quiet(post))
        newest, middle, oldest = await post.service.list_deliveries(webhook_id, None, 10)
        assert (await post.service.replay(webhook_id, oldest.id)).status == "pending"
        await eventually(lambda: is_told(receiver, 5))
        await eventually(lambda: is_quiet(post))
        assert await post.service.replay_range(webhook_id, middle.created_at, None) == 2
        await eventually(lambda: is_told(receiver, 7))
    again = [message.id for message in receiver.messages[4:]]
    assert again[0] == str(oldest.id)
    assert sorted(again[1:]) == sorted([str(newest.id), str(middle.id)])


async def is_quiet(post: Post) -> bool:
    return not await post.workshop.scalars("SELECT 1 FROM webhook_deliveries WHERE status = 'pending'")


async def test_what_ended_long_ago_and_what_belongs_to_no_webhook_is_forgotten(
    post: Post, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    gone_id, _ = await post.add(receiver_url)
    old, waiting = [(await post.service.ping(webhook_id)).id for _ in range(2)]
    await post.service.ping(gone_id)
    await post.service.delete(gone_id)
    await post.execute(
        "UPDATE webhook_deliveries SET status = 'delivered', finished_at = now() - interval '40 days'"
        " WHERE id = :id",
        id=old,
    )
    async with post.database.autocommit() as connection:
        assert await outbox.forget_deliveries(connection, 30, 10) == 2
    assert (await post.only_delivery(webhook_id)).id == waiting


async def test_a_webhook_that_is_deleted_in_the_middle_of_a_verdict_does_not_hold_it_up(
    post: Post, receiver_url: str
) -> None:
    webhook_id, _ = await post.add(receiver_url)
    accepted = await post.workshop.add(pdf())
    async with post.database.transaction() as deleting:
        await deleting.execute(text("DELETE FROM webhooks WHERE id = :id"), {"id": webhook_id})
        async with asyncio.timeout(5):
            await post.workshop.ingest(accepted.task_id)
    assert (await post.workshop.row(accepted.task_id)).status == "success"


PRIVATE = [
    "http://127.0.0.1:9",
    "http://localhost:9",
    "http://[::1]:9",
    "http://2130706433:9",
    "http://0.0.0.0:9",
    "http://[::ffff:10.0.0.1]",
    "http://[64:ff9b::a00:1]",
    "http://169.254.169.254/latest/meta-data",
    "http://192.168.1.1",
    "http://100.64.0.1",
    "http://[fe80::1]",
    "http://[fc00::1]",
    "http://[fec0::1]",
    "http://[::7f00:1]",
    "http://[::ffff:0:7f00:1]",
    "http://[64:ff9b:1::7f00:1]",
    "http://224.0.0.1",
]


@pytest.fixture
async def strict() -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(allow_private=False)
    yield sender
    await sender.close()


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_and_local_addresses_are_refused(strict: WebhookSender, address: str) -> None:
    with pytest.raises(WebhookAddressRefused):
        await strict.check(address)
    answer = await strict.send(address, "id", b"{}", ["whsec_c2VjcmV0"])
    assert answer.status is None
    assert "WEBHOOK_ALLOW_PRIVATE" in (answer.error or "")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    receiver: WebhookReceiver, receiver_url: str
) -> None:
    """A name that is public at the first look and ours at the next, as an attacker's name server says it."""
    port = int(receiver_url.split(":")[2].split("/")[0])
    looks = iter(["192.0.2.1", "93.184.216.34", "127.0.0.1"])
    asked = []

    def resolve(host: str, port: int | None, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", (next(looks), port))]

    sender = WebhookSender(allow_private=False, resolve=resolve)
    with pytest.raises(WebhookAddressRefused):
        await sender.check(f"http://rebinding.example:{port}")
    await sender.check(f"http://rebinding.example:{port}")
    answer = await sender.send(f"http://rebinding.example:{port}", "id", b"{}", ["whsec_c2VjcmV0"])
    await sender.close()
    assert asked == ["rebinding.example"] * 3
    assert answer.status is None
    assert receiver.messages == []


async def test_the_receiver_is_asked_by_its_name(receiver: WebhookReceiver, receiver_url: str) -> None:
    port = int(receiver_url.split(":")[2].split("/")[0])
    looks = [(2, 1, 6, "", ("127.0.0.2", port)), (2, 1, 6, "", ("127.0.0.1", port))]
    sender = WebhookSender(allow_private=True, resolve=lambda *_, **__: looks)
    answer = await sender.send(f"http://receiver.example:{port}/hook", "id", b"{}", ["whsec_c2VjcmV0"])
    await sender.close()
    assert answer.status == 204
    (message,) = receiver.messages
    assert message.headers["host"] == f"receiver.example:{port}"


async def test_a_receiver_that_is_not_there_is_an_answer_with_a_reason(strict: WebhookSender) -> None:
    sender = WebhookSender(allow_private=True)
    answer = await sender.send("http://127.0.0.1:1", "id", b"{}", ["whsec_c2VjcmV0"])
    await sender.close()
    assert (answer.status, answer.is_success) == (None, False)
    assert answer.error
    nowhere = await strict.send("http://nowhere.invalid", "id", b"{}", ["whsec_c2VjcmV0"])
    assert nowhere.error
