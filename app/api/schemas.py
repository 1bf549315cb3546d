"""What goes over the wire: the bodies of tasks and health, described for people in OpenAPI."""

import json
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from app.services.readiness import Readiness
from app.storage.tasks import TaskFilter, TaskStatus

MAX_COLLECTION_CHARACTERS = 200
MAX_JSON_BYTES = 10_000

_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"
_DOCUMENT_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00"


def storable_text(value: str) -> str:
    """Raises ValueError for what Postgres does not take as text."""
    if "\0" in value:
        raise ValueError("must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def storable_json(value: JsonValue) -> JsonValue:
    """Raises ValueError for what Postgres does not take as jsonb."""
    encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
    storable_text(encoded.replace("\\\\", "").replace("\\u0000", "\0"))
    return value


def storable_metadata(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raises ValueError for what Postgres does not take as jsonb, and for too much of it."""
    storable_json(value)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_JSON_BYTES:
        raise ValueError(f"must not be longer than {MAX_JSON_BYTES:,} bytes")
    return value


def storable_moment(value: datetime) -> datetime:
    """Raises ValueError for what lies, in UTC, before the year 1 or after 9999."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999, in UTC") from None


def addressable_name(value: str) -> str:
    """Raises ValueError for a name that no address leads to: nobody could delete the collection."""
    if {".", ".."} & set(value.split("/")) or any(unicodedata.category(one) == "Cc" for one in value):
        raise ValueError("must not contain control characters, nor `.` or `..` as a part between `/`")
    return value


CollectionName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_COLLECTION_CHARACTERS),
    AfterValidator(storable_text),
    AfterValidator(addressable_name),
]
# `*` in them stands for any characters.
CollectionPatterns = Annotated[list[CollectionName], Field(min_length=1, max_length=100)]
Moment = Annotated[AwareDatetime, AfterValidator(storable_moment)]
TaskStatusName = Literal["queued", "processing", "retrying", "success", "error", "cancelled"]
ErrorCode = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z_]+$")]
Limit = Annotated[int, Query(ge=1, le=500, description="The most entries to return.")]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(storable_metadata)]


class TaskProgress(BaseModel):
    """How far a task is."""

    stage: Literal["queued", "reading", "ocr", "embedding", "publishing"] = Field(
        description="What is being done right now."
    )
    pages_done: int = Field(description="Pages that are stored.")
    pages_total: int | None = Field(description="Pages of the PDF; `null` until it was opened.")
    chunks: int = Field(description="Chunks that are stored.")


class TaskSuccess(BaseModel):
    """The document can be searched."""

    status: Literal["success"] = Field(description="The task succeeded.")
    chunks: int = Field(description="Chunks the document has.")
    document_id: UUID = Field(description="The document that was ingested.")
    pages: int = Field(description="Pages of the PDF.")
    pages_failed: list[int] = Field(description="Pages that could not be read, counted from 1.")
    pages_without_text: list[int] = Field(description="Pages on which no text was found, counted from 1.")
    engine: str = Field(description="The PDF engine that read it.")


class TaskFailure(BaseModel):
    """The document could not be ingested, or the task was stopped."""

    status: Literal["error"] = Field(description="The task failed or was cancelled.")
    message: str = Field(description="What happened, in a sentence for people.")
    code: str = Field(description="Stable name of the error, for programs, for example `encrypted`.")
    retryable: bool = Field(description="Whether trying the same PDF again can help.")


class Task(BaseModel):
    """Where a task stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_id": _TASK_ID,
                    "document_id": _DOCUMENT_ID,
                    "status": "processing",
                    "progress": {"stage": "embedding", "pages_done": 48, "pages_total": 112, "chunks": 160},
                    "queue_position": None,
                    "attempt": 1,
                    "next_attempt_at": None,
                    "result": None,
                    "created_at": "2026-11-20T09:00:00.000000Z",
                    "started_at": "2026-11-20T09:00:00.120000Z",
                    "finished_at": None,
                },
                {
                    "task_id": _TASK_ID,
                    "document_id": _DOCUMENT_ID,
                    "status": "success",
                    "progress": {"stage": "publishing", "pages_done": 112, "pages_total": 112, "chunks": 373},
                    "queue_position": None,
                    "attempt": 1,
                    "next_attempt_at": None,
                    "result": {
                        "status": "success",
                        "chunks": 373,
                        "document_id": _DOCUMENT_ID,
                        "pages": 112,
                        "pages_failed": [],
                        "pages_without_text": [2],
                        "engine": "pdfium",
                    },
                    "created_at": "2026-11-20T09:00:00.000000Z",
                    "started_at": "2026-11-20T09:00:00.120000Z",
                    "finished_at": "2026-11-20T09:00:03.480000Z",
                },
            ]
        }
    )

    task_id: UUID = Field(description="The task; it is also the id of its Celery task.")
    document_id: UUID = Field(description="The document that is being ingested.")
    status: TaskStatusName = Field(description="`success`, `error` and `cancelled` are final.")
    progress: TaskProgress = Field(description="How far it is.")
    queue_position: int | None = Field(description="Place in the queue, 1 is next; `null` unless queued.")
    attempt: int = Field(description="How many times work on it was begun.")
    next_attempt_at: datetime | None = Field(
        description="When it is tried again, while that is still to come."
    )
    result: Annotated[TaskSuccess | TaskFailure, Field(discriminator="status")] | None = Field(
        description="The verdict, the same that the Celery task returns; `null` until the status is final."
    )
    created_at: datetime = Field(description="When it was asked for.")
    started_at: datetime | None = Field(description="When work was first begun.")
    finished_at: datetime | None = Field(description="When the status became final.")

    @classmethod
    def of(cls, status: TaskStatus) -> Self:
        return cls.model_validate(_fields(cls, status))


class ListedTask(Task):
    """A task among others: where it stands, and of which file."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    filename: str = Field(description="The name of the file; empty once the document is deleted.")
    collection: str | None = Field(description="Where its document is; `null` once that is deleted.")
    bytes: int = Field(description="Size of the file.")
    is_latest: bool = Field(description="Whether it is the newest task of its document.")
    is_served: bool = Field(description="Whether a search finds what it has stored.")
    seconds: dict[str, float] = Field(
        description="Seconds it took, by stage (`reading`, `ocr`, `embedding`, `storing`); empty before."
    )

    @classmethod
    def of(cls, status: TaskStatus) -> Self:
        fields = _fields(cls, status, bytes=status.byte_size, seconds=status.stage_seconds)
        return cls.model_validate(fields)


def _fields(model: type[Task], status: TaskStatus, **others: Any) -> dict[str, Any]:
    """What a model says of a task, read once: a list has 500 of them."""
    others["progress"] = {name: getattr(status, name) for name in TaskProgress.model_fields}
    return {name: getattr(status, name) for name in model.model_fields if name not in others} | others


class TaskQuery(BaseModel):
    """Which tasks to list."""

    status: list[TaskStatusName] | None = Field(
        None, description="Only with this status; may be given more than once."
    )
    collection: CollectionName | None = Field(None, description="Only of this collection.")
    document_id: UUID | None = Field(None, description="Only of this document.")
    code: list[ErrorCode] | None = Field(
        None, description="Only what ended with this code; may be given more than once."
    )
    latest: bool = Field(False, description="Only the newest task of each document.")
    limit: int = Field(50, ge=1, le=500, description="The most entries to return.")
    after: Annotated[str, Field(max_length=60)] | None = Field(
        None, description="The `next` of the answer before."
    )

    def condition(self) -> TaskFilter:
        return TaskFilter(self.status, self.collection, self.document_id, self.code, is_latest=self.latest)


class TaskList(BaseModel):
    """Tasks, those asked for last first."""

    data: list[ListedTask] = Field(description="The tasks.")
    next: str | None = Field(description="Give it as `after` for the next ones; `null` at the end.")


class CancelRequest(BaseModel):
    """Which waiting tasks to cancel; without a wish, all."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"collection": "reports"}]})

    collection: CollectionName | None = Field(None, description="Only those of this collection.")


class CancelledTasks(BaseModel):
    """What was ended."""

    count: int = Field(description="Tasks that were cancelled.")


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = Field("alive", description="Always `alive`.")


Degraded = Literal["broker", "embedder", "file_store", "workers"]


class ServiceOutage(BaseModel):
    """A service without which no document can be ingested."""

    service: Degraded = Field(description="Which one.")
    reason: str = Field(description="What a probe met last.")
    since: datetime = Field(
        description="When it was noticed; of `workers`, since when the oldest work has waited."
    )


class ServicePause(BaseModel):
    """What a service that is there has asked for."""

    service: Literal["embedder"] = Field("embedder", description="Which one.")
    reason: str = Field(
        "The embedding service has asked to be left alone (Retry-After or x-ratelimit-reset).",
        description="Why nothing is asked of it.",
    )
    until: datetime = Field(description="When work goes on.")


def _is_empty(value: object) -> bool:
    return not value


class Ready(BaseModel):
    """The service takes uploads and answers searches."""

    status: Literal["ready"] = Field("ready", description="Always `ready`; else the answer is a 503.")
    degraded: list[Degraded] = Field(
        description="What is down without being missed yet: work starts later, and without `embedder` a "
        "search answers from words. `workers`: documents wait that no worker has asked for in 30 seconds."
    )
    sandbox: str = Field(
        description="How far the processes that read PDFs are confined, tried at start: `full`, "
        "`partial (what is missing)` or `none`."
    )
    outages: list[ServiceOutage] = Field(description="Why and since when, for what work waits for.")
    pauses: list[ServicePause] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="What is not asked for a while, since it wants that; left out without any. A pause that "
        "holds up searches as well makes it `degraded`.",
    )

    @classmethod
    def of(cls, readiness: Readiness, sandbox: str) -> Self:
        outages = [
            ServiceOutage(service=outage.service, reason=outage.reason, since=outage.since)
            for outage in readiness.outages
        ]
        pause = readiness.embedder_pause
        pauses = [] if pause is None else [ServicePause(until=pause.until)]
        return cls.model_validate(
            {"degraded": readiness.degraded, "outages": outages, "pauses": pauses, "sandbox": sandbox}
        )
