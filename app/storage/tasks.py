"""Where tasks stand, read from their ingestions' rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Cancelled, InternalError, error_for_code
from app.storage.database import Database
from app.storage.doomed import stays
from app.storage.reach import EVERYTHING, Reach, find_names
from app.storage.runs.conditions import FINAL, OPEN


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """`queue_position` counts from 1, of what is queued only, and is not in the row: see `list_queue`.

    `result` is None until the status is final. `collection` is None, and `filename` empty, once the document
    is deleted, `queue` is the one that it was asked for in; `is_served`: a search finds this run's chunks.
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
    filename: str
    byte_size: int
    collection: str | None
    is_latest: bool
    is_served: bool
    worker: str | None
    stage_seconds: dict[str, float]
    queue: str | None
    queue_position: int | None = None

    def is_in(self, reach: Reach) -> bool:
        """Whether its document is; of one that is deleted, whether it was when this was asked for."""
        return reach.has_document(self.collection or self.queue, self.document_id)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def progress(self) -> Self:
        """Stage, pages and chunks, which the wire has in a part of their own."""
        return self


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions that must all hold; None: any. `is_latest`: only the newest run of each document."""

    statuses: Sequence[str] | None = None
    collection: str | None = None
    document_id: UUID | None = None
    codes: Sequence[str] | None = None
    is_latest: bool = False


@dataclass(frozen=True, slots=True)
class TaskPlace:
    """A place in the list of tasks: after the task with this id, which was asked for at this time."""

    created_at: datetime
    task_id: UUID


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
    database: Database, ingestion_ids: Collection[UUID], collections: Collection[str | None] = ()
) -> list[TaskStatus]:
    """The tasks of these ids that exist, in no order, without their places in the queue.

    With them those at the front of the collections that fit each of the patterns of LIKE (None: of all
    together), see `MOST_FOLLOWED`.
    """
    ids = list(ingestion_ids)
    if collections:
        rows = await database.fetch(_FOLLOWED, ids, list(collections))
    elif len(ids) == 1:
        rows = await database.fetch(_ONE, *ids)
    else:
        rows = await database.fetch(_NAMED, ids)
    return [_task_status(row) for row in rows]


async def has_task(connection: AsyncConnection, ingestion_id: UUID, reach: Reach) -> bool:
    """Whether the task is one of a document in reach."""
    found = text(
        "SELECT EXISTS (SELECT FROM ingestions i JOIN documents d ON d.id = i.document_id"
        f" WHERE i.id = :id AND {reach.sql('d')})"
    )
    return bool(await connection.scalar(found, {"id": ingestion_id} | reach.parameters))


async def list_tasks(
    connection: AsyncConnection,
    wanted: TaskFilter,
    after: TaskPlace | None,
    limit: int,
    reach: Reach = EVERYTHING,
) -> list[TaskStatus]:
    """Those asked for last come first; ids say nothing of the order, since clients of Celery choose some."""
    conditions, parameters = _conditions(wanted)
    names = await find_names(connection, reach)
    conditions.append(reach.sql("d") if names is None else "d.collection = ANY(CAST(:names AS text[]))")
    parameters |= reach.parameters if names is None else {"names": list(names)}
    if after is not None:
        conditions.append("(i.created_at, i.id) < (:after_time, :after_id)")
        parameters |= {"after_time": after.created_at, "after_id": after.task_id}
    statement = text(
        f"{_TASKS} WHERE {' AND '.join(conditions)} ORDER BY i.created_at DESC, i.id DESC LIMIT :limit"
    )
    return [_task_status(row) for row in await connection.execute(statement, parameters | {"limit": limit})]


async def list_changes(
    database: Database, versions: Mapping[UUID, int]
) -> list[tuple[UUID, int, TaskStatus | None]]:
    """(task, version of its row, status) of those whose row has another version than the one that is known.

    None: there is no row. What does not change, as thousands of tasks that wait, costs no more than a look.
    """
    rows = await database.fetch(_CHANGES, list(versions), list(versions.values()))
    return [(row.asked, row.version or 0, _task_status(row) if row.id else None) for row in rows]


async def list_queue(database: Database) -> Sequence[UUID]:
    """All that is queued, the next one first: at most MAX_QUEUED ids, in one array."""
    (row,) = await database.fetch(_QUEUE)
    queue: Sequence[UUID] = row.queue
    return queue


# Of a collection that is followed: so many in work, next in the queue, and of the last seconds.
MOST_FOLLOWED = 200

_COLUMNS = """
    i.id, i.document_id, i.status, i.stage, i.pages_done, i.pages_total, i.pages_failed,
        i.pages_without_text, i.engine, i.chunks, i.attempt, i.next_attempt_at, i.error_code, i.error_message,
        i.revision, i.created_at, i.started_at, i.finished_at, i.filename, i.byte_size, i.worker,
        i.stage_seconds, i.queue, d.collection, d.latest_ingestion_id IS NOT DISTINCT FROM i.id AS is_latest,
        d.live_ingestion_id IS NOT DISTINCT FROM i.id AS is_served
"""
_DOCUMENT = f"LEFT JOIN documents d ON d.id = i.document_id AND {stays('d')}"
_TASKS = f"SELECT {_COLUMNS} FROM ingestions i {_DOCUMENT}"
# Of one id: a plan for any array is thought to cost more than planning anew, which is most of a look's work.
_ONE = f"{_TASKS} WHERE i.id = $1"
_NAMED = f"{_TASKS} WHERE i.id = ANY($1)"
_OF_COLLECTION = f"""
    SELECT i.id FROM ingestions i {_DOCUMENT}
    WHERE (wanted.name IS NULL OR d.collection LIKE wanted.name) AND
"""
# Three lists with a bound, each along an index: 10,000 that wait are not sorted four times a second. What is
# small begins and ends between two looks: therefore all that was asked for just now, too (by now(): the index
# cannot look for a clock_timestamp()).
_FRONT = f"""
    SELECT front.id FROM unnest(CAST($2 AS text[])) AS wanted(name) CROSS JOIN LATERAL (
        (
            {_OF_COLLECTION} i.status IN {OPEN} AND (i.status <> 'queued' OR i.started_at IS NOT NULL)
            LIMIT {MOST_FOLLOWED}
        )
        UNION (
            {_OF_COLLECTION} i.status = 'queued' AND i.started_at IS NULL AND i.turn IS NOT NULL
            ORDER BY i.turn, i.is_bulk, i.created_at, i.id LIMIT {MOST_FOLLOWED}
        )
        UNION (
            {_OF_COLLECTION} i.created_at > now() - interval '10 seconds'
            ORDER BY i.created_at DESC LIMIT {MOST_FOLLOWED}
        )
    ) front
"""
_FOLLOWED = f"{_TASKS} WHERE i.id IN (SELECT unnest(CAST($1 AS uuid[])) UNION {_FRONT})"
# xmin: of the transaction that wrote the row as it is.
_CHANGES = f"""
    SELECT known.id AS asked, CAST(CAST(i.xmin AS text) AS bigint) AS version, {_COLUMNS}
    FROM unnest(CAST($1 AS uuid[]), CAST($2 AS bigint[])) AS known (id, version)
    LEFT JOIN ingestions i ON i.id = known.id {_DOCUMENT}
    WHERE CAST(CAST(i.xmin AS text) AS bigint) IS DISTINCT FROM known.version
"""
_QUEUE = """
    SELECT coalesce(
        array_agg(id ORDER BY is_slow, started_at IS NULL, turn NULLS FIRST, is_bulk, created_at, id), '{}'
    ) AS queue FROM ingestions WHERE status = 'queued'
"""


def _conditions(wanted: TaskFilter) -> tuple[list[str], dict[str, Any]]:
    tests = {
        "statuses": (wanted.statuses and list(wanted.statuses), "i.status = ANY(:statuses)"),
        "collection": (wanted.collection, "d.collection = :collection"),
        "document_id": (wanted.document_id, "i.document_id = :document_id"),
        "codes": (wanted.codes and list(wanted.codes), "i.error_code = ANY(:codes)"),
    }
    asked = {name: test for name, test in tests.items() if test[0]}
    latest = ["d.latest_ingestion_id = i.id"] if wanted.is_latest else []
    conditions = ["true", *latest, *(condition for _, condition in asked.values())]
    return conditions, {name: value for name, (value, _) in asked.items()}


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
        filename=row.filename,
        byte_size=row.byte_size,
        collection=row.collection,
        is_latest=row.is_latest,
        is_served=row.is_served,
        worker=row.worker,
        stage_seconds=row.stage_seconds,
        queue=row.queue,
    )
