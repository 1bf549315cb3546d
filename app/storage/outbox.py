"""The outbox: what webhooks are told, from the event to the answer.

    announced with the verdict, in its own statement (triggers) ──► pending ──► delivered
                                                                    │  ▲  └───► failed    given up
                                                             replay ┘  └─ replay, of any

A delivery is sent under a lease: who is killed meanwhile delays it by that, no more. Each webhook is told of
a document in order: the next delivery waits until the one before has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

LEASE_SECONDS = 20  # longer than a receiver may take to answer (`webhook_sender.TIMEOUT_SECONDS`)
JITTER = 0.1  # of a pause, so that what failed together does not come back together

_COLUMNS = """
    id, position, event, document_id, data, status, attempts, created_at, next_attempt_at, finished_at,
    answer_status, answer_ms, answer_body, error
"""
_AGAIN = """
    status = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), leased_until = NULL,
    finished_at = NULL
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a webhook is told once, in `attempts` tries so far, and the last answer to it.

    `answer_status` is None when nobody answered; then `error` says why. `position`: its place in the list.
    """

    id: UUID
    position: int
    event: str
    document_id: UUID | None
    data: dict[str, Any]
    status: str
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    answer_status: int | None
    answer_ms: int | None
    answer_body: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class LeasedDelivery:
    """The right to send a delivery until the lease is over. Secrets are encrypted, the newest first."""

    id: UUID
    webhook_id: UUID
    leased_until: datetime
    event: str
    data: dict[str, Any]
    created_at: datetime
    attempts: int
    url: str
    secrets: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try: a status with the beginning of the body, or the reason why there is none."""

    status: int | None
    ms: int
    body: str = ""
    error: str | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


async def lease_due(connection: AsyncConnection, most_per_webhook: int) -> Sequence[LeasedDelivery]:
    """Lease what is due, of each webhook no more than may be in flight at a time."""
    rows = await connection.execute(_LEASE, {"most_per_webhook": most_per_webhook})
    return [LeasedDelivery(**row._mapping) for row in rows]


async def note_answer(
    connection: AsyncConnection, delivery: LeasedDelivery, answer: Answer, retry_seconds: float | None
) -> None:
    """The end of a try: delivered, again after a pause, or (None) given up. Nothing if the lease is over."""
    await connection.execute(
        _NOTE,
        {
            "id": delivery.id,
            "leased_until": delivery.leased_until,
            "status": "delivered" if answer.is_success else "failed" if retry_seconds is None else "pending",
            "retry_seconds": retry_seconds or 0.0,
            "answer_status": answer.status,
            "answer_ms": answer.ms,
            "answer_body": answer.body,
            "error": answer.error,
        },
    )


async def disable_webhook(connection: AsyncConnection, webhook_id: UUID, reason: str) -> None:
    """It is told nothing any more, of what waits neither."""
    await connection.execute(
        text("""
        WITH disabled AS (
            UPDATE webhooks SET disabled_at = clock_timestamp() WHERE id = :id AND disabled_at IS NULL
        )
        UPDATE webhook_deliveries SET status = 'failed', error = :reason, finished_at = clock_timestamp(),
            next_attempt_at = NULL, leased_until = NULL
        WHERE webhook_id = :id AND status = 'pending'
        """),
        {"id": webhook_id, "reason": reason},
    )


async def announce(connection: AsyncConnection, event: str, collection: str, data: dict[str, Any]) -> None:
    """Tell the webhooks that want the event, once the transaction is committed; of no document."""
    await connection.execute(
        text("SELECT announce(:event, :collection, NULL, CAST(:data AS jsonb))"),
        {"event": event, "collection": collection, "data": orjson.dumps(data).decode()},
    )


async def announce_to(
    connection: AsyncConnection, webhook_id: UUID, delivery_id: UUID, event: str
) -> Delivery:
    """Tell one webhook, whether it wants the event or not."""
    made = await connection.execute(
        text(f"""
        INSERT INTO webhook_deliveries (id, webhook_id, event, data, created_at, next_attempt_at)
        VALUES (:id, :webhook_id, :event, '{{}}', clock_timestamp(), clock_timestamp()) RETURNING {_COLUMNS}
        """),
        {"id": delivery_id, "webhook_id": webhook_id, "event": event},
    )
    return Delivery(**made.one()._mapping)


async def list_deliveries(
    connection: AsyncConnection, webhook_id: UUID, before: int | None, limit: int
) -> list[Delivery]:
    """Those of a webhook before this position; the newest come first."""
    rows = await connection.execute(
        text(f"""
        SELECT {_COLUMNS} FROM webhook_deliveries
        WHERE webhook_id = :webhook_id AND position < coalesce(CAST(:before AS bigint), {2**63 - 1})
        ORDER BY position DESC LIMIT :limit
        """),
        {"webhook_id": webhook_id, "before": before, "limit": limit},
    )
    return [Delivery(**row._mapping) for row in rows]


async def replay(connection: AsyncConnection, webhook_id: UUID, delivery_id: UUID) -> Delivery | None:
    """Deliver again at once, under the same id; None when the webhook has no such delivery."""
    changed = await connection.execute(
        text(
            f"UPDATE webhook_deliveries SET {_AGAIN} WHERE id = :id AND webhook_id = :webhook_id"
            f" RETURNING {_COLUMNS}"
        ),
        {"id": delivery_id, "webhook_id": webhook_id},
    )
    row = changed.one_or_none()
    return None if row is None else Delivery(**row._mapping)


async def replay_range(
    connection: AsyncConnection, webhook_id: UUID, since: datetime, until: datetime | None
) -> int:
    """Deliver again what was announced in a time; how many."""
    changed = await connection.execute(
        text(
            f"UPDATE webhook_deliveries SET {_AGAIN} WHERE webhook_id = :webhook_id AND created_at >= :since"
            " AND created_at <= coalesce(CAST(:until AS timestamptz), 'infinity')"
        ),
        {"webhook_id": webhook_id, "since": since, "until": until},
    )
    return changed.rowcount


async def forget_deliveries(connection: AsyncConnection, retention_days: float, limit: int) -> int:
    """Delete what ended so long ago, and what belongs to a webhook that is gone; how many."""
    gone = await connection.execute(
        text("""
        DELETE FROM webhook_deliveries WHERE id IN (
            SELECT id FROM webhook_deliveries AS delivery
            WHERE finished_at < clock_timestamp() - make_interval(secs => :retention_days * 86400)
                OR NOT EXISTS (SELECT FROM webhooks WHERE webhooks.id = delivery.webhook_id)
            LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        """),
        {"retention_days": retention_days, "limit": limit},
    )
    return gone.rowcount


# A lease that is over leaves its row as if it had never been: due since before.
_LEASE = text(f"""
    WITH due AS (
        SELECT next.id FROM webhooks CROSS JOIN LATERAL (
            SELECT id FROM webhook_deliveries AS delivery
            WHERE webhook_id = webhooks.id AND status = 'pending' AND next_attempt_at <= clock_timestamp()
                AND coalesce(leased_until < clock_timestamp(), true)
                AND NOT EXISTS (
                    SELECT FROM webhook_deliveries AS before WHERE before.webhook_id = webhooks.id
                    AND before.document_id = delivery.document_id AND before.status = 'pending'
                    AND before.position < delivery.position
                )
            ORDER BY next_attempt_at, position
            LIMIT greatest(0, :most_per_webhook - (
                SELECT count(*) FROM webhook_deliveries AS in_flight
                WHERE in_flight.webhook_id = webhooks.id AND leased_until > clock_timestamp()
            ))
            FOR UPDATE SKIP LOCKED
        ) AS next
        WHERE disabled_at IS NULL
    )
    UPDATE webhook_deliveries AS delivery
    SET leased_until = clock_timestamp() + interval '{LEASE_SECONDS} seconds'
    FROM due, webhooks WHERE delivery.id = due.id AND webhooks.id = delivery.webhook_id
    RETURNING delivery.id, webhook_id, leased_until, event, data, delivery.created_at, attempts, url,
        CASE WHEN old_secret_expires_at > clock_timestamp() THEN ARRAY[secret, old_secret]
            ELSE ARRAY[secret] END AS secrets
""")
_NOTE = text(f"""
    UPDATE webhook_deliveries SET status = :status, attempts = attempts + 1, leased_until = NULL,
        next_attempt_at = CASE WHEN :status = 'pending' THEN clock_timestamp()
            + make_interval(secs => :retry_seconds * (1 + {JITTER} * random())) END,
        finished_at = CASE WHEN :status <> 'pending' THEN clock_timestamp() END,
        answer_status = :answer_status, answer_ms = :answer_ms, answer_body = :answer_body, error = :error
    WHERE id = :id AND leased_until = :leased_until
""")
