"""What goes over the wire about collections, described for people in OpenAPI."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from app.api.schemas import CollectionName, Metadata, Number, Page, storable_text
from app.services.collection_service import CountedCollection
from app.services.figures import DOCUMENT_STATUSES
from app.storage.collections import CollectionFields, Deletion

MOST_DAYS = 36_500

_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a09"
_NEW_EXAMPLE: dict[str, JsonValue] = {
    "name": "reports",
    "description": "Annual and quarterly reports.",
    "metadata": {"department": "finance"},
    "language": "en",
    "expires_after_days": 3650,
}
_EXAMPLE: dict[str, JsonValue] = {
    "collection_id": "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a08",
    **_NEW_EXAMPLE,
    "documents": {"queued": 2, "processing": 1, "ready": 40, "failed": 1, "cancelled": 0},
    "pages": 4_480,
    "chunks": 15_560,
    "bytes": 48_180_440,
    "created_at": "2026-11-20T09:00:00.000000Z",
}

Description = Annotated[str, Field(max_length=2_000), AfterValidator(storable_text)]
Language = Annotated[str, Field(pattern="^[a-z]{2}$")]
Days = Annotated[Number, Field(ge=1, le=MOST_DAYS)]
LANGUAGE_HELP = (
    "The language that documents ingested from now on are taken to be in (ISO 639-1); `null`: it is detected."
)
EXPIRY_HELP = (
    "Documents are deleted so many days after their `updated_at`, when a version was last asked for or "
    "published; `null`: never."
)


class CollectionRequest(BaseModel):
    """A collection to make."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_NEW_EXAMPLE]})

    name: CollectionName = Field(description="Its name, no other collection's.")
    description: Description | None = Field(None, description="What it is for.")
    metadata: Metadata | None = Field(None, description="A JSON object, at most 10,000 bytes.")
    language: Language | None = Field(None, description=LANGUAGE_HELP)
    expires_after_days: Days | None = Field(None, description=EXPIRY_HELP)

    def fields(self) -> CollectionFields:
        return CollectionFields(self.description, self.metadata, self.language, self.expires_after_days)


class CollectionChange(BaseModel):
    """What of a collection is to be another; what is not named stays as it is."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "reports 2025", "expires_after_days": None}]}
    )

    name: CollectionName | None = Field(None, description="Another name, for its documents as well.")
    description: Description | None = Field(None, description="What it is for; `null`: nothing is said.")
    metadata: Metadata | None = Field(None, description="Replaces its metadata.")
    language: Language | None = Field(None, description=LANGUAGE_HELP)
    expires_after_days: Days | None = Field(None, description=EXPIRY_HELP)

    def changes(self) -> dict[str, Any]:
        """Those of CollectionFields that were named."""
        return self.model_dump(exclude_unset=True, exclude={"name"})


class Collection(BaseModel):
    """A collection and what is in it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    collection_id: UUID = Field(description="Stays the same when it is renamed.")
    name: str = Field(description="Its name.")
    description: str | None = Field(description="What it is for.")
    metadata: dict[str, JsonValue] = Field(description="What was given with it.")
    language: str | None = Field(description="The language of its documents; `null`: each one's is detected.")
    expires_after_days: int | None = Field(
        description="How long after their `updated_at` documents are deleted; `null`: never."
    )
    documents: dict[str, int] = Field(description="Its documents, by their status.")
    pages: int = Field(description="Pages that a search can find.")
    chunks: int = Field(description="Chunks that a search can find.")
    bytes: int = Field(description="Size of all its documents' files.")
    created_at: datetime = Field(description="When it was made.")

    @classmethod
    def of(cls, counted: CountedCollection) -> Self:
        one = counted.collection
        own = {"name", "description", "metadata", "language", "expires_after_days", "created_at"}
        return cls.model_validate(
            {
                "collection_id": one.id,
                "documents": dict.fromkeys(DOCUMENT_STATUSES, 0) | counted.documents,
                "pages": counted.pages,
                "chunks": counted.chunks,
                "bytes": counted.byte_size,
                **{name: getattr(one, name) for name in own},
            }
        )


class CollectionList(Page[Collection]):
    """Collections, in the order of their names."""


class DeletionProgress(BaseModel):
    """How far a deletion is."""

    stage: Literal["queued", "deleting"] = Field(description="What is being done right now.")
    documents_done: int = Field(description="Documents that are deleted.")
    documents_total: int = Field(description="Documents there were when it was asked for.")


class DeletionResult(BaseModel):
    """The collection and its documents are gone."""

    status: Literal["success"] = Field(description="Always `success`: it is gone on with until it is done.")
    documents: int = Field(description="Documents that were deleted with it.")


class DeletionTask(BaseModel):
    """The task that deletes a collection; to be polled as any other."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task_id": _TASK_ID,
                    "document_id": None,
                    "collection": "reports",
                    "status": "processing",
                    "progress": {"stage": "deleting", "documents_done": 12, "documents_total": 44},
                    "result": None,
                    "created_at": "2026-11-20T09:00:00.000000Z",
                    "started_at": "2026-11-20T09:00:00.410000Z",
                    "finished_at": None,
                }
            ]
        }
    )

    task_id: UUID = Field(description="The task.")
    document_id: None = Field(None, description="Always `null`: it is about many.")
    collection: str = Field(description="The name that the collection had.")
    status: Literal["queued", "processing", "success"] = Field(description="`success` is final.")
    progress: DeletionProgress = Field(description="How far it is.")
    result: DeletionResult | None = Field(description="`null` until the status is final.")
    created_at: datetime = Field(description="When it was asked for.")
    started_at: datetime | None = Field(description="When the first document was deleted.")
    finished_at: datetime | None = Field(description="When all were.")

    @classmethod
    def of(cls, deletion: Deletion) -> Self:
        is_done, is_begun = deletion.finished_at is not None, deletion.started_at is not None
        result = {"status": "success", "documents": deletion.documents_done}
        return cls.model_validate(
            {
                "task_id": deletion.id,
                "collection": deletion.collection,
                "status": "success" if is_done else "processing" if is_begun else "queued",
                "progress": {
                    "stage": "deleting" if is_begun else "queued",
                    "documents_done": deletion.documents_done,
                    "documents_total": deletion.documents_total,
                },
                "result": result if is_done else None,
                "created_at": deletion.created_at,
                "started_at": deletion.started_at,
                "finished_at": deletion.finished_at,
            }
        )
