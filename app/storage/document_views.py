"""Documents as clients see them: the served version, or until there is one the newest run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Row,
    Select,
    TextClause,
    and_,
    any_,
    case,
    cast,
    func,
    literal,
    not_,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from app.errors import DocumentNotFound, error_for_code
from app.storage.chunks import StoredChunk
from app.storage.doomed import stays
from app.storage.models import Document, Ingestion
from app.storage.reach import EVERYTHING, Reach, find_names
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
    """Conditions that must all hold; None: any. `name` is part of the file's name or of the title."""

    collection: str | None = None
    status: str | None = None
    filename: str | None = None
    code: str | None = None
    name: str | None = None


SortKey = Literal[
    "created_at", "updated_at", "title", "filename", "collection", "status", "pages", "chunks", "bytes"
]


@dataclass(frozen=True, slots=True)
class DocumentOrder:
    """By a key, documents with the same one by their ids."""

    key: SortKey = "created_at"
    is_descending: bool = True


@dataclass(frozen=True, slots=True)
class DocumentPlace:
    """A place in an ordered list: after the document with this id, whose key is this."""

    key: str | int
    document_id: UUID


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


LATEST = aliased(Ingestion)
SHOWN = aliased(Ingestion)
STAYS = text(stays("documents"))
IS_LIVE = Document.live_ingestion_id.is_not(None)
# Not COALESCE, which Postgres takes for one that may leak, and so asks below a policy of all runs.
IS_SHOWN = SHOWN.id == case((IS_LIVE, Document.live_ingestion_id), else_=Document.latest_ingestion_id)
STATUS = case(
    (IS_LIVE, "ready"),
    (LATEST.status.in_(UNCLAIMED), "queued"),
    (LATEST.status == "success", "ready"),
    (LATEST.status == "error", "failed"),
    else_=LATEST.status,
)


_title = func.coalesce(Document.title, SHOWN.title)
_SORT_KEYS: dict[SortKey, ColumnElement[Any] | None] = {
    "created_at": None,  # ids are in the order of their making
    "updated_at": cast(func.extract("epoch", Document.updated_at) * 1_000_000, BigInteger),
    "title": func.lower(func.coalesce(_title, SHOWN.filename)),
    "filename": func.lower(SHOWN.filename),
    "collection": Document.collection.expression,
    "status": STATUS,
    "pages": func.coalesce(SHOWN.pages_total, -1),
    "chunks": case((IS_LIVE, SHOWN.chunks), else_=0),
    "bytes": SHOWN.byte_size.expression,
}


async def find_document(connection: AsyncConnection, document_id: UUID, reach: Reach) -> DocumentView:
    """Raises DocumentNotFound."""
    found = await connection.execute(
        _documents().where(Document.id == document_id, reach.clause("documents"))
    )
    return _view(_there(found.one_or_none()))


async def list_documents(
    connection: AsyncConnection,
    condition: DocumentFilter,
    order: DocumentOrder,
    after: DocumentPlace | None,
    limit: int,
    reach: Reach = EVERYTHING,
) -> list[tuple[DocumentView, DocumentPlace]]:
    """Documents in an order, each with its place."""
    key = _SORT_KEYS[order.key]
    place = [Document.id] if key is None else [key, Document.id]
    statement = _documents().where(*_conditions(condition), await _in_reach(connection, reach)).limit(limit)
    statement = statement.order_by(*(column.desc() if order.is_descending else column for column in place))
    statement = statement.add_columns((literal(0) if key is None else key).label("sort_key"))
    if after is not None:
        key_after = [] if key is None else [literal(after.key, key.type)]
        here, there = tuple_(*place), tuple_(*key_after, literal(after.document_id))
        statement = statement.where(here < there if order.is_descending else here > there)
    rows = await connection.execute(statement)
    return [(_view(row), DocumentPlace(row.sort_key, row.id)) for row in rows]


async def list_document_chunks(
    connection: AsyncConnection,
    document_id: UUID,
    after_ordinal: int,
    limit: int,
    reach: Reach = EVERYTHING,
) -> ChunkPage:
    """The next `limit` chunks after `after_ordinal` (-1: from the first). Raises DocumentNotFound.

    They come without their boxes. One statement, since a version published between two would end the
    list too early.
    """
    found = await connection.execute(
        text(f"""
        SELECT live_ingestion_id, chunk.* FROM documents LEFT JOIN LATERAL (
            SELECT id, ordinal, page_start, page_end, text, tokens, heading, hidden_text FROM chunks
            WHERE ingestion_id = live_ingestion_id AND ordinal > :after_ordinal ORDER BY ordinal LIMIT :limit
        ) AS chunk ON true
        WHERE documents.id = :document_id AND {stays("documents")} AND {reach.sql("documents")}
        ORDER BY chunk.ordinal
        """),
        {"document_id": document_id, "after_ordinal": after_ordinal, "limit": limit} | reach.parameters,
    )
    rows = found.all()
    return ChunkPage(
        _there(rows[0] if rows else None).live_ingestion_id,
        [_chunk(row) for row in rows if row.id is not None],
    )


async def find_original(connection: AsyncConnection, document_id: UUID, reach: Reach) -> OriginalFile:
    """Raises DocumentNotFound."""
    found = await connection.execute(
        select(
            SHOWN.filename,
            func.encode(SHOWN.sha256, "hex").label("sha256"),
            SHOWN.byte_size,
            SHOWN.storage_key,
        )
        .join(Document, IS_SHOWN)
        .where(Document.id == document_id, STAYS, reach.clause("documents"))
    )
    return OriginalFile(**_there(found.one_or_none())._mapping)


async def _in_reach(connection: AsyncConnection, reach: Reach) -> ColumnElement[bool] | TextClause:
    names = await find_names(connection, reach)
    if names is None:
        return reach.clause("documents")
    # As one parameter: to write a statement with 1,000 of them takes 11 ms.
    return Document.collection == any_(literal(names, ARRAY(Document.collection.type)))


def _there(row: Row[Any] | None) -> Row[Any]:
    if row is None:
        raise DocumentNotFound
    return row


def _has_status(status: str | None) -> ColumnElement[bool]:
    """As STATUS has it, in conditions that the planner has statistics of and indexes for."""
    if status == "ready":
        return or_(IS_LIVE, LATEST.status == "success")
    named = {"queued": UNCLAIMED, "failed": ["error"]}.get(status or "", [status])
    return and_(not_(IS_LIVE), LATEST.status.in_(named))


def _conditions(wanted: DocumentFilter) -> list[ColumnElement[bool]]:
    tests = {
        "collection": Document.collection == wanted.collection,
        "status": _has_status(wanted.status),
        "filename": SHOWN.filename == wanted.filename,
        "code": and_(_has_status("failed"), LATEST.error_code == wanted.code),
        "name": or_(
            *(part.icontains(wanted.name or "", autoescape=True) for part in (SHOWN.filename, _title))
        ),
    }
    return [test for name, test in tests.items() if getattr(wanted, name) is not None]


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
            STATUS.label("status"),
            SHOWN.filename,
            _title.label("title"),
            SHOWN.pages_total,
            SHOWN.pages_failed,
            SHOWN.pages_without_text,
            SHOWN.engine,
            SHOWN.language,
            SHOWN.chunks,
            SHOWN.byte_size,
            SHOWN.sha256,
            LATEST.status.label("latest_status"),
            LATEST.error_code,
            LATEST.error_message,
        )
        .join(LATEST, LATEST.id == Document.latest_ingestion_id)
        .join(SHOWN, IS_SHOWN)
        .where(STAYS)
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
