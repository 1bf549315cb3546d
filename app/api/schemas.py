"""What goes over the wire: the bodies of tasks, search and health, described for people in OpenAPI."""

import json
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, model_validator

from app.pdf.text import clean
from app.services.rag_service import Found, LeftOut
from app.services.readiness import Readiness
from app.storage.search import Hit
from app.storage.tasks import TaskStatus

MAX_QUERY_CHARACTERS = 2_000
MAX_COLLECTION_CHARACTERS = 200
MAX_JSON_BYTES = 10_000
MAX_DOCUMENT_IDS = 1_000

_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"
_DOCUMENT_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00"
_CHUNK_ID = "01998c6e-8a52-7d41-8c11-0d8f4b6a7c55"


def storable_text(value: str) -> str:
    """Raises ValueError for what Postgres does not take as text."""
    if "\0" in value:
        raise ValueError("must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def storable_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raises ValueError for what Postgres does not take as jsonb, and for too much of it."""
    encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
    storable_text(encoded.replace("\\\\", "").replace("\\u0000", "\0"))
    if len(encoded.encode()) > MAX_JSON_BYTES:
        raise ValueError(f"must not be longer than {MAX_JSON_BYTES:,} bytes")
    return value


def _searchable(value: str) -> str:
    if not (cleaned := clean(value).strip()):
        raise ValueError("must not be empty")
    return cleaned


CollectionName = Annotated[
    str, Field(min_length=1, max_length=MAX_COLLECTION_CHARACTERS), AfterValidator(storable_text)
]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(storable_json)]
Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS), AfterValidator(_searchable)]
SearchMode = Literal["hybrid", "vector", "text"]


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
    status: Literal["queued", "processing", "retrying", "success", "error", "cancelled"] = Field(
        description="`success`, `error` and `cancelled` are final."
    )
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
        return cls.model_validate(
            {
                "progress": {
                    "stage": status.stage,
                    "pages_done": status.pages_done,
                    "pages_total": status.pages_total,
                    "chunks": status.chunks,
                },
                **{name: getattr(status, name) for name in cls.model_fields if name != "progress"},
            }
        )


class SearchRequest(BaseModel):
    """What to look for, and where."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"query": "How did revenue develop?", "limit": 5},
                {
                    "query": "net sales by region",
                    "collection": "reports",
                    "filter": {"year": 2025},
                    "mode": "vector",
                    "min_score": 0.3,
                },
            ]
        },
    )

    query: Query = Field(description="A question or some words.")
    collection: CollectionName | None = Field(None, description="Search this collection only.")
    document_ids: list[UUID] | None = Field(
        None, max_length=MAX_DOCUMENT_IDS, description="Search these documents only."
    )
    filter: Metadata | None = Field(
        None, description="Search documents only whose metadata contains all of this (JSON containment)."
    )
    limit: int = Field(10, ge=1, le=100, description="The most hits to return.")
    mode: SearchMode = Field(
        "hybrid", description="By meaning (`vector`), by words (`text`), or both, fused by rank (`hybrid`)."
    )
    min_score: FiniteFloat | None = Field(
        None, description="Leave out hits with a lower score. Not in `hybrid`, whose scores are ranks."
    )

    @model_validator(mode="after")
    def _scores_can_be_compared(self) -> Self:
        if self.mode == "hybrid" and self.min_score is not None:
            raise ValueError("min_score has no meaning in mode hybrid; use vector or text")
        return self


class SearchHit(BaseModel):
    """A chunk that was found."""

    chunk_id: UUID = Field(description="The chunk.")
    document_id: UUID = Field(description="Its document.")
    filename: str = Field(description="The name under which the document was uploaded.")
    title: str | None = Field(description="The title the PDF gives itself.")
    page_start: int = Field(description="First page of the chunk, counted from 1.")
    page_end: int = Field(description="Last page of the chunk, counted from 1.")
    text: str = Field(description="The chunk's text.")
    score: float = Field(
        description="Higher is better; comparable within one answer. In `vector`, the cosine similarity."
    )
    boxes: list[tuple[int, float, float, float, float]] = Field(
        description="Where its lines are: page, left, top, right, bottom, in points from the top left."
    )

    @classmethod
    def of(cls, hit: Hit) -> Self:
        fields = {name: getattr(hit, name) for name in cls.model_fields if name != "boxes"}
        return cls(**fields, boxes=[(page, *box) for page, box in hit.boxes])


class SearchResults(BaseModel):
    """What was found, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [
                        {
                            "chunk_id": _CHUNK_ID,
                            "document_id": _DOCUMENT_ID,
                            "filename": "report-2025.pdf",
                            "title": "Annual report 2025",
                            "page_start": 57,
                            "page_end": 57,
                            "text": "Revenue grew by 12 % to 4.2 million.",
                            "score": 0.0328,
                            "boxes": [[57, 72.0, 90.5, 523.2, 102.1]],
                        }
                    ],
                    "mode": "hybrid",
                    "took_ms": 4.7,
                    "degraded": [],
                }
            ]
        }
    )

    data: list[SearchHit] = Field(description="The hits, best first; empty when nothing was found.")
    mode: SearchMode = Field(description="How it was searched.")
    took_ms: float = Field(description="Milliseconds it took, the query's embedding included.")
    degraded: list[LeftOut] = Field(
        description="What failed and was left out: without `embedder`, words alone were searched; without "
        "`reranker`, hits keep the order of the search."
    )

    @classmethod
    def of(cls, found: Found, mode: SearchMode, took_seconds: float) -> Self:
        return cls(
            data=[SearchHit.of(hit) for hit in found.hits],
            mode=mode,
            took_ms=round(took_seconds * 1000, 1),
            degraded=list(found.degraded),
        )


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = Field("alive", description="Always `alive`.")


Degraded = Literal["broker", "embedder", "file_store"]


class ServiceOutage(BaseModel):
    """A service without which no document can be ingested."""

    service: Degraded = Field(description="Which one.")
    reason: str = Field(description="What a probe met last, or first.")
    since: datetime = Field(description="When it was noticed.")


class Ready(BaseModel):
    """The service takes uploads and answers searches."""

    status: Literal["ready"] = Field("ready", description="Always `ready`; else the answer is a 503.")
    degraded: list[Degraded] = Field(
        description="What is down without being missed yet: work starts later, and without `embedder` a "
        "search answers from words."
    )
    outages: list[ServiceOutage] = Field(description="Why and since when, for what work waits for.")

    @classmethod
    def of(cls, readiness: Readiness) -> Self:
        outages = [
            ServiceOutage(service=outage.service, reason=outage.reason, since=outage.since)
            for outage in readiness.outages
        ]
        return cls(degraded=readiness.degraded, outages=outages)
