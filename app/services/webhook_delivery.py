"""Delivers what is in the outbox: many at a time, of no webhook too many, until it is taken or given up."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import orjson
import structlog

from app.errors import PDFIngestError
from app.services.webhook_sender import WebhookSender
from app.storage import outbox
from app.storage.database import Database
from app.storage.outbox import Answer, LeasedDelivery
from app.storage.passwords import PasswordCipher

# After the first, second … try that failed; after one more it is given up, three days after the first.
RETRY_SECONDS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
IN_FLIGHT_PER_WEBHOOK = 4  # at most 400 in all: a receiver that hangs takes none of the places of others
LOOK_SECONDS = 1.0
GONE = 410

log = structlog.get_logger(__name__)


class WebhookDispatcher:
    """Sends while it `is_leading`: one process does it for all."""

    def __init__(self, database: Database, sender: WebhookSender, cipher: PasswordCipher | None) -> None:
        self._database = database
        self._sender = sender
        self._cipher = cipher
        self._has_room = asyncio.Event()

    async def run(self, is_leading: Callable[[], bool]) -> None:
        """Until cancelled; what is being sent then is sent again, under the same id, by who leads next."""
        async with asyncio.TaskGroup() as sending:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._has_room.wait()
                self._has_room.clear()
                if is_leading() and self._cipher is not None:
                    for delivery in await self._lease():
                        sending.create_task(self._deliver(delivery, self._cipher))

    async def _lease(self) -> Sequence[LeasedDelivery]:
        try:
            async with self._database.autocommit() as connection:
                return await outbox.lease_due(connection, IN_FLIGHT_PER_WEBHOOK)
        except PDFIngestError as error:
            log.info("webhooks skipped", reason=error.message)
        except Exception:
            log.exception("webhooks failed")
        return []

    async def _deliver(self, delivery: LeasedDelivery, cipher: PasswordCipher) -> None:
        try:
            answer = await self._send(delivery, cipher)
            await self._note(delivery, answer)
        except PDFIngestError as error:  # the database went away: sent again when the lease is over
            log.info("webhook answer not noted", webhook_id=str(delivery.webhook_id), reason=error.message)
        except Exception:
            log.exception("webhook failed", webhook_id=str(delivery.webhook_id))
        finally:
            self._has_room.set()

    async def _send(self, delivery: LeasedDelivery, cipher: PasswordCipher) -> Answer:
        secrets = [secret for token in delivery.secrets if (secret := cipher.decrypt(token))]
        if not secrets:
            return Answer(None, 0, error="The secret was encrypted with another SECRET_KEY. Rotate it.")
        body = body_of(delivery)
        return await self._sender.send(delivery.url, str(delivery.id), body, secrets)

    async def _note(self, delivery: LeasedDelivery, answer: Answer) -> None:
        is_last = delivery.attempts >= len(RETRY_SECONDS)
        retry_seconds = None if is_last or answer.status == GONE else RETRY_SECONDS[delivery.attempts]
        async with self._database.autocommit() as connection:
            await outbox.note_answer(connection, delivery, answer, retry_seconds)
            if answer.status == GONE:
                await outbox.disable_webhook(connection, delivery.webhook_id, "The receiver answered 410.")
        log.info(
            "webhook delivered" if answer.is_success else "webhook not delivered",
            webhook_id=str(delivery.webhook_id),
            delivery_id=str(delivery.id),
            type=delivery.event,
            status=answer.status,
            ms=answer.ms,
            attempt=delivery.attempts + 1,
        )


def body_of(delivery: LeasedDelivery | outbox.Delivery) -> bytes:
    """The same bytes at every try: a thin body, of ids and statuses only."""
    content = {"type": delivery.event, "timestamp": delivery.created_at, "data": delivery.data}
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)
