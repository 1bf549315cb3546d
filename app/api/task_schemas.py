"""What goes over the wire about tasks, described for people in OpenAPI."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import CollectionName, ErrorCode, Page, Shown, TaskStatusName
from app.storage.tasks import TaskFilter

_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"
_DOCUMENT_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00"


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


class Task(Shown):
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


class ListedTask(Task):
    """A task among others: where it stands, and of which file."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    filename: str = Field(description="The name of the file; empty once the document is deleted.")
    collection: str | None = Field(description="Where its document is; `null` once that is deleted.")
    bytes: int = Field(validation_alias="byte_size", description="Size of the file.")
    is_latest: bool = Field(description="Whether it is the newest task of its document.")
    is_served: bool = Field(description="Whether a search finds what it has stored.")
    seconds: dict[str, float] = Field(
        validation_alias="stage_seconds",
        description="Seconds it took, by stage (`reading`, `ocr`, `embedding`, `storing`); empty before.",
    )


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


class TaskList(Page[ListedTask]):
    """Tasks, those asked for last first."""


class CancelRequest(BaseModel):
    """Which waiting tasks to cancel; without a wish, all."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"collection": "reports"}]})

    collection: CollectionName | None = Field(None, description="Only those of this collection.")


class CancelledTasks(BaseModel):
    """What was ended."""

    count: int = Field(description="Tasks that were cancelled.")
