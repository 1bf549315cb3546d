"""Webhooks: who is told of what. What each is told is in `outbox`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# What the triggers on runs and documents announce; a collection's end is announced by who deletes it.
EventName = Literal[
    "document.ready", "document.failed", "document.deleted", "task.cancelled", "collection.deleted"
]
# For so long after a new secret was made the old one signs as well.
ROTATION_HOURS = 24

_COLUMNS = """
    id, url, events, collections, created_at, disabled_at,
    CASE WHEN old_secret_expires_at > clock_timestamp() THEN old_secret_expires_at END
        AS old_secret_expires_at
"""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of events; `collections` are names or patterns in which `*` stands for any
    characters, None: of any collection. Its secrets stay in the row.

    `old_secret_expires_at`: until then two secrets sign.
    """

    id: UUID
    url: str
    events: Sequence[str]
    collections: Sequence[str] | None
    created_at: datetime
    disabled_at: datetime | None
    old_secret_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """A webhook to make; `secret` is encrypted."""

    id: UUID
    url: str
    events: Sequence[str]
    collections: Sequence[str] | None
    secret: bytes


async def add_webhook(connection: AsyncConnection, webhook: NewWebhook, most: int) -> Webhook | None:
    """None, with nothing written, when there are as many as there may be."""
    made = await connection.execute(
        text(f"""
        INSERT INTO webhooks (id, url, events, collections, secret)
        SELECT CAST(:id AS uuid), :url, CAST(:events AS text[]), CAST(:collections AS text[]),
            CAST(:secret AS bytea)
        WHERE (SELECT count(*) FROM webhooks) < :most RETURNING {_COLUMNS}
        """),
        {
            "id": webhook.id,
            "url": webhook.url,
            "events": list(webhook.events),
            "collections": None if webhook.collections is None else list(webhook.collections),
            "secret": webhook.secret,
            "most": most,
        },
    )
    return _webhook(made.one_or_none())


async def find_webhook(connection: AsyncConnection, webhook_id: UUID) -> Webhook | None:
    found = await connection.execute(
        text(f"SELECT {_COLUMNS} FROM webhooks WHERE id = :id"), {"id": webhook_id}
    )
    return _webhook(found.one_or_none())


async def list_webhooks(connection: AsyncConnection, after: UUID | None, limit: int) -> list[Webhook]:
    """Those made first come first."""
    rows = await connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM webhooks WHERE CAST(:after AS uuid) IS NULL OR id > :after"
            " ORDER BY id LIMIT :limit"
        ),
        {"after": after, "limit": limit},
    )
    return [Webhook(**row._mapping) for row in rows]


async def delete_webhook(connection: AsyncConnection, webhook_id: UUID) -> bool:
    """Whether there was one. Its deliveries are removed later (`outbox.forget_deliveries`)."""
    gone = await connection.execute(
        text("DELETE FROM webhooks WHERE id = :id RETURNING id"), {"id": webhook_id}
    )
    return gone.one_or_none() is not None


async def rotate_secret(connection: AsyncConnection, webhook_id: UUID, secret: bytes) -> Webhook | None:
    """The new secret signs at once, the one before for ROTATION_HOURS more; None: no such webhook."""
    changed = await connection.execute(
        text(f"""
        UPDATE webhooks SET old_secret = secret, secret = :secret,
            old_secret_expires_at = clock_timestamp() + interval '{ROTATION_HOURS} hours'
        WHERE id = :id RETURNING {_COLUMNS}
        """),
        {"id": webhook_id, "secret": secret},
    )
    return _webhook(changed.one_or_none())


async def follow_renamed(connection: AsyncConnection, name: str, new_name: str) -> None:
    """Those that are told of a collection are told of it under its new name; a pattern stays as it is."""
    if "*" in name:
        return
    await connection.execute(
        text(
            "UPDATE webhooks SET collections = array_replace(collections, :name, :new_name)"
            " WHERE :name = ANY(collections)"
        ),
        {"name": name, "new_name": new_name},
    )


def _webhook(row: Any) -> Webhook | None:
    return None if row is None else Webhook(**row._mapping)
