"""Documents and the runs asked for them: every statement behind uploading, listing and deleting.

The document's row is locked before any row of its ingestions, here and in `ingestions.publish`: newer
requests, cancelling and publishing cannot wait for each other in a circle.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Cancelled, PDFIngestError, QueueFull, Superseded
from app.storage.chunks import delete_chunks

log = structlog.get_logger(__name__)

MOST_CONTENT_LOCKS = 32
IS_OPEN = "status IN ('queued', 'processing', 'retrying')"
# Counts at most `max_queued` rows of a partial index, so that a long queue stays cheap to measure.
_HAS_ROOM = """(
    SELECT count(*) FROM (
        SELECT FROM ingestions WHERE status IN ('queued', 'retrying') LIMIT :max_queued
    ) AS waiting
) < :max_queued"""
# A task that waits for the run of equal bytes has bytes of its own, which a newer version does not replace.
_WAITS_FOR_NONE = "(waits_for IS NULL OR finished_at IS NOT NULL)"
_FINISHED = (
    "finished_at = clock_timestamp(), password = NULL, lease_expires_at = NULL, chunks = 0, "
    "error_code = :code, error_message = :message, revision = revision + 1"
)


@dataclass(frozen=True, slots=True)
class NewIngestion:
    """A run to ask for; its file is in the file store already. `password` is encrypted."""

    ingestion_id: UUID
    filename: str
    sha256: bytes
    byte_size: int
    storage_key: str
    password: bytes | None = None


@dataclass(frozen=True, slots=True)
class KnownContent:
    """The document that has the same bytes, and the ingestion of it they belong to."""

    document_id: UUID
    ingestion_id: UUID
    status: str
    chunks: int
    is_live: bool

    @property
    def is_in_work(self) -> bool:
        return self.status in ("queued", "processing", "retrying")


async def lock_contents(connection: AsyncConnection, collection: str, hashes: Collection[bytes]) -> None:
    """Until the transaction ends nobody else decides about these bytes in this collection.

    Of many the whole collection is locked instead: each lock takes one of `max_locks_per_transaction` (64)
    from all. The collection comes first, contents in order, documents later: nobody waits in a circle.
    """
    if len(hashes) > MOST_CONTENT_LOCKS:
        await connection.execute(_LOCK_COLLECTION, {"collection": collection})
        return
    ordered = [sha256.hex() for sha256 in sorted(hashes)]
    await connection.execute(_LOCK_CONTENTS, {"collection": collection, "hashes": ordered})


async def find_content(connection: AsyncConnection, collection: str, sha256: bytes) -> KnownContent | None:
    """The document of the collection that has these bytes: a served one first, then one in work."""
    found = await connection.execute(text(_KNOWN_CONTENT), {"collection": collection, "sha256": sha256})
    row = found.one_or_none()
    return KnownContent(**row._mapping) if row else None


async def add_document(
    connection: AsyncConnection,
    document_id: UUID,
    collection: str,
    metadata: dict[str, Any] | None,
    ingestion: NewIngestion,
    max_queued: int,
    *,
    unless_known: bool,
) -> KnownContent | None:
    """A new document with its first run, in one round trip with the question whether it must be new.

    With `unless_known` a document of the collection that has the same bytes is returned instead, as
    `find_content` finds it. Raises QueueFull, with nothing written.
    """
    found = await connection.execute(
        _ADD_DOCUMENT,
        _values(document_id, ingestion)
        | {
            "collection": collection,
            "metadata": _json(metadata or {}),
            "max_queued": max_queued,
            "unless_known": unless_known,
        },
    )
    row = found.one_or_none()
    if row is None:
        raise QueueFull
    return KnownContent(**row._mapping) if row.ingestion_id else None


async def insert_ingestion(
    connection: AsyncConnection, document_id: UUID, ingestion: NewIngestion, max_queued: int
) -> None:
    """A run that its document does not point at yet. Raises QueueFull, with nothing written."""
    made = await connection.execute(
        text(f"{_INSERT_INGESTION} WHERE {_HAS_ROOM} RETURNING id"),
        _values(document_id, ingestion) | {"max_queued": max_queued},
    )
    if made.one_or_none() is None:
        raise QueueFull


async def lock_document(connection: AsyncConnection, document_id: UUID) -> Row[Any] | None:
    """(collection, live_ingestion_id, latest_ingestion_id), unchanged until the transaction ends."""
    found = await connection.execute(
        text(
            "SELECT collection, live_ingestion_id, latest_ingestion_id FROM documents"
            " WHERE id = :id FOR UPDATE"
        ),
        {"id": document_id},
    )
    return found.one_or_none()


async def find_collection(connection: AsyncConnection, document_id: UUID) -> str | None:
    """The collection a document is in now; None when there is no such document."""
    collection: str | None = await connection.scalar(
        text("SELECT collection FROM documents WHERE id = :id"), {"id": document_id}
    )
    return collection


async def make_latest(
    connection: AsyncConnection,
    space_id: int,
    document_id: UUID,
    ingestion_id: UUID,
    metadata: dict[str, Any] | None = None,
) -> None:
    """The newest request wins: older unfinished runs of the document end as superseded.

    Files that no run needs any more go to `files_to_delete`; the served version keeps its own. Metadata,
    when given, replaces the document's. The document's row must be locked.
    """
    await connection.execute(
        text(
            "UPDATE documents SET latest_ingestion_id = :ingestion_id, updated_at = clock_timestamp(),"
            " metadata = coalesce(CAST(:metadata AS jsonb), metadata) WHERE id = :document_id"
        ),
        {
            "document_id": document_id,
            "ingestion_id": ingestion_id,
            "metadata": None if metadata is None else _json(metadata),
        },
    )
    await _end_open(
        connection,
        space_id,
        Superseded(),
        f"document_id = :document_id AND id <> :ingestion_id AND {_WAITS_FOR_NONE}",
        document_id=document_id,
        ingestion_id=ingestion_id,
    )
    await _give_up_files(
        connection,
        f"document_id = :document_id AND id <> :ingestion_id AND {_WAITS_FOR_NONE} AND NOT EXISTS"
        " (SELECT FROM documents WHERE live_ingestion_id = ingestions.id)",
        document_id=document_id,
        ingestion_id=ingestion_id,
    )


async def find_run(connection: AsyncConnection, ingestion_id: UUID) -> Row[Any] | None:
    """(id, filename, sha256, byte_size, storage_key, is_open)."""
    found = await connection.execute(
        text(
            f"SELECT id, filename, sha256, byte_size, storage_key, {IS_OPEN} AS is_open FROM ingestions"
            " WHERE id = :id"
        ),
        {"id": ingestion_id},
    )
    return found.one_or_none()


async def release_file(connection: AsyncConnection, ingestion_id: UUID) -> None:
    """The run has no file any more: another one was given it."""
    await connection.execute(
        text("UPDATE ingestions SET storage_key = NULL WHERE id = :id"), {"id": ingestion_id}
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What of a document is to be another. A title of None is the one the PDF gives itself."""

    collection: str | None = None
    metadata: dict[str, Any] | None = None
    title: str | None = None
    is_title_given: bool = False


async def list_hashes(connection: AsyncConnection, document_id: UUID) -> Sequence[bytes]:
    """SHA-256 of the files that belong to the document: of the served version and of the newest run."""
    found = await connection.execute(
        text(
            "SELECT DISTINCT sha256 FROM documents JOIN ingestions"
            " ON ingestions.id IN (live_ingestion_id, latest_ingestion_id) WHERE documents.id = :id"
        ),
        {"id": document_id},
    )
    return found.scalars().all()


async def change_document(connection: AsyncConnection, document_id: UUID, change: Change) -> None:
    """The document's row must be locked, and its contents in both collections when it moves."""
    await connection.execute(
        text(
            "UPDATE documents SET collection = coalesce(:collection, collection),"
            " metadata = coalesce(CAST(:metadata AS jsonb), metadata),"
            " title = CASE WHEN :is_title_given THEN CAST(:title AS text) ELSE title END WHERE id = :id"
        ),
        {
            "id": document_id,
            "collection": change.collection,
            "metadata": None if change.metadata is None else _json(change.metadata),
            "title": change.title,
            "is_title_given": change.is_title_given,
        },
    )


@dataclass(frozen=True, slots=True)
class FailedDocuments:
    """Which of the failed ones; None: any."""

    collection: str | None = None
    codes: Sequence[str] | None = None
    document_ids: Sequence[UUID] | None = None


async def retry_failed(
    connection: AsyncConnection,
    wanted: FailedDocuments,
    ingestion_ids: Sequence[UUID],
    max_queued: int,
) -> int:
    """Ingest failed documents again, as many as there are new ids; how many were begun. Raises QueueFull.

    Each new run takes over the file of the one that failed.
    """
    found = await connection.execute(
        text(f"""
        WITH new AS (
            SELECT id, row_number() OVER () AS place FROM unnest(CAST(:ids AS uuid[])) AS id
        ), failed AS (
            SELECT documents.id AS document_id, latest.id AS failed_id, filename, sha256, byte_size,
                storage_key
            FROM documents JOIN ingestions AS latest ON latest.id = latest_ingestion_id
            WHERE live_ingestion_id IS NULL AND latest.status = 'error' AND storage_key IS NOT NULL
                AND (CAST(:collection AS text) IS NULL OR collection = :collection)
                AND (CAST(:codes AS text[]) IS NULL OR error_code = ANY(:codes))
                AND (CAST(:document_ids AS uuid[]) IS NULL OR documents.id = ANY(:document_ids))
                AND {_HAS_ROOM}
            ORDER BY documents.id LIMIT :limit FOR UPDATE OF documents SKIP LOCKED
        ), paired AS (
            SELECT new.id AS new_id, failed.*
            FROM (SELECT *, row_number() OVER () AS place FROM failed) AS failed JOIN new USING (place)
        ), begun AS (
            INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, storage_key)
            SELECT new_id, document_id, filename, sha256, byte_size, storage_key FROM paired
        ), keyless AS (
            UPDATE ingestions SET storage_key = NULL FROM paired WHERE ingestions.id = failed_id
        ), pointers AS (
            UPDATE documents SET latest_ingestion_id = new_id, updated_at = clock_timestamp()
            FROM paired WHERE documents.id = document_id
        )
        SELECT (SELECT count(*) FROM paired) AS begun, {_HAS_ROOM} AS has_room
        """),
        {
            "collection": wanted.collection,
            "codes": None if wanted.codes is None else list(wanted.codes),
            "document_ids": None if wanted.document_ids is None else list(wanted.document_ids),
            "ids": list(ingestion_ids),
            "limit": len(ingestion_ids),
            "max_queued": max_queued,
        },
    )
    row = found.one()
    if not row.has_room:
        raise QueueFull
    begun: int = row.begun
    return begun


async def cancel(connection: AsyncConnection, space_id: int, ingestion_id: UUID) -> bool:
    """End a run that is not finished; its partial chunks go, its file stays for a retry.

    False when there is no such run. A finished one stays as it is.
    """
    ended = await _end_open(
        connection, space_id, Cancelled(), "id = :ingestion_id", ingestion_id=ingestion_id
    )
    return bool(ended) or await find_run(connection, ingestion_id) is not None


async def cancel_waiting(
    connection: AsyncConnection, space_id: int, collection: str | None, most: int
) -> int:
    """End runs that wait, of a collection if one is named: how many, at most `most` at a time."""
    found = await connection.execute(
        text("""
        SELECT ingestions.id FROM ingestions JOIN documents ON documents.id = document_id
        WHERE status IN ('queued', 'retrying')
            AND (CAST(:collection AS text) IS NULL OR collection = :collection)
        ORDER BY ingestions.id LIMIT :most FOR UPDATE OF ingestions SKIP LOCKED
        """),
        {"collection": collection, "most": most},
    )
    waiting = list(found.scalars())
    ended = await _end_open(
        connection, space_id, Cancelled(), "id = ANY(:ingestion_ids)", ingestion_ids=waiting
    )
    return len(ended)


async def delete_document(connection: AsyncConnection, space_id: int, document_id: UUID) -> Sequence[str]:
    """Delete a document whose row is locked. Returns its files' keys.

    Its ingestions stay for a while, for pollers, without what they say of the file.
    """
    await _end_open(connection, space_id, Cancelled(), "document_id = :document_id", document_id=document_id)
    served = await connection.scalar(
        text("DELETE FROM documents WHERE id = :id RETURNING live_ingestion_id"), {"id": document_id}
    )
    if served is not None:
        await delete_chunks(connection, space_id, [served])
    await connection.execute(
        text(
            "UPDATE ingestions SET filename = '', title = NULL, sha256 = '', path = NULL"
            " WHERE document_id = :document_id"
        ),
        {"document_id": document_id},
    )
    return await _give_up_files(connection, "document_id = :document_id", document_id=document_id)


async def _end_open(
    connection: AsyncConnection,
    space_id: int,
    error: PDFIngestError,
    which: str,
    **parameters: UUID | list[UUID],
) -> Sequence[UUID]:
    """End the unfinished ones among the runs `which` names; their chunks and vectors go.

    Two statements: a batch that its worker stores just now is waited for by the first and seen by
    the second only.
    """
    status = Cancelled.code if isinstance(error, Cancelled) else "error"
    ended = await connection.execute(
        text(
            f"UPDATE ingestions SET status = :status, {_FINISHED} WHERE {which} AND {IS_OPEN}"
            " RETURNING id, document_id"
        ),
        {"status": status, "code": error.code, "message": error.message, **parameters},
    )
    ingestion_ids = []
    for row in ended:
        log.info(error.code, task_id=str(row.id), document_id=str(row.document_id))
        ingestion_ids.append(row.id)
    if ingestion_ids:
        await delete_chunks(connection, space_id, ingestion_ids)
    return ingestion_ids


async def _give_up_files(connection: AsyncConnection, which: str, **parameters: UUID) -> Sequence[str]:
    """The files of the runs `which` names are for the sweeper to delete. Returns their keys."""
    found = await connection.execute(
        text(f"""
        WITH unneeded AS (SELECT id, storage_key FROM ingestions WHERE {which} AND storage_key IS NOT NULL),
        keyless AS (UPDATE ingestions SET storage_key = NULL FROM unneeded WHERE ingestions.id = unneeded.id)
        INSERT INTO files_to_delete (storage_key) SELECT storage_key FROM unneeded
        ON CONFLICT DO NOTHING RETURNING storage_key
        """),
        parameters,
    )
    return found.scalars().all()


_KNOWN_CONTENT = f"""
    SELECT document.id AS document_id, ingestions.id AS ingestion_id, status, chunks,
        live_ingestion_id IS NOT DISTINCT FROM ingestions.id AS is_live
    FROM ingestions JOIN documents AS document ON document.id = document_id
        AND ingestions.id IN (live_ingestion_id, latest_ingestion_id)
    WHERE sha256 = :sha256 AND collection = :collection
    ORDER BY is_live DESC, {IS_OPEN} DESC, document.id LIMIT 1
"""
_INSERT_INGESTION = """
    INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, storage_key, password)
    SELECT CAST(:ingestion_id AS uuid), CAST(:document_id AS uuid), :filename, CAST(:sha256 AS bytea),
        CAST(:byte_size AS bigint), :storage_key, CAST(:password AS bytea)
"""


# All are made once: to make one of its text each time takes 0.1 ms of an upload.
_LOCK_CONTENTS = text("""
    SELECT CAST(pg_advisory_xact_lock_shared(hashtextextended(:collection, 1)) AS text)
    UNION ALL SELECT CAST(pg_advisory_xact_lock(hashtextextended(:collection || '/' || sha256, 0)) AS text)
    FROM unnest(CAST(:hashes AS text[])) AS sha256
""")
_LOCK_COLLECTION = text("SELECT pg_advisory_xact_lock(hashtextextended(:collection, 1))")
_ADD_DOCUMENT = text(f"""
    WITH known AS (SELECT * FROM ({_KNOWN_CONTENT}) AS document WHERE :unless_known),
    ingestion AS (
        {_INSERT_INGESTION} WHERE NOT EXISTS (SELECT FROM known) AND {_HAS_ROOM} RETURNING id, document_id
    ), made AS (
        INSERT INTO documents (id, collection, metadata, latest_ingestion_id)
        SELECT document_id, :collection, CAST(:metadata AS jsonb), id FROM ingestion RETURNING id
    )
    SELECT document_id, ingestion_id, status, chunks, is_live FROM known
    UNION ALL SELECT id, NULL, NULL, NULL, NULL FROM made
""")


def _values(document_id: UUID, ingestion: NewIngestion) -> dict[str, Any]:
    return {
        "ingestion_id": ingestion.ingestion_id,
        "document_id": document_id,
        "filename": ingestion.filename,
        "sha256": ingestion.sha256,
        "byte_size": ingestion.byte_size,
        "storage_key": ingestion.storage_key,
        "password": ingestion.password,
    }


def _json(metadata: dict[str, Any]) -> str:
    """Not orjson: it refuses whole numbers over 64 bits, which JSON and Postgres both take."""
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False)
