"""What the sweeper asks and changes: who leads, work that no message announces, files without a row."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import Database
from app.storage.runs.conditions import IS_DUE, IS_LANE_FREE, IS_SLOW, IS_UNCLAIMED, RUNNING

# Of what is slow, the first ones are next as soon as the slow lane is free.
IS_NEXT = f"""(
    NOT {IS_SLOW} OR {IS_LANE_FREE} AND id IN (
        SELECT id FROM ingestions WHERE {IS_DUE} AND {IS_SLOW}
        ORDER BY slow_since, id LIMIT greatest(2, {RUNNING})
    )
)"""
MESSAGE_BACK_OFF_SECONDS = 2
MAX_MESSAGE_BACK_OFF_SECONDS = 60
NEXT_MESSAGE = f"""coalesce(rung_at, created_at) + make_interval(secs => least(
    {MAX_MESSAGE_BACK_OFF_SECONDS},
    {MESSAGE_BACK_OFF_SECONDS} * 2 ^ CASE WHEN is_slow THEN 0 ELSE least(rings, 10) END
))"""
# Less than a lease: when nobody could sweep for so long, leases may have run out for the same reason.
LEADER_SECONDS = 2.5
NEW_LEADERSHIP = f"clock_timestamp() + interval '{LEADER_SECONDS} seconds'"
IDEMPOTENCY_HOURS = 24
MAX_DELETE_PAUSE_SECONDS = 3600
# An ingestion's key, with what a killed process left of it in a folder: `<id>.pdf#1`.
OUR_KEY = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.pdf(#[0-9]+)?$"


async def find_leader(database: Database) -> str | None:
    """The holder that leads; None when nobody does."""
    found = await database.fetch(
        "SELECT holder FROM leaders WHERE duty = 'sweep' AND expires_at >= clock_timestamp()"
    )
    return found[0].holder if found else None


async def lead(connection: AsyncConnection, holder: str, dead_leader: str | None = None) -> float | None:
    """Become or stay the leader; for how many seconds there has been one without a gap.

    None when another process leads. A leader that is stopped or cut off loses its place in LEADER_SECONDS,
    one that is known to be dead at once.
    """
    found = await connection.execute(
        text(f"""
        INSERT INTO leaders (duty, holder, since, expires_at)
        VALUES ('sweep', :holder, clock_timestamp(), {NEW_LEADERSHIP})
        ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
            since = CASE WHEN leaders.expires_at < excluded.since THEN excluded.since ELSE leaders.since END
        WHERE leaders.holder IN (:holder, :dead_leader) OR leaders.expires_at < clock_timestamp()
        RETURNING CAST(extract(epoch FROM clock_timestamp() - since) AS float8)
        """),
        {"holder": holder, "dead_leader": dead_leader},
    )
    seconds: float | None = found.scalar_one_or_none()
    return seconds


async def count_due(database: Database) -> tuple[int, int]:
    """How many ingestions wait for a worker, and without the slow ones: so many messages should there be."""
    (due,) = await database.fetch(
        f"SELECT count(*) AS waiting, count(*) FILTER (WHERE NOT {IS_SLOW}) AS quick"
        f" FROM ingestions WHERE {IS_DUE}"
    )
    return due.waiting, due.quick


async def mark_announced(
    connection: AsyncConnection, limit: int, *, is_begun: bool = False
) -> Sequence[UUID]:
    """The next runs to send messages for, at most `limit`: new ones, or those that were begun.

    Each is announced again after 2, 4, 8 … 60 seconds, so that a long queue is not flooded; the one that is
    next in the slow lane every 2.
    """
    found = await connection.execute(
        text(f"""
        UPDATE ingestions SET rung_at = clock_timestamp(), rings = rings + 1
        WHERE id IN (
            SELECT id FROM ingestions
            WHERE {IS_DUE} AND {IS_NEXT} AND (started_at IS NOT NULL) = :is_begun AND (
                rung_at IS NULL AND started_at IS NOT NULL OR {NEXT_MESSAGE} < clock_timestamp()
            )
            ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        RETURNING id
        """),
        {"limit": limit, "is_begun": is_begun},
    )
    return found.scalars().all()


async def forget_back_off(connection: AsyncConnection) -> None:
    """Whoever took the messages is gone, and they with it: all that waits is announced again in 2 seconds."""
    await connection.execute(
        text(f"""
        UPDATE ingestions SET rings = 0 WHERE id IN (
            SELECT id FROM ingestions WHERE {IS_UNCLAIMED} AND rings > 0 FOR UPDATE SKIP LOCKED
        )
        """)
    )


async def files_to_delete(connection: AsyncConnection, limit: int) -> Sequence[str]:
    """The next ones; those that could not be deleted come again later and later."""
    found = await connection.execute(
        text(
            "SELECT storage_key FROM files_to_delete WHERE next_attempt_at <= clock_timestamp()"
            " ORDER BY next_attempt_at, created_at LIMIT :limit"
        ),
        {"limit": limit},
    )
    return found.scalars().all()


async def forget_files(connection: AsyncConnection, storage_keys: Sequence[str]) -> None:
    await connection.execute(
        text("DELETE FROM files_to_delete WHERE storage_key = ANY(:keys)"), {"keys": list(storage_keys)}
    )


async def put_back_files(connection: AsyncConnection, storage_keys: Sequence[str]) -> None:
    """They could not be deleted: again after 2, 4, 8 … seconds, at most an hour."""
    await connection.execute(
        text(f"""
        UPDATE files_to_delete SET failures = failures + 1, next_attempt_at = clock_timestamp()
            + make_interval(secs => least({MAX_DELETE_PAUSE_SECONDS}, 2 ^ least(failures + 1, 12)))
        WHERE storage_key = ANY(:keys)
        """),
        {"keys": list(storage_keys)},
    )


async def count_undeletable(connection: AsyncConnection) -> int:
    """Files that could not be deleted yet."""
    return await connection.scalar(text("SELECT count(*) FROM files_to_delete WHERE failures > 0")) or 0


async def count_files(connection: AsyncConnection) -> int:
    """Files that documents have."""
    return await connection.scalar(text("SELECT count(storage_key) FROM ingestions")) or 0


async def newest_files(connection: AsyncConnection, limit: int) -> Sequence[str]:
    """Those of the newest documents, one of each."""
    found = await connection.execute(
        text(
            "SELECT storage_key FROM documents JOIN ingestions ON ingestions.id = latest_ingestion_id"
            " WHERE storage_key IS NOT NULL ORDER BY documents.id DESC LIMIT :limit"
        ),
        {"limit": limit},
    )
    return found.scalars().all()


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


async def forget_runs(connection: AsyncConnection, retention_days: float, limit: int) -> int:
    """Delete what ended so long ago and is neither served nor the newest of its document; how many.

    Should one still have a file, the file is for the sweeper to delete.
    """
    found = await connection.execute(
        text("""
        WITH old AS (
            SELECT id, storage_key FROM ingestions
            WHERE finished_at < clock_timestamp() - make_interval(secs => :retention_days * 86400)
                AND NOT EXISTS (
                    SELECT FROM documents WHERE ingestions.id IN (latest_ingestion_id, live_ingestion_id)
                ) AND NOT EXISTS (SELECT FROM chunks WHERE ingestion_id = ingestions.id)
            LIMIT :limit FOR UPDATE SKIP LOCKED
        ), files AS (
            INSERT INTO files_to_delete (storage_key) SELECT storage_key FROM old
            WHERE storage_key IS NOT NULL ON CONFLICT DO NOTHING
        ), forgotten AS (DELETE FROM ingestions USING old WHERE ingestions.id = old.id)
        SELECT count(*) FROM old
        """),
        {"retention_days": retention_days, "limit": limit},
    )
    count: int = found.scalar_one()
    return count


async def forget_workers(connection: AsyncConnection) -> None:
    """Those that have asked for nothing for a day."""
    await connection.execute(text("DELETE FROM workers WHERE seen_at < clock_timestamp() - interval '1 day'"))


async def forget_idempotency_keys(connection: AsyncConnection) -> None:
    await connection.execute(
        text("DELETE FROM idempotency_keys WHERE created_at < now() - make_interval(hours => :hours)"),
        {"hours": IDEMPOTENCY_HOURS},
    )
