"""Documents as clients see them: the served version, or until there is one the newest run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.errors import error_for_code
from app.storage.chunks import StoredChunk
from app.storage.models import Document, Ingestion
from app.storage.runs.conditions import UNCLAIMED


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended without success."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Update:
    """A run newer than the served version; `status` is the task's."""

    task_id: UUID
    status: str
    error: Failure | None


@dataclass(frozen=True, slots=True)
class DocumentView:
    """A document and its shown version. `pages_failed` and `pages_without_text` are page numbers from 1."""

    id: UUID
    collection: str
    status: str
    filename: str
    title: str | None
    pages: int | None
    pages_failed: list[int]
    pages_without_text: list[int]
    engine: str | None
    language: str | None
    chunks: int
    byte_size: int
    sha256: str
    metadata: dict[str, Any]
    task_id: UUID
    error: Failure | None
    update: Update | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class DocumentFilter:
    """Conditions that must all hold; None: any."""

    collection: str | None = None
    status: str | None = None
    filename: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class OriginalFile:
    """The file of a document's shown version; `storage_key` is None when it is not kept any more."""

    filename: str
    sha256: str
    byte_size: int
    storage_key: str | None


@dataclass(frozen=True, slots=True)
class ChunkPage:
    """The next chunks of the version that is served; no version, no chunks."""

    ingestion_id: UUID | None
    chunks: Sequence[StoredChunk]


_latest = aliased(Ingestion)
_shown = aliased(Ingestion)
_status = case(
    (Document.live_ingestion_id.is_not(None), "ready"),
    (_latest.status.in_(UNCLAIMED), "queued"),
    (_latest.status == "success", "ready"),
    (_latest.status == "error", "failed"),
    else_=_latest.status,
)


async def find_document(connection: AsyncConnection, document_id: UUID) -> DocumentView | None:
    found = await connection.execute(_documents().where(Document.id == document_id))
    row = found.one_or_none()
    return _view(row) if row else None


async def list_documents(
    connection: AsyncConnection, condition: DocumentFilter, before: UUID | None, limit: int
) -> list[DocumentView]:
    """The newest first (ids are in the order of their making); `before` is the last one already seen."""
    statement = _documents().order_by(Document.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Document.id < before)
    if condition.collection is not None:
        statement = statement.where(Document.collection == condition.collection)
    if condition.status is not None:
        statement = statement.where(_status == condition.status)
    if condition.filename is not None:
        statement = statement.where(_shown.filename == condition.filename)
    if condition.code is not None:
        statement = statement.where(_status == "failed", _latest.error_code == condition.code)
    return [_view(row) for row in await connection.execute(statement)]


async def list_document_chunks(
    connection: AsyncConnection, document_id: UUID, after_ordinal: int, limit: int
) -> ChunkPage | None:
    """The next `limit` chunks after `after_ordinal` (-1: from the first); None: no such document.

    They come without their boxes. One statement, since a version published between two would end the
    list too early.
    """
    found = await connection.execute(
        text("""
        SELECT live_ingestion_id, chunk.* FROM documents LEFT JOIN LATERAL (
            SELECT id, ordinal, page_start, page_end, text, tokens, heading, hidden_text FROM chunks
            WHERE ingestion_id = live_ingestion_id AND ordinal > :after_ordinal ORDER BY ordinal LIMIT :limit
        ) AS chunk ON true
        WHERE documents.id = :document_id ORDER BY chunk.ordinal
        """),
        {"document_id": document_id, "after_ordinal": after_ordinal, "limit": limit},
    )
    rows = found.all()
    if not rows:
        return None
    return ChunkPage(rows[0].live_ingestion_id, [_chunk(row) for row in rows if row.id is not None])


async def find_original(connection: AsyncConnection, document_id: UUID) -> OriginalFile | None:
    found = await connection.execute(
        select(
            _shown.filename,
            func.encode(_shown.sha256, "hex").label("sha256"),
            _shown.byte_size,
            _shown.storage_key,
        )
        .join(Document, _is_shown())
        .where(Document.id == document_id)
    )
    row = found.one_or_none()
    return OriginalFile(**row._mapping) if row else None


async def find_password(connection: AsyncConnection, document_id: UUID, sha256: str) -> bytes | None:
    """The encrypted password of these bytes, while a run of the document that was given it is in work."""
    found: bytes | None = await connection.scalar(
        select(Ingestion.password)
        .where(
            Ingestion.document_id == document_id,
            Ingestion.sha256 == bytes.fromhex(sha256),
            Ingestion.password.is_not(None),
        )
        .order_by(Ingestion.id.desc())
        .limit(1)
    )
    return found


def _is_shown() -> Any:
    return _shown.id == func.coalesce(Document.live_ingestion_id, Document.latest_ingestion_id)


def _documents() -> Select[Any]:
    return (
        select(
            Document.id,
            Document.collection,
            Document.document_metadata,
            Document.live_ingestion_id,
            Document.latest_ingestion_id,
            Document.created_at,
            Document.updated_at,
            _status.label("status"),
            _shown.filename,
            _shown.title,
            _shown.pages_total,
            _shown.pages_failed,
            _shown.pages_without_text,
            _shown.engine,
            _shown.language,
            _shown.chunks,
            _shown.byte_size,
            _shown.sha256,
            _latest.status.label("latest_status"),
            _latest.error_code,
            _latest.error_message,
        )
        .join(_latest, _latest.id == Document.latest_ingestion_id)
        .join(_shown, _is_shown())
    )


def _view(row: Any) -> DocumentView:
    is_live = row.live_ingestion_id is not None
    verdict = _failure(row)
    has_update = is_live and row.latest_ingestion_id != row.live_ingestion_id
    return DocumentView(
        id=row.id,
        collection=row.collection,
        status=row.status,
        filename=row.filename,
        title=row.title,
        pages=row.pages_total,
        pages_failed=row.pages_failed,
        pages_without_text=row.pages_without_text,
        engine=row.engine,
        language=row.language,
        chunks=row.chunks if is_live else 0,  # those of an unfinished run cannot be found yet
        byte_size=row.byte_size,
        sha256=row.sha256.hex(),
        metadata=row.metadata,
        task_id=row.live_ingestion_id or row.latest_ingestion_id,
        error=None if is_live else verdict,
        update=Update(row.latest_ingestion_id, row.latest_status, verdict) if has_update else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _failure(row: Any) -> Failure | None:
    if row.latest_status not in ("error", "cancelled"):
        return None
    error = error_for_code(row.error_code or row.latest_status, row.error_message)
    return Failure(row.error_code or error.code, error.message, error.retryable)


def _chunk(row: Any) -> StoredChunk:
    return StoredChunk(
        chunk_id=row.id,
        ordinal=row.ordinal,
        page_start=row.page_start,
        page_end=row.page_end,
        text=row.text,
        tokens=row.tokens,
        heading=row.heading,
        hidden_text=row.hidden_text,
    )
