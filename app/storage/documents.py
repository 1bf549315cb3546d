"""Documents: every statement behind uploading, replacing and deleting.

The document's row is locked before any row of its ingestions, here and in `runs.publish`: newer
requests, cancelling and publishing cannot wait for each other in a circle.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import DocumentNotFound, QueueFull
from app.storage import runs
from app.storage.chunks import delete_chunks
from app.storage.database import jsonb
from app.storage.doomed import IS_DOOMED, stays
from app.storage.reach import EVERYTHING, Reach
from app.storage.runs.asking import HAS_ROOM, NewIngestion, insert_run, values_of
from app.storage.runs.conditions import IS_OPEN, OPEN, WAITS_FOR_NONE
from app.storage.runs.turns import new_turn, turns_of

MOST_CONTENT_LOCKS = 32


@dataclass(frozen=True, slots=True)
class KnownContent:
    """The document that has the same bytes, and the ingestion of it they belong to."""

    document_id: UUID
    ingestion_id: UUID
    status: str
    chunks: int
    is_live: bool
    storage_key: str | None

    @property
    def is_in_work(self) -> bool:
        return self.status in OPEN


async def lock_contents(connection: AsyncConnection, collection: str, hashes: Collection[bytes]) -> None:
    """Until the transaction ends nobody else decides about these bytes in this collection.

    Of many the whole collection is locked instead: each lock takes one of `max_locks_per_transaction` (64)
    from all. The collection comes first, contents in order, documents later: nobody waits in a circle.
    """
    if len(hashes) > MOST_CONTENT_LOCKS:
        await lock_collections(connection, collection)
        return
    ordered = [sha256.hex() for sha256 in sorted(hashes)]
    await connection.execute(_LOCK_CONTENTS, {"collection": collection, "hashes": ordered})


async def lock_collections(connection: AsyncConnection, *names: str) -> None:
    """Until the transaction ends nobody else decides about any bytes in these collections."""
    for name in sorted(set(names)):
        await connection.execute(_LOCK_COLLECTION, {"collection": name})


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
        values_of(document_id, ingestion)
        | {
            "collection": collection,
            "metadata": jsonb(metadata or {}),
            "max_queued": max_queued,
            "unless_known": unless_known,
        },
    )
    row = found.one_or_none()
    if row is None:
        raise QueueFull
    return KnownContent(**row._mapping) if row.ingestion_id else None


async def insert_document(
    connection: AsyncConnection, document_id: UUID, collection: str, ingestion_id: UUID
) -> None:
    """A document for a run that exists."""
    await connection.execute(
        text(
            "INSERT INTO documents (id, collection, latest_ingestion_id)"
            " VALUES (:document_id, :collection, :ingestion_id)"
        ),
        {"document_id": document_id, "collection": collection, "ingestion_id": ingestion_id},
    )


async def has_room_in_queue(connection: AsyncConnection, max_queued: int) -> bool:
    return bool(await connection.scalar(_ASK_FOR_ROOM, {"max_queued": max_queued}))


async def lock_document(
    connection: AsyncConnection, document_id: UUID, reach: Reach = EVERYTHING
) -> Row[Any] | None:
    """(collection, live_ingestion_id, latest_ingestion_id), unchanged until the transaction ends.

    None when there is no such document, or it is going to be deleted with its collection.
    """
    found = await connection.execute(
        text(
            "SELECT collection, live_ingestion_id, latest_ingestion_id FROM documents"
            f" WHERE id = :id AND NOT {IS_DOOMED} AND {reach.sql('documents')} FOR UPDATE"
        ),
        {"id": document_id} | reach.parameters,
    )
    return found.one_or_none()


async def find_collection(connection: AsyncConnection, document_id: UUID, reach: Reach) -> str:
    """The collection a document is in now. Raises DocumentNotFound."""
    collection: str | None = await connection.scalar(
        text(
            f"SELECT collection FROM documents WHERE id = :id AND NOT {IS_DOOMED}"
            f" AND {reach.sql('documents')}"
        ),
        {"id": document_id} | reach.parameters,
    )
    if collection is None:
        raise DocumentNotFound
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
            "metadata": None if metadata is None else jsonb(metadata),
        },
    )
    await runs.supersede(connection, document_id, ingestion_id, space_id)
    await _give_up_files(
        connection,
        f"document_id = :document_id AND id <> :ingestion_id AND {WAITS_FOR_NONE} AND NOT EXISTS"
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
            "metadata": None if change.metadata is None else jsonb(change.metadata),
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


_RETRY_FAILED: Final = f"""
    WITH new AS (
        SELECT id, row_number() OVER () AS place FROM unnest(CAST(:ids AS uuid[])) AS id
    ), failed AS (
        SELECT documents.id AS document_id, latest.id AS failed_id, filename, sha256, byte_size,
            storage_key, collection, is_bulk
        FROM documents JOIN ingestions AS latest ON latest.id = latest_ingestion_id
        WHERE live_ingestion_id IS NULL AND latest.status = 'error' AND storage_key IS NOT NULL
            AND (CAST(:collection AS text) IS NULL OR collection = :collection)
            AND (CAST(:codes AS text[]) IS NULL OR error_code = ANY(:codes))
            AND (CAST(:document_ids AS uuid[]) IS NULL OR documents.id = ANY(:document_ids))
            AND {stays("documents")}
            AND {HAS_ROOM} AND {{reach}}
        ORDER BY documents.id LIMIT :limit FOR UPDATE OF documents SKIP LOCKED
    ), paired AS (
        SELECT new.id AS new_id, failed.*, row_number() OVER (PARTITION BY collection, is_bulk) - 1 AS behind,
            dense_rank() OVER (ORDER BY collection) - 1 AS queues_before
        FROM (SELECT *, row_number() OVER () AS place FROM failed) AS failed JOIN new USING (place)
    ), begun AS (
        INSERT INTO ingestions
            (id, document_id, filename, sha256, byte_size, storage_key, asked_by, queue, is_bulk, turn)
        SELECT new_id, document_id, filename, sha256, byte_size, storage_key, CAST(:asked_by AS text),
            collection, is_bulk,
            {new_turn("paired.collection", "paired.is_bulk", "queues_before")}
                + behind * {turns_of("paired.is_bulk")}
        FROM paired
    ), keyless AS (
        UPDATE ingestions SET storage_key = NULL FROM paired WHERE ingestions.id = failed_id
    ), pointers AS (
        UPDATE documents SET latest_ingestion_id = new_id, updated_at = clock_timestamp()
        FROM paired WHERE documents.id = document_id
    )
    SELECT (SELECT count(*) FROM paired) AS begun, {HAS_ROOM} AS has_room
"""


async def retry_failed(
    connection: AsyncConnection,
    wanted: FailedDocuments,
    ingestion_ids: Sequence[UUID],
    max_queued: int,
    reach: Reach = EVERYTHING,
    asked_by: str = "",
) -> int:
    """Ingest failed documents again, as many as there are new ids; how many were begun. Raises QueueFull.

    Each new run takes over the file of the one that failed.
    """
    found = await connection.execute(
        text(_RETRY_FAILED.format(reach=reach.sql("documents"))),
        reach.parameters
        | {
            "collection": wanted.collection,
            "codes": None if wanted.codes is None else list(wanted.codes),
            "document_ids": None if wanted.document_ids is None else list(wanted.document_ids),
            "ids": list(ingestion_ids),
            "limit": len(ingestion_ids),
            "max_queued": max_queued,
            "asked_by": asked_by,
        },
    )
    row = found.one()
    if not row.has_room:
        raise QueueFull
    begun: int = row.begun
    return begun


async def delete_documents(
    connection: AsyncConnection, space_id: int, document_ids: Sequence[UUID]
) -> Sequence[str]:
    """Delete documents whose rows are locked. Returns their files' keys.

    Their ingestions stay for a while, for pollers, without what they say of the file.
    """
    doomed = {"document_ids": list(document_ids)}
    await runs.cancel_all(connection, document_ids, space_id)
    storage_keys = await _give_up_files(connection, "document_id = ANY(:document_ids)", **doomed)
    await connection.execute(
        text(
            "UPDATE ingestions SET filename = '', title = NULL, sha256 = '', path = NULL"
            " WHERE document_id = ANY(:document_ids)"
        ),
        doomed,
    )
    served = await connection.scalars(
        text(
            "SELECT live_ingestion_id FROM documents"
            " WHERE id = ANY(:document_ids) AND live_ingestion_id IS NOT NULL"
        ),
        doomed,
    )
    if served_ids := served.all():
        await delete_chunks(connection, space_id, served_ids)
    # Last: without it they belong to another collection, if it was moved.
    await connection.execute(text("DELETE FROM documents WHERE id = ANY(:document_ids)"), doomed)
    return storage_keys


async def _give_up_files(
    connection: AsyncConnection, which: str, **parameters: UUID | list[UUID]
) -> Sequence[str]:
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
        live_ingestion_id IS NOT DISTINCT FROM ingestions.id AS is_live, storage_key
    FROM ingestions JOIN documents AS document ON document.id = document_id
        AND ingestions.id IN (live_ingestion_id, latest_ingestion_id)
    WHERE sha256 = :sha256 AND collection = :collection AND NOT {IS_DOOMED}
    ORDER BY is_live DESC, {IS_OPEN} DESC, document.id LIMIT 1
"""

# All are made once: to make one of its text each time takes 0.1 ms of an upload.
_LOCK_CONTENTS = text("""
    SELECT CAST(pg_advisory_xact_lock_shared(hashtextextended(:collection, 1)) AS text)
    UNION ALL SELECT CAST(pg_advisory_xact_lock(hashtextextended(:collection || '/' || sha256, 0)) AS text)
    FROM unnest(CAST(:hashes AS text[])) AS sha256
""")
_LOCK_COLLECTION = text("SELECT pg_advisory_xact_lock(hashtextextended(:collection, 1))")
_ASK_FOR_ROOM = text(f"SELECT {HAS_ROOM}")
_ADD_DOCUMENT = text(f"""
    WITH known AS (SELECT * FROM ({_KNOWN_CONTENT}) AS document WHERE :unless_known),
    ingestion AS (
        {insert_run(":collection")} WHERE NOT EXISTS (SELECT FROM known) AND {HAS_ROOM}
        RETURNING id, document_id
    ), made AS (
        INSERT INTO documents (id, collection, metadata, latest_ingestion_id)
        SELECT document_id, :collection, CAST(:metadata AS jsonb), id FROM ingestion RETURNING id
    )
    SELECT document_id, ingestion_id, status, chunks, is_live, storage_key FROM known
    UNION ALL SELECT id, NULL, NULL, NULL, NULL, NULL FROM made
""")
