"""What the sweeper asks and changes: lost leases, work that no message announces, files without a row."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import WorkerLost
from app.storage.ingestions import (
    FAILED,
    IS_DUE,
    IS_EXPIRED,
    IS_LANE_FREE,
    MAX_FRUITLESS_ATTEMPTS,
    without_chunks,
)

# Of what is slow, the oldest is next as soon as the slow lane is free.
IS_NEXT = f"""(
    NOT is_slow OR {IS_LANE_FREE}
    AND id = (SELECT id FROM ingestions WHERE {IS_DUE} AND is_slow ORDER BY created_at LIMIT 1)
)"""
RING_BACK_OFF_SECONDS = 2
MAX_RING_BACK_OFF_SECONDS = 60
NEXT_RING = f"""coalesce(rung_at, created_at) + make_interval(secs => least(
    {MAX_RING_BACK_OFF_SECONDS},
    {RING_BACK_OFF_SECONDS} * 2 ^ CASE WHEN is_slow THEN 0 ELSE least(rings, 10) END
))"""
IDEMPOTENCY_HOURS = 24
# An ingestion's key, with what a killed process left of it in a folder: `<id>.pdf#1`.
OUR_KEY = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.pdf(#[0-9]+)?$"


async def try_lock(connection: AsyncConnection) -> bool:
    """One sweeper acts at a time; the lock ends with the transaction."""
    return bool(await connection.scalar(text("SELECT pg_try_advisory_xact_lock(7041776)")))


async def holders(connection: AsyncConnection, host: str) -> Sequence[Row[Any]]:
    """(id, worker, lease_epoch) of every run in work on a host."""
    found = await connection.execute(
        text(
            "SELECT id, worker, lease_epoch FROM ingestions"
            " WHERE status = 'processing' AND starts_with(worker, :host)"
        ),
        {"host": host},
    )
    return found.all()


async def requeue_lost(
    connection: AsyncConnection, space_id: int, dead: Sequence[tuple[UUID, int]] = ()
) -> Sequence[Row[Any]]:
    """Queue again what lost its lease, or end it as worker_lost when it was lost too often.

    `dead` are (ingestion, epoch) pairs whose holder is known to be dead. Returns (id, document_id,
    is_requeued) of each; what is queued again counts as rung for.
    """
    lost = WorkerLost()
    found = await connection.execute(
        text(f"""
        WITH lost AS (
            SELECT id FROM ingestions LEFT JOIN
                unnest(CAST(:dead_ids AS uuid[]), CAST(:dead_epochs AS bigint[])) AS dead(dead_id, dead_epoch)
                ON id = dead_id AND lease_epoch = dead_epoch
            WHERE status = 'processing' AND (dead_id IS NOT NULL OR {IS_EXPIRED})
            ORDER BY id LIMIT 1000 FOR UPDATE OF ingestions SKIP LOCKED
        ), ended AS (
            UPDATE ingestions SET {FAILED}
            FROM lost WHERE ingestions.id = lost.id AND fruitless_attempts >= {MAX_FRUITLESS_ATTEMPTS}
            RETURNING ingestions.id, document_id
        ), requeued AS (
            UPDATE ingestions SET status = 'queued', stage = 'queued', lease_expires_at = NULL, worker = NULL,
                rung_at = clock_timestamp(), rings = 1, revision = revision + 1
            FROM lost WHERE ingestions.id = lost.id AND fruitless_attempts < {MAX_FRUITLESS_ATTEMPTS}
            RETURNING ingestions.id, document_id
        ), {without_chunks("ended", space_id)}
        SELECT id, document_id, true AS is_requeued FROM requeued
        UNION ALL SELECT id, document_id, false FROM ended
        """),
        {
            "dead_ids": [ingestion_id for ingestion_id, _ in dead],
            "dead_epochs": [epoch for _, epoch in dead],
            "code": lost.code,
            "message": lost.message,
        },
    )
    return found.all()


async def count_due(connection: AsyncConnection) -> int:
    """How many ingestions wait for a worker: as many messages should be in the queue."""
    due = text(f"SELECT count(*) FROM ingestions WHERE {IS_DUE} AND NOT is_slow")
    return await connection.scalar(due) or 0


async def mark_rung(connection: AsyncConnection, limit: int, *, is_begun: bool = False) -> Sequence[UUID]:
    """The next ingestions to ring for, at most `limit`: new ones, or those that were begun.

    Each is rung again after 2, 4, 8 … 60 seconds, so that a long queue is not flooded; the one that is
    next in the slow lane every 2.
    """
    found = await connection.execute(
        text(f"""
        UPDATE ingestions SET rung_at = clock_timestamp(), rings = rings + 1
        WHERE id IN (
            SELECT id FROM ingestions
            WHERE {IS_DUE} AND {IS_NEXT} AND (attempt > 0) = :is_begun AND (
                rung_at IS NULL AND attempt > 0 OR {NEXT_RING} < clock_timestamp()
            )
            ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        RETURNING id
        """),
        {"limit": limit, "is_begun": is_begun},
    )
    return found.scalars().all()


async def files_to_delete(connection: AsyncConnection, limit: int) -> Sequence[str]:
    found = await connection.execute(
        text("SELECT storage_key FROM files_to_delete ORDER BY created_at LIMIT :limit"), {"limit": limit}
    )
    return found.scalars().all()


async def forget_files(connection: AsyncConnection, storage_keys: Sequence[str]) -> None:
    await connection.execute(
        text("DELETE FROM files_to_delete WHERE storage_key = ANY(:keys)"), {"keys": list(storage_keys)}
    )


async def keys_without_row(connection: AsyncConnection, storage_keys: Sequence[str]) -> Sequence[str]:
    """Those of the keys that are ours and belong to no ingestion. Files that others keep there stay."""
    found = await connection.execute(
        text(
            "SELECT key FROM unnest(CAST(:keys AS text[])) AS key"
            " WHERE key ~ :ours AND NOT EXISTS (SELECT FROM ingestions WHERE storage_key = key)"
        ),
        {"keys": list(storage_keys), "ours": OUR_KEY},
    )
    return found.scalars().all()


async def forget_idempotency_keys(connection: AsyncConnection) -> None:
    await connection.execute(
        text("DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => :hours)"),
        {"hours": IDEMPOTENCY_HOURS},
    )
