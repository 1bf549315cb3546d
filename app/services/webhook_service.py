"""Webhooks, as clients see them: made, listed, tried, given new secrets, told again, deleted."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from app.errors import (
    DeliveryNotFound,
    TooManyWebhooks,
    WebhookDisabled,
    WebhookNeedsKey,
    WebhookNotFound,
)
from app.services.audit import audit
from app.services.webhook_sender import SECRET_PREFIX, WebhookSender
from app.storage import outbox, webhooks
from app.storage.database import Database
from app.storage.outbox import Delivery
from app.storage.passwords import PasswordCipher
from app.storage.webhooks import NewWebhook, Webhook

MOST_WEBHOOKS = 100  # each costs every verdict a look
SECRET_BYTES = 32
PING = "ping"


class WebhookService:
    def __init__(self, database: Database, sender: WebhookSender, cipher: PasswordCipher | None) -> None:
        self._database = database
        self._sender = sender
        self._cipher = cipher

    async def add(
        self, url: str, events: Sequence[str], collections: Sequence[str] | None
    ) -> tuple[Webhook, str]:
        """With its secret, which is not shown again.

        Raises WebhookNeedsKey, WebhookAddressRefused and TooManyWebhooks.
        """
        secret, encrypted = self._new_secret()
        await self._sender.check(url)
        new = NewWebhook(uuid7(), url, events, collections, encrypted)
        async with self._database.transaction() as connection:
            webhook = await webhooks.add_webhook(connection, new, MOST_WEBHOOKS)
        if webhook is None:
            raise TooManyWebhooks
        audit("webhook.create", webhook_id=webhook.id)
        return webhook, secret

    async def list(self, after: UUID | None, limit: int) -> Sequence[Webhook]:
        async with self._database.transaction() as connection:
            return await webhooks.list_webhooks(connection, after, limit)

    async def get(self, webhook_id: UUID) -> Webhook:
        """Raises WebhookNotFound, here and below."""
        async with self._database.transaction() as connection:
            webhook = await webhooks.find_webhook(connection, webhook_id)
        if webhook is None:
            raise WebhookNotFound
        return webhook

    async def delete(self, webhook_id: UUID) -> None:
        async with self._database.transaction() as connection:
            if not await webhooks.delete_webhook(connection, webhook_id):
                raise WebhookNotFound
        audit("webhook.delete", webhook_id=webhook_id)

    async def rotate(self, webhook_id: UUID) -> tuple[Webhook, str]:
        """A new secret; the one before signs as well for a day. Raises WebhookNeedsKey."""
        secret, encrypted = self._new_secret()
        async with self._database.transaction() as connection:
            webhook = await webhooks.rotate_secret(connection, webhook_id, encrypted)
        if webhook is None:
            raise WebhookNotFound
        audit("webhook.rotate", webhook_id=webhook_id)
        return webhook, secret

    async def ping(self, webhook_id: UUID) -> Delivery:
        """Raises WebhookDisabled, as each that has something delivered."""
        await self._require_enabled(webhook_id)
        async with self._database.transaction() as connection:
            return await outbox.announce_to(connection, webhook_id, uuid7(), PING)

    async def list_deliveries(self, webhook_id: UUID, before: int | None, limit: int) -> Sequence[Delivery]:
        await self.get(webhook_id)
        async with self._database.transaction() as connection:
            return await outbox.list_deliveries(connection, webhook_id, before, limit)

    async def replay(self, webhook_id: UUID, delivery_id: UUID) -> Delivery:
        """Raises DeliveryNotFound."""
        await self._require_enabled(webhook_id)
        async with self._database.transaction() as connection:
            delivery = await outbox.replay(connection, webhook_id, delivery_id)
        if delivery is None:
            raise DeliveryNotFound
        return delivery

    async def replay_range(self, webhook_id: UUID, since: datetime, until: datetime | None) -> int:
        """Deliver again what was announced in a time; how many."""
        await self._require_enabled(webhook_id)
        async with self._database.transaction() as connection:
            return await outbox.replay_range(connection, webhook_id, since, until)

    async def _require_enabled(self, webhook_id: UUID) -> None:
        if (await self.get(webhook_id)).disabled_at is not None:
            raise WebhookDisabled

    def _new_secret(self) -> tuple[str, bytes]:
        """As it is given out, and as it is kept."""
        if self._cipher is None:
            raise WebhookNeedsKey
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        return secret, self._cipher.encrypt(secret)
