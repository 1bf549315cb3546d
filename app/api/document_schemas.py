"""What goes over the wire about documents, described for people in OpenAPI."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from app.api.problems import Problem, problem_of
from app.api.schemas import (
    CollectionName,
    ErrorCode,
    Metadata,
    Page,
    Shown,
    TaskStatusName,
    storable_text,
)
from app.errors import EmptyFile, InvalidMetadata, UploadNotAPDF
from app.services.uploads import AcceptedFile, RefusedFile, clean_filename
from app.storage.document_views import DocumentFilter, SortKey
from app.storage.documents import Change

MAX_PASSWORD_CHARACTERS = 1_000

_DOCUMENT_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00"
_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"
_LINKS: dict[str, JsonValue] = {
    "document": f"/documents/{_DOCUMENT_ID}",
    "task": f"/tasks/{_TASK_ID}",
    "events": f"/tasks/{_TASK_ID}/events",
}
ACCEPTED_EXAMPLE: dict[str, JsonValue] = {
    "document_id": _DOCUMENT_ID,
    "task_id": _TASK_ID,
    "status": "queued",
    "duplicate": False,
    "links": _LINKS,
}
DUPLICATE_EXAMPLE: dict[str, JsonValue] = {**ACCEPTED_EXAMPLE, "status": "success", "duplicate": True}
SEVERAL_EXAMPLE: dict[str, JsonValue] = {
    "data": [
        {**ACCEPTED_EXAMPLE, "filename": "report-2025.pdf"},
        {"filename": "notes.txt", "problem": problem_of(UploadNotAPDF()).model_dump(exclude_none=True)},
        {"filename": "empty.pdf", "problem": problem_of(EmptyFile()).model_dump(exclude_none=True)},
    ]
}
_DOCUMENT_EXAMPLE: dict[str, JsonValue] = {
    "document_id": _DOCUMENT_ID,
    "status": "ready",
    "filename": "report-2025.pdf",
    "title": "Annual report 2025",
    "collection": "reports",
    "pages": 112,
    "pages_failed": [],
    "pages_without_text": [2],
    "engine": "pdfium",
    "language": "en",
    "chunks": 389,
    "bytes": 1_204_511,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "metadata": {"year": 2025},
    "task_id": _TASK_ID,
    "error": None,
    "update": None,
    "created_at": "2026-11-20T09:00:00.000000Z",
    "updated_at": "2026-11-20T09:00:04.180000Z",
}
_CHUNK_EXAMPLE: dict[str, JsonValue] = {
    "chunk_id": "01998c6e-8a52-7d41-8c11-0d8f4b6a7c55",
    "ordinal": 0,
    "page_start": 1,
    "page_end": 1,
    "heading": "Letter to shareholders",
    "text": "Revenue grew by 12 % to 4.2 million.",
    "tokens": 14,
    "hidden_text": False,
}

_metadata = TypeAdapter(Metadata)


def _metadata_of(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return _metadata.validate_json(text) if text.strip() else None
    except ValidationError as error:
        reason = error.errors(include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise InvalidMetadata(f"metadata must be a JSON object: {reason}.") from error


def _encodable(password: SecretStr) -> SecretStr:
    """Raises ValueError for what cannot be encrypted: JSON can hold halves of characters."""
    storable_text(password.get_secret_value())
    return password


MetadataField = Annotated[dict[str, JsonValue] | None, BeforeValidator(_metadata_of)]
Password = Annotated[SecretStr, Field(max_length=MAX_PASSWORD_CHARACTERS), AfterValidator(_encodable)]
DocumentStatus = Literal["queued", "processing", "ready", "failed", "cancelled"]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(storable_text)]


class VersionFields(BaseModel):
    """The fields beside `file` when a document gets a new version."""

    metadata: MetadataField = Field(
        None,
        description="A JSON object, at most 10,000 bytes; replaces the document's when given.",
        examples=[{"year": 2025, "department": "finance"}],
    )
    password: Password | None = Field(
        None,
        description="Opens an encrypted PDF. Kept encrypted, and only until the verdict.",
        examples=["open sesame"],
    )


class UploadFields(VersionFields):
    """The fields beside `file` when documents are added; they hold for all files of the request."""

    collection: CollectionName = Field(
        "default", description="Where the documents belong.", examples=["reports"]
    )
    on_duplicate: Literal["return", "replace", "keep"] = Field(
        "return",
        description="What to do with bytes that the collection has already: `return` the document it has "
        "(one that failed or was cancelled starts again), `replace` it by ingesting it again, or `keep` "
        "both as two documents.",
    )
    priority: Literal["interactive", "bulk"] = Field(
        "interactive",
        description="`bulk` lets others go first: eight turns of what is `interactive`, then one of its own. "
        "Within each, collections take turns.",
    )


class Links(BaseModel):
    """Where to go from here, as paths on this server."""

    document: str = Field(description="The document.")
    task: str = Field(description="Where its ingestion stands.")
    events: str = Field(description="The same as server-sent events.")


class Accepted(BaseModel):
    """A file that was taken in, or is here already."""

    model_config = ConfigDict(json_schema_extra={"examples": [ACCEPTED_EXAMPLE]})

    document_id: UUID = Field(description="The document.")
    task_id: UUID = Field(description="The task that ingests it, or did.")
    status: TaskStatusName = Field(description="The task's status: `queued` when it is new.")
    duplicate: bool = Field(description="Whether the collection had these bytes already.")
    links: Links = Field(description="Where to go from here.")

    @classmethod
    def of(cls, file: AcceptedFile, **more: str) -> Self:
        task = f"/tasks/{file.task_id}"
        links = Links(document=f"/documents/{file.document_id}", task=task, events=f"{task}/events")
        return cls.model_validate(
            {
                "document_id": file.document_id,
                "task_id": file.task_id,
                "status": file.status,
                "duplicate": file.is_duplicate,
                "links": links,
                **more,
            }
        )


class AcceptedOfSeveral(Accepted):
    """One of several files, taken in."""

    model_config = ConfigDict(json_schema_extra={"examples": []})

    filename: str = Field(description="The file's name, as kept.")


class RefusedOfSeveral(BaseModel):
    """One of several files, refused; nothing of it was kept."""

    filename: str = Field(description="The file's name.")
    problem: Problem = Field(description="Why it was refused.")

    @classmethod
    def of(cls, file: RefusedFile) -> Self:
        return cls(filename=file.filename, problem=problem_of(file.error))


class Several(BaseModel):
    """What became of each file, in the order in which they were sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [SEVERAL_EXAMPLE]})

    data: list[AcceptedOfSeveral | RefusedOfSeveral] = Field(description="One entry for each file.")


class AllRefused(Problem):
    """The problem of the first of several files when none was taken in."""

    data: list[AcceptedOfSeveral | RefusedOfSeveral] = Field(description="One entry for each file.")


class DocumentError(Shown):
    """Why a document could not be ingested."""

    code: str = Field(description="Stable name of the error, for programs, for example `encrypted`.")
    message: str = Field(description="What happened, in a sentence for people.")
    retryable: bool = Field(description="Whether trying the same PDF again can help.")


class DocumentUpdate(Shown):
    """A run that is newer than the version that is served."""

    task_id: UUID = Field(description="Its task.")
    status: TaskStatusName = Field(description="The task's status.")
    error: DocumentError | None = Field(description="Why it failed, if it did.")


class Document(Shown):
    """A document: the version that is served or, until there is one, the newest run."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DOCUMENT_EXAMPLE]})

    document_id: UUID = Field(validation_alias="id", description="The document.")
    status: DocumentStatus = Field(description="`ready` as long as a version is served.")
    filename: str = Field(description="The name under which the file was uploaded.")
    title: str | None = Field(description="The title given by `PATCH`, else the one the PDF gives itself.")
    collection: str = Field(description="Where it belongs.")
    pages: int | None = Field(description="Pages of the PDF; `null` until it was opened.")
    pages_failed: list[int] = Field(description="Pages that could not be read, counted from 1.")
    pages_without_text: list[int] = Field(description="Pages on which no text was found, counted from 1.")
    engine: str | None = Field(description="The PDF engine that read it.")
    language: str | None = Field(
        description="The language most of its text is in (ISO 639-1); `null` if it cannot be told."
    )
    chunks: int = Field(description="Chunks that a search can find.")
    bytes: int = Field(validation_alias="byte_size", description="Size of the file.")
    sha256: str = Field(description="SHA-256 of the file, in hexadecimal digits.")
    metadata: dict[str, JsonValue] = Field(description="What was given with the upload.")
    task_id: UUID = Field(description="The task that made this version.")
    error: DocumentError | None = Field(description="Why it failed; `null` unless it did.")
    update: DocumentUpdate | None = Field(description="A newer run than the served version, if there is one.")
    created_at: datetime = Field(description="When the document was added.")
    updated_at: datetime = Field(description="When a version was last asked for or published.")


class DocumentQuery(BaseModel):
    """Which documents to list, and in what order."""

    collection: CollectionName | None = Field(None, description="Only of this collection.")
    status: DocumentStatus | None = Field(None, description="Only with this status.")
    code: ErrorCode | None = Field(None, description="Only failed ones whose `error` has this code.")
    filename: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Only with exactly this file name."
    )
    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(storable_text)] | None = Field(
        None, description="Only with this in the file name or the title, in capitals or not."
    )
    sort: SortKey = Field("created_at", description="What to order by.")
    order: Literal["asc", "desc"] = Field("desc", description="From the first to the last, or back.")
    limit: int = Field(50, ge=1, le=500, description="The most entries to return.")
    after: Annotated[str, Field(max_length=9_000)] | None = Field(
        None, description="The `next` of the answer before."
    )

    def condition(self) -> DocumentFilter:
        filename = None if self.filename is None else clean_filename(self.filename)
        return DocumentFilter(self.collection, self.status, filename, self.code, self.name)


class DocumentList(Page[Document]):
    """Documents in the order asked for."""


class DocumentChunk(Shown):
    """A piece of the document's text, as it is found by a search."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CHUNK_EXAMPLE]})

    chunk_id: UUID = Field(description="The chunk.")
    ordinal: int = Field(description="Its place in the document, from 0.")
    page_start: int = Field(description="First page of the chunk, counted from 1.")
    page_end: int = Field(description="Last page of the chunk, counted from 1.")
    heading: str | None = Field(description="The heading of the section it is from.")
    text: str = Field(description="The text.")
    tokens: int = Field(description="Tokens of the embedding model in it.")
    hidden_text: bool = Field(description="Whether some of it cannot be seen on the page.")


class ChunkList(Page[DocumentChunk]):
    """Chunks of the version that is served, in their order; none while there is no such version."""


Title = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(storable_text)]
DocumentIds = Annotated[list[UUID], Field(min_length=1, max_length=500)]


class ChangeRequest(BaseModel):
    """What of a document is to be another; what is not named stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"title": "Annual report 2025", "collection": "reports"}]},
    )

    title: Title | None = Field(
        None,
        description="A title, whose words find the document as those of its file name do; `null`: the one "
        "the PDF gives itself.",
    )
    metadata: Metadata | None = Field(None, description="Replaces the document's metadata.")
    collection: CollectionName | None = Field(None, description="Moves the document there.")

    def change(self) -> Change:
        return Change(
            self.collection, self.metadata, self.title, is_title_given="title" in self.model_fields_set
        )


class DeleteRequest(BaseModel):
    """Documents to delete."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"document_ids": [_DOCUMENT_ID]}]}
    )

    document_ids: DocumentIds = Field(description="The documents; those that are gone already do no harm.")


class DeletedDocuments(BaseModel):
    """What was deleted."""

    count: int = Field(description="Documents that were deleted.")


class RetryFailedRequest(BaseModel):
    """Which failed documents to ingest again; without a filter, all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"collection": "reports", "codes": ["embedding_failed"]}]},
    )

    collection: CollectionName | None = Field(None, description="Only those of this collection.")
    codes: list[ErrorCode] | None = Field(
        None, min_length=1, max_length=100, description="Only those that failed with one of these codes."
    )
    document_ids: DocumentIds | None = Field(None, description="Only these documents.")


class RetryingDocuments(BaseModel):
    """What was begun again."""

    count: int = Field(description="Documents that have a new task.")


class RetryRequest(BaseModel):
    """What to do differently this time."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"password": "open sesame"}]})

    password: Password | None = Field(None, description="Opens an encrypted PDF.")
