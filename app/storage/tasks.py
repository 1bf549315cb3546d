"""Where a task stands, read from its ingestion's row."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Cancelled, InternalError, error_for_code
from app.storage.runs.conditions import FINAL


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """`queue_position` counts from 1, of what is queued only, and is not in the row: see `list_queue`.

    `result` is None until the status is final.
    """

    task_id: UUID
    document_id: UUID
    status: str
    stage: str
    pages_done: int
    pages_total: int | None
    chunks: int
    attempt: int
    next_attempt_at: datetime | None
    result: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    revision: int
    queue_position: int | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


def result_of(row: Any) -> dict[str, Any]:
    """The structured result of an ingestion whose status is final: what a task returns and a poller reads.

    `row` has the columns of `ingestions` as attributes. Ids are strings: the result is JSON.
    """
    if row.status == "success":
        return {
            "status": "success",
            "chunks": row.chunks,
            "document_id": str(row.document_id),
            "pages": row.pages_total,
            "pages_failed": list(row.pages_failed),
            "pages_without_text": list(row.pages_without_text),
            "engine": row.engine,
        }
    code = Cancelled.code if row.status == "cancelled" else row.error_code or InternalError.code
    error = error_for_code(code, row.error_message)
    return {"status": "error", "message": error.message, "code": code, "retryable": error.retryable}


async def list_task_statuses(
    connection: AsyncConnection, ingestion_ids: Collection[UUID]
) -> list[TaskStatus]:
    """The tasks of these ids that exist, in no order, without their places in the queue."""
    rows = await connection.execute(_TASK_STATUSES, {"ids": list(ingestion_ids)})
    return [_task_status(row) for row in rows]


async def list_changes(
    connection: AsyncConnection, versions: Mapping[UUID, int]
) -> list[tuple[UUID, int, TaskStatus | None]]:
    """(task, version of its row, status) of those whose row has another version than the one that is known.

    None: there is no row. What does not change, as thousands of tasks that wait, costs no more than a look.
    """
    known = {"ids": list(versions), "versions": list(versions.values())}
    rows = await connection.execute(_CHANGES, known)
    return [(row.asked, row.version or 0, _task_status(row) if row.id else None) for row in rows]


async def list_queue(connection: AsyncConnection) -> Sequence[UUID]:
    """All that is queued, the next one first: at most MAX_QUEUED ids, in one array."""
    queue: Sequence[UUID] = await connection.scalar(_QUEUE)
    return queue


_COLUMNS = """
    ingestions.id, document_id, status, stage, pages_done, pages_total, pages_failed, pages_without_text,
    engine, chunks, attempt, next_attempt_at, error_code, error_message, revision,
    created_at, started_at, finished_at
"""
_TASK_STATUSES = text(f"SELECT {_COLUMNS} FROM ingestions WHERE id = ANY(:ids)")
# xmin: of the transaction that wrote the row as it is.
_CHANGES = text(f"""
    SELECT known.id AS asked, CAST(CAST(ingestions.xmin AS text) AS bigint) AS version, {_COLUMNS}
    FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS bigint[])) AS known (id, version)
    LEFT JOIN ingestions ON ingestions.id = known.id
    WHERE CAST(CAST(ingestions.xmin AS text) AS bigint) IS DISTINCT FROM known.version
""")
_QUEUE = text("""
    SELECT coalesce(array_agg(id ORDER BY is_slow, created_at, id), '{}')
    FROM ingestions WHERE status = 'queued'
""")


def _task_status(row: Any) -> TaskStatus:
    return TaskStatus(
        task_id=row.id,
        document_id=row.document_id,
        status=row.status,
        stage=row.stage,
        pages_done=row.pages_done,
        pages_total=row.pages_total,
        chunks=row.chunks,
        attempt=row.attempt,
        next_attempt_at=row.next_attempt_at,
        result=result_of(row) if row.status in FINAL else None,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        revision=row.revision,
    )
