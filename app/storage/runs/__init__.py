"""The life of a run: a row of `ingestions`, whose id is the Celery task's. Every step it can take is here.

                     ┌─────────── release, requeue ───────────┐
                     ▼                                        │
    ask ─────────► queued ──────────── claim ──────────► processing ───── publish ──► success
                                         ▲                 │      └─────── fail ────► error
                                         │                 │
                                      retrying ◄── retry_later, requeue

    queued ── share ──► success                                  the same bytes are served already
    queued, retrying, processing ── end, supersede, cancel ──► error, cancelled     whoever holds it

`asking` has how a run begins, `content` what it stores on its way (`begin`, `begin_anew`, `store`,
`count_words`), `conditions` what "open", "due" and "slow" mean.

Who holds the lease writes, and nobody else: each write carries the lease's epoch, and when no row comes back
the lease belongs to somebody else (or nobody) and nothing was written: LeaseLost. Each step is one statement,
to be run outside a transaction block, so that a process stopped at any moment holds no lock.

A run that ends without success has its verdict first; then its chunks go, which nobody sees. As long as there
are some, `chunks` says so, and the sweeper deletes what somebody was killed or stopped before deleting.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import structlog
from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Cancelled, LeaseLost, PDFIngestError, Superseded, WorkerLost
from app.storage.chunks import without_chunks
from app.storage.database import Database
from app.storage.doomed import stays
from app.storage.models import Ingestion
from app.storage.reach import Reach
from app.storage.runs.asking import (
    NewIngestion,
    ask,
    ask_by_path,
    find_waiting,
    give_file,
    move,
    put_off,
    wait_for_equal,
)
from app.storage.runs.conditions import (
    FOUND_NO_WORKER,
    IS_DUE,
    IS_EXPIRED,
    IS_IN_GOOD_COMPANY,
    IS_LANE_FREE,
    IS_OPEN,
    IS_OURS,
    IS_SLOW,
    IS_UNCLAIMED,
    LANE_SIZE,
    LOSSES_IN_COMPANY,
    NEW_LEASE,
    SLOW_TURN_SECONDS,
    WAITS_FOR_NONE,
)
from app.storage.runs.content import begin, begin_anew, count_words, store
from app.storage.runs.lease import Lease, LostLease, Progress, StoredChunks, write, write_row
from app.storage.runs.turns import NEXT

__all__ = [
    "Lease",
    "LostLease",
    "NewIngestion",
    "Progress",
    "StoredChunks",
    "ask",
    "ask_by_path",
    "begin",
    "begin_anew",
    "count_words",
    "find_waiting",
    "give_file",
    "move",
    "put_off",
    "store",
    "wait_for_equal",
]
# After the first, second … death of a run's own process without progress in between; one more, and it is
# given up.
PAUSES_SECONDS = (0, 1, 5, 20, 60)
# What was lost with its whole worker, or with others, is not to blame, and after two such losses only waits
# until the dying may be over. What takes its whole worker along each time must have an end as well: after so
# many in a row, two to three minutes. A fleet killed every two seconds for a minute loses a run 15 times.
PAUSE_IN_COMPANY_SECONDS = 3
MOST_LOSSES = 30

log = structlog.get_logger(__name__)


async def claim(connection: AsyncConnection, ingestion_id: UUID, worker: str) -> Lease | None:
    """Take the lease of work that is due; None when there is nothing to take.

    Only a document's newest ingestion is worked on; one that waits for another with the same content is
    not its newest. What is slow waits until the slow lane is free, and everything for the end of an outage.
    """
    statement = text(f"""
        WITH {_SEEN} {_CLAIMED}
        WHERE id = :id AND {IS_DUE} AND (NOT {IS_SLOW} OR {IS_LANE_FREE}) AND {IS_IN_GOOD_COMPANY}
            AND NOT EXISTS (SELECT FROM outages)
            AND EXISTS (SELECT FROM documents WHERE latest_ingestion_id = ingestions.id)
        RETURNING {_LEASE}
    """)
    found = await connection.execute(statement, {"id": ingestion_id, "worker": worker})
    return _lease(found.one_or_none())


async def claim_next(connection: AsyncConnection, worker: str) -> Lease | None:
    """Take the lease of the run whose turn it is (see `turns`); None when none may be begun."""
    statement = text(f"""
        WITH {_SEEN}, {NEXT} {_CLAIMED}
        WHERE id = (SELECT id FROM next) AND NOT EXISTS (SELECT FROM outages)
        RETURNING {_LEASE}
    """)
    return _lease((await connection.execute(statement, {"worker": worker})).one_or_none())


_SEEN = """
    seen AS (
        INSERT INTO workers (holder, seen_at) VALUES (:worker, clock_timestamp())
        ON CONFLICT (holder) DO UPDATE SET seen_at = excluded.seen_at
    )
"""
_CLAIMED = f"""
    UPDATE ingestions SET
        status = 'processing', stage = 'reading', worker = :worker, attempt = attempt + 1,
        next_attempt_at = NULL, lease_epoch = lease_epoch + 1, lease_expires_at = {NEW_LEASE},
        started_at = coalesce(started_at, clock_timestamp()), revision = revision + 1
"""
_LEASE = """
    ingestions.id, lease_epoch, storage_key, password, retries, document_id, attempt, filename, request_id, (
        SELECT collections.language FROM documents JOIN collections ON collections.id = collection_id
        WHERE documents.id = document_id
    ) AS collection_language
"""


def _lease(row: Row[Any] | None) -> Lease | None:
    if row is None:
        return None
    return Lease(
        row.id,
        row.lease_epoch,
        row.storage_key or "",
        row.password,
        row.retries,
        row.document_id,
        row.attempt,
        row.filename,
        row.collection_language,
        row.request_id,
    )


async def is_due(connection: AsyncConnection, ingestion_id: UUID) -> bool:
    """Whether an ingestion waits for somebody to go on with it."""
    found = await connection.scalar(
        text(f"SELECT true FROM ingestions WHERE id = :id AND {IS_DUE}"), {"id": ingestion_id}
    )
    return found is not None


async def renew(connection: AsyncConnection, lease: Lease, progress: Progress) -> None:
    """The heartbeat: prove and extend the lease, and show how far the work is. More pages are progress."""
    await write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, stage = :stage,
            losses = CASE WHEN :pages_done > pages_done THEN 0 ELSE losses END,
            deaths = CASE WHEN :pages_done > pages_done THEN 0 ELSE deaths END,
            pages_done = greatest(pages_done, :pages_done),
            pages_total = coalesce(CAST(:pages_total AS int), pages_total), revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        stage=progress.stage,
        pages_done=progress.pages_done,
        pages_total=progress.pages_total,
    )


async def enter_slow_lane(connection: AsyncConnection, lease: Lease) -> bool:
    """Mark a run as slow if anything else waits; False when it must make way.

    It must when as many others as the lane has room for were slow before it; not when it has made way before,
    and waited for its turn.
    """
    found = await connection.execute(
        text(f"""
        WITH mine AS (
            UPDATE ingestions SET is_slow = true, slow_since = coalesce(slow_since, clock_timestamp())
            WHERE {IS_OURS} AND EXISTS (SELECT FROM ingestions WHERE {FOUND_NO_WORKER})
            RETURNING id, slow_since
        )
        SELECT mine.slow_since < clock_timestamp() - interval '{SLOW_TURN_SECONDS} seconds' OR (
            SELECT count(*) FROM ingestions AS other WHERE status = 'processing' AND is_slow
            AND (other.slow_since, other.id) < (mine.slow_since, mine.id)
        ) < {LANE_SIZE} FROM mine
        """),
        {"id": lease.ingestion_id, "epoch": lease.epoch},
    )
    may_go_on: bool | None = found.scalar()
    return may_go_on is not False


async def publish(
    connection: AsyncConnection,
    lease: Lease,
    space_id: int,
    *,
    engines: Sequence[str],
    pages_failed: Sequence[int],
    pages_without_text: Sequence[int],
    stage_seconds: dict[str, float],
) -> int:
    """Make the ingestion the document's live one and remove the one it replaces, all at once.

    The document's row is locked first, here and wherever both tables are written. Returns the chunks.
    """
    chunks: int = await write(
        connection,
        lease,
        f"""
        WITH document AS (
            SELECT id, live_ingestion_id FROM documents WHERE latest_ingestion_id = :id FOR UPDATE
        ), published AS (
            UPDATE ingestions SET status = 'success', stage = 'publishing', finished_at = clock_timestamp(),
                password = NULL, lease_expires_at = NULL, revision = revision + 1,
                pages_done = coalesce(pages_total, pages_done),
                pages_failed = CAST(:pages_failed AS bigint[]), stage_seconds = CAST(:stage_seconds AS jsonb),
                pages_without_text = CAST(:pages_without_text AS bigint[]), engine = :engine
            FROM document WHERE ingestions.{IS_OURS} RETURNING ingestions.id, chunks
        ), pointer AS (
            UPDATE documents SET live_ingestion_id = published.id, updated_at = clock_timestamp()
            FROM published WHERE latest_ingestion_id = published.id
        ), replaced AS (
            SELECT ingestions.id, storage_key FROM published, document
            JOIN ingestions ON ingestions.id = document.live_ingestion_id WHERE ingestions.id <> :id
        ), {without_chunks("replaced", space_id)},
        keyless AS (UPDATE ingestions SET storage_key = NULL FROM replaced WHERE ingestions.id = replaced.id),
        unneeded AS (
            INSERT INTO files_to_delete (storage_key)
            SELECT storage_key FROM replaced WHERE storage_key IS NOT NULL ON CONFLICT DO NOTHING
        )
        SELECT chunks FROM published
        """,
        pages_failed=list(pages_failed),
        pages_without_text=list(pages_without_text),
        engine="+".join(engines),
        stage_seconds=orjson.dumps(stage_seconds).decode(),
    )
    return chunks


async def share(connection: AsyncConnection, ingestion_id: UUID, served_id: UUID) -> None:
    """End as success with the chunks that are served already; the run's own file is not needed."""
    await connection.execute(
        text("""
        UPDATE ingestions AS mine SET
            status = 'success', stage = 'publishing', document_id = served.document_id, title = served.title,
            pages_done = served.pages_done, pages_total = served.pages_total, chunks = served.chunks,
            pages_failed = served.pages_failed, pages_without_text = served.pages_without_text,
            engine = served.engine, language = served.language, storage_key = NULL, waits_for = NULL,
            next_attempt_at = NULL, revision = mine.revision + 1,
            started_at = coalesce(mine.started_at, clock_timestamp()), finished_at = clock_timestamp()
        FROM ingestions AS served
        WHERE mine.id = :id AND mine.status = 'queued' AND served.id = :served_id
        """),
        {"id": ingestion_id, "served_id": served_id},
    )


async def fail(connection: AsyncConnection, lease: Lease, space_id: int, error: PDFIngestError) -> None:
    """The verdict of a run that cannot succeed, by who has its lease."""
    ended = await _end(connection, space_id, error, IS_OURS, id=lease.ingestion_id, epoch=lease.epoch)
    if not ended:
        raise LeaseLost


async def end(connection: AsyncConnection, ingestion_id: UUID, space_id: int, error: PDFIngestError) -> bool:
    """End a run with a verdict, whoever holds it; False for a final one, which stays as it is."""
    return bool(await _end(connection, space_id, error, "id = :id", id=ingestion_id))


async def refuse(
    connection: AsyncConnection, ingestion_id: UUID, space_id: int, error: PDFIngestError
) -> bool:
    """End a run whose file cannot be taken in; False when another delivery has done that, or taken it in."""
    return bool(await _end(connection, space_id, error, "id = :id AND path IS NOT NULL", id=ingestion_id))


async def cancel(connection: AsyncConnection, ingestion_id: UUID, space_id: int) -> bool:
    """End a run that is not final; its file stays for a retry. False when there is no such run."""
    ended = await _end_for(connection, space_id, Cancelled(), "id = :id", id=ingestion_id)
    return bool(ended) or await find(connection, ingestion_id) is not None


async def cancel_unclaimed(
    connection: AsyncConnection, collection: str | None, most: int, space_id: int, reach: Reach
) -> int:
    """End runs that wait, of a collection if one is named: how many, `most` at a time."""
    found = await connection.execute(
        text(f"""
        SELECT ingestions.id FROM ingestions JOIN documents ON documents.id = document_id
        WHERE {IS_UNCLAIMED} AND (CAST(:collection AS text) IS NULL OR collection = :collection)
            AND {stays("documents")} AND {reach.sql("documents")}
        ORDER BY ingestions.id LIMIT :most FOR UPDATE OF ingestions SKIP LOCKED
        """),
        {"collection": collection, "most": most} | reach.parameters,
    )
    waiting = list(found.scalars())
    return len(await _end_for(connection, space_id, Cancelled(), "id = ANY(:ids)", ids=waiting))


async def cancel_all(connection: AsyncConnection, document_ids: Sequence[UUID], space_id: int) -> None:
    """Those of documents which are going to be deleted."""
    which = "document_id = ANY(:document_ids)"
    await _end_for(connection, space_id, Cancelled(), which, document_ids=list(document_ids))


async def supersede(
    connection: AsyncConnection, document_id: UUID, ingestion_id: UUID, space_id: int
) -> None:
    """End a document's other runs, since this one is its newest."""
    await _end_for(
        connection,
        space_id,
        Superseded(),
        f"document_id = :document_id AND id <> :id AND {WAITS_FOR_NONE}",
        document_id=document_id,
        id=ingestion_id,
    )


async def _end_for(
    connection: AsyncConnection,
    space_id: int,
    error: PDFIngestError,
    which: str,
    **parameters: UUID | list[UUID],
) -> Sequence[Row[Any]]:
    """At a client's request, which is logged here: nobody else says it of each run."""
    ended = await _end(connection, space_id, error, which, **parameters)
    for row in ended:
        log.info(error.code, task_id=str(row.id), document_id=str(row.document_id))
    return ended


async def _end(
    connection: AsyncConnection, space_id: int, error: PDFIngestError, which: str, **parameters: Any
) -> Sequence[Row[Any]]:
    """End the open ones among those `which` names, without success. Returns (id, document_id) of each.

    Two statements, since one would not see the batch that a worker is storing just now: it waits for that one
    to have its row, but finds the chunks that were there when it began.
    """
    found = await connection.execute(
        text(f"UPDATE ingestions SET {_ENDED} WHERE {which} AND {IS_OPEN} RETURNING id, document_id"),
        {
            "status": Cancelled.code if isinstance(error, Cancelled) else "error",
            "code": error.code,
            "message": error.message,
            **parameters,
        },
    )
    ended = found.all()
    await delete_left_chunks(connection, space_id, [row.id for row in ended])
    return ended


_ENDED = """
    status = :status, error_code = :code, error_message = :message, password = NULL,
    lease_expires_at = NULL, finished_at = clock_timestamp(), revision = revision + 1
"""


async def find_left_chunks(connection: AsyncConnection, limit: int) -> Sequence[UUID]:
    """Runs that ended without success and still have chunks."""
    found = await connection.execute(
        text(f"SELECT id FROM ingestions WHERE {_HAS_LEFT_CHUNKS} LIMIT :limit"), {"limit": limit}
    )
    return found.scalars().all()


async def delete_left_chunks(
    connection: AsyncConnection, space_id: int, ingestion_ids: Sequence[UUID]
) -> None:
    """Those of these runs, if they ended without success: then no more are stored."""
    if not ingestion_ids:
        return
    await connection.execute(
        text(f"""
        WITH ended AS (
            UPDATE ingestions SET chunks = 0 WHERE id = ANY(:ids) AND {_HAS_LEFT_CHUNKS} RETURNING id
        ), {without_chunks("ended", space_id)}
        SELECT 1
        """),
        {"ids": list(ingestion_ids)},
    )


_HAS_LEFT_CHUNKS = "status IN ('error', 'cancelled') AND chunks > 0"


async def release(
    connection: AsyncConnection, lease: Lease, *, is_slow: bool = False, is_counted: bool = True
) -> None:
    """Give the lease back unharmed, for example on shutdown; anybody may go on at once.

    What is slow can go on as soon as the slow lane is free. `is_counted`: the attempt was one.
    """
    await write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET status = 'queued', stage = 'queued', lease_expires_at = NULL, worker = NULL,
            rung_at = NULL, rings = 0, is_slow = is_slow OR :is_slow,
            slow_since = CASE WHEN :is_slow THEN coalesce(slow_since, clock_timestamp()) ELSE slow_since END,
            attempt = attempt - CAST(NOT :is_counted AS int), revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        is_slow=is_slow,
        is_counted=is_counted,
    )


async def retry_later(
    connection: AsyncConnection, lease: Lease, error: PDFIngestError, delay_seconds: float
) -> None:
    """Give the lease back after a temporary failure; what is stored stays and is continued."""
    await write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET status = 'retrying', stage = 'queued', lease_expires_at = NULL, worker = NULL,
            error_code = :code, error_message = :message, retries = retries + 1,
            next_attempt_at = clock_timestamp() + make_interval(secs => :delay_seconds), rung_at = NULL,
            rings = 0, revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        code=error.code,
        message=error.message,
        delay_seconds=delay_seconds,
    )


async def requeue(connection: AsyncConnection, lease: Lease) -> float | None:
    """Try again later what was interrupted by a cause that may be its own; the pause in seconds.

    None, with nothing changed, when this was once too often: then the cause is the verdict.
    """
    row = await write_row(
        connection,
        lease,
        f"""
        WITH lost AS (
            SELECT id, document_id, lease_epoch, true AS is_counted, {_pause_seconds("true")}
            FROM ingestions WHERE {IS_OURS} FOR UPDATE
        ), {_REQUEUED} SELECT pause_seconds FROM lost
        """,
    )
    pause_seconds: float | None = row.pause_seconds
    return pause_seconds


async def holders(database: Database) -> Sequence[Any]:
    """(id, worker, lease_epoch) of every run in work."""
    return await database.fetch(
        "SELECT id, worker, lease_epoch FROM ingestions WHERE status = 'processing' AND worker IS NOT NULL"
    )


async def requeue_lost(
    connection: AsyncConnection,
    space_id: int,
    lost: Sequence[LostLease] = (),
    *,
    with_expired: bool = True,
) -> Sequence[Row[Any]]:
    """Queue again what lost its lease, or end it when its own process died too often.

    Returns (id, document_id, is_counted, pause_seconds) of each; None: it has ended. What is queued without a
    pause counts as announced.
    """
    found = await connection.execute(
        text(f"""
        WITH lost AS (
            SELECT id, document_id, coalesce(is_own_death, false) AS is_counted,
                {_pause_seconds("is_own_death")}
            FROM ingestions LEFT JOIN unnest(
                CAST(:ids AS uuid[]), CAST(:epochs AS bigint[]), CAST(:are_own AS bool[])
            ) AS dead(dead_id, dead_epoch, is_own_death) ON id = dead_id AND lease_epoch = dead_epoch
            WHERE status = 'processing' AND (dead_id IS NOT NULL OR :with_expired AND {IS_EXPIRED})
            ORDER BY id LIMIT 1000 FOR UPDATE OF ingestions SKIP LOCKED
        ), {_REQUEUED}, ended AS (
            UPDATE ingestions SET {_ENDED} FROM lost WHERE ingestions.id = lost.id AND pause_seconds IS NULL
        ) SELECT id, document_id, is_counted, pause_seconds FROM lost
        """),
        {
            "ids": [lease.ingestion_id for lease in lost],
            "epochs": [lease.epoch for lease in lost],
            "are_own": [lease.is_own_death for lease in lost],
            "with_expired": with_expired,
            "status": "error",
            "code": WorkerLost.code,
            "message": WorkerLost.default_message,
        },
    )
    rows = found.all()
    await delete_left_chunks(connection, space_id, [row.id for row in rows if row.pause_seconds is None])
    return rows


def _pause_seconds(is_counted: str) -> str:
    """NULL behind the last of the pauses."""
    pauses = ", ".join(map(str, PAUSES_SECONDS))
    return f"""CASE WHEN {is_counted} THEN (ARRAY[{pauses}])[deaths + 1]
        WHEN losses + 1 >= {MOST_LOSSES} THEN NULL
        WHEN losses >= {LOSSES_IN_COMPANY} THEN {PAUSE_IN_COMPANY_SECONDS} ELSE 0 END AS pause_seconds"""


_REQUEUED = """
    requeued AS (
        UPDATE ingestions SET
            status = CASE WHEN pause_seconds > 0 THEN 'retrying' ELSE 'queued' END, stage = 'queued',
            lease_expires_at = NULL, worker = NULL, losses = losses + 1,
            deaths = deaths + CAST(is_counted AS int),
            next_attempt_at = clock_timestamp() + make_interval(secs => pause_seconds),
            rung_at = CASE WHEN pause_seconds = 0 THEN clock_timestamp() END,
            rings = CASE WHEN pause_seconds = 0 THEN 1 ELSE 0 END, revision = revision + 1
        FROM lost WHERE ingestions.id = lost.id AND pause_seconds IS NOT NULL
    )
"""


async def find(connection: AsyncConnection, ingestion_id: UUID) -> Row[Any] | None:
    """All columns of the ingestion."""
    found = await connection.execute(select(Ingestion.__table__).where(Ingestion.id == ingestion_id))
    return found.one_or_none()
