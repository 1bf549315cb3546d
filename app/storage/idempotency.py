"""Idempotency keys: who answers a request first, and what the answer was.

While a request is in work its row has no status, `fingerprint` holds the claim's own token and
`created_at` the last sign of life; with the answer they become the content's and the answer's.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.sweep import IDEMPOTENCY_HOURS

# A claim without a sign of life for this long belongs to a request that died; the next one takes it.
CLAIM_SECONDS = 15


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as found: claimed now by us, answered before (`status`, `body`), or held by another request."""

    is_ours: bool
    fingerprint: bytes
    status: int | None
    body: dict[str, Any] | None


async def claim_key(connection: AsyncConnection, key: str, caller: str, token: bytes) -> KeyRow | None:
    """Take the key if it is free, expired or abandoned; else how it stands.

    None when it was taken by another request while this statement ran.
    """
    found = await connection.execute(
        text(f"""
        WITH claimed AS (
            INSERT INTO idempotency_keys AS held (key, caller, fingerprint) VALUES (:key, :caller, :token)
            ON CONFLICT (key, caller) DO UPDATE
                SET fingerprint = :token, status = NULL, body = NULL, created_at = clock_timestamp()
                WHERE held.created_at < clock_timestamp() - CASE WHEN held.status IS NULL
                    THEN interval '{CLAIM_SECONDS} seconds' ELSE interval '{IDEMPOTENCY_HOURS} hours' END
            RETURNING true AS is_ours, fingerprint, status, body
        )
        SELECT * FROM claimed
        UNION ALL
        SELECT false, fingerprint, status, body FROM idempotency_keys
        WHERE key = :key AND caller = :caller AND NOT EXISTS (SELECT FROM claimed)
        """),
        {"key": key, "caller": caller, "token": token},
    )
    row = found.one_or_none()
    if row is None:
        return None
    # A statement in text brings JSON as text.
    body = orjson.loads(row.body) if isinstance(row.body, str) else row.body
    return KeyRow(row.is_ours, row.fingerprint, row.status, body)


async def touch_key(connection: AsyncConnection, key: str, caller: str, token: bytes) -> None:
    """A sign of life of the request that holds the claim."""
    await connection.execute(
        text(f"UPDATE idempotency_keys SET created_at = clock_timestamp() WHERE {_IS_OURS}"),
        {"key": key, "caller": caller, "token": token},
    )


async def release_key(connection: AsyncConnection, key: str, caller: str, token: bytes) -> None:
    """Free a claim without an answer: the request was refused and may be sent again."""
    await connection.execute(
        text(f"DELETE FROM idempotency_keys WHERE {_IS_OURS}"),
        {"key": key, "caller": caller, "token": token},
    )


async def answer_key(
    connection: AsyncConnection,
    key: str,
    caller: str,
    token: bytes,
    *,
    fingerprint: bytes,
    status: int,
    body: dict[str, Any],
) -> bool:
    """Keep the answer. False when the claim was lost: nothing else of the transaction may stay."""
    answered = await connection.execute(
        text(
            "UPDATE idempotency_keys SET fingerprint = :fingerprint, status = :status,"
            f" body = CAST(:body AS jsonb), created_at = clock_timestamp() WHERE {_IS_OURS} RETURNING key"
        ),
        {
            "key": key,
            "caller": caller,
            "token": token,
            "fingerprint": fingerprint,
            "status": status,
            "body": orjson.dumps(body).decode(),
        },
    )
    return answered.one_or_none() is not None


_IS_OURS = "key = :key AND caller = :caller AND fingerprint = :token AND status IS NULL"
