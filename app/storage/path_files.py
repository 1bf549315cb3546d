"""Runs asked for by the path of a file: the task's id is given, and the same bytes may be here already."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from app.errors import PDFIngestError
from app.storage.database import Connection


async def insert_if_unknown(
    connection: Connection, ingestion_id: UUID, document_id: UUID, filename: str, path: str
) -> None:
    """A queued run whose file is not taken in yet, of a document that is not there yet."""
    await connection.execute(
        text("""
        INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, path)
        VALUES (:ingestion_id, :document_id, :filename, '', 0, :path) ON CONFLICT (id) DO NOTHING
        """),
        {
            "ingestion_id": ingestion_id,
            "document_id": document_id,
            "filename": filename,
            "path": path.encode(errors="replace").decode().replace("\0", ""),
        },
    )


async def give_file(
    connection: Connection, ingestion_id: UUID, sha256: bytes, byte_size: int, storage_key: str
) -> bool:
    """The file of a run has been taken in. False when it has one already, or has ended."""
    given = await connection.execute(
        text("""
        UPDATE ingestions SET
            sha256 = :sha256, byte_size = :byte_size, storage_key = :storage_key, path = NULL,
            status = 'queued', retries = 0, error_code = NULL, error_message = NULL, next_attempt_at = NULL
        WHERE id = :id AND path IS NOT NULL AND status IN ('queued', 'retrying') RETURNING id
        """),
        {"id": ingestion_id, "sha256": sha256, "byte_size": byte_size, "storage_key": storage_key},
    )
    return given.one_or_none() is not None


async def put_off(
    connection: Connection, ingestion_id: UUID, error: PDFIngestError, seconds: float, *, is_counted: bool
) -> None:
    """The file could not be taken in now."""
    await connection.execute(
        text("""
        UPDATE ingestions SET status = 'retrying', error_code = :code, error_message = :message,
            retries = retries + CAST(:is_counted AS int), rung_at = NULL, rings = 0,
            next_attempt_at = clock_timestamp() + make_interval(secs => :seconds), revision = revision + 1
        WHERE id = :id AND path IS NOT NULL AND status IN ('queued', 'retrying')
        """),
        {
            "id": ingestion_id,
            "code": error.code,
            "message": error.message,
            "seconds": seconds,
            "is_counted": is_counted,
        },
    )


async def find_waiting(connection: Connection, ingestion_id: UUID) -> Row[Any] | None:
    """(collection, sha256, storage_key) of a queued run that waits for another one with the same bytes."""
    found = await connection.execute(
        text("""
        SELECT collection, sha256, storage_key
        FROM ingestions JOIN documents ON documents.id = document_id AND latest_ingestion_id <> ingestions.id
        WHERE ingestions.id = :id AND status = 'queued'
        """),
        {"id": ingestion_id},
    )
    return found.one_or_none()


async def wait_for(connection: Connection, ingestion_id: UUID, document_id: UUID, other_id: UUID) -> None:
    """Look again in a second: the other run, the document's newest, has the same bytes in work."""
    await connection.execute(
        text("""
        UPDATE ingestions SET document_id = :document_id, waits_for = :other_id, rung_at = NULL, rings = 0,
            next_attempt_at = clock_timestamp() + interval '1 second', revision = revision + 1
        WHERE id = :id AND status = 'queued'
        """),
        {"id": ingestion_id, "document_id": document_id, "other_id": other_id},
    )


async def share(connection: Connection, ingestion_id: UUID, served_id: UUID) -> None:
    """End as success with the chunks that are served already; the run's own file is not needed."""
    await connection.execute(
        text("""
        UPDATE ingestions AS mine SET
            status = 'success', stage = 'publishing', document_id = served.document_id, title = served.title,
            pages_done = served.pages_done, pages_total = served.pages_total, chunks = served.chunks,
            pages_failed = served.pages_failed, pages_without_text = served.pages_without_text,
            engine = served.engine, language = served.language, storage_key = NULL, waits_for = NULL,
            next_attempt_at = NULL, revision = mine.revision + 1,
            started_at = coalesce(mine.started_at, clock_timestamp()), finished_at = clock_timestamp()
        FROM ingestions AS served
        WHERE mine.id = :id AND mine.status = 'queued' AND served.id = :served_id
        """),
        {"id": ingestion_id, "served_id": served_id},
    )


async def move(connection: Connection, ingestion_id: UUID, document_id: UUID) -> None:
    """Give the run to a document, which is to point at it in the same transaction."""
    await connection.execute(
        text(
            "UPDATE ingestions SET document_id = :document_id, waits_for = NULL, next_attempt_at = NULL"
            " WHERE id = :id"
        ),
        {"id": ingestion_id, "document_id": document_id},
    )


async def insert_document(
    connection: Connection, document_id: UUID, collection: str, ingestion_id: UUID
) -> None:
    """A document for a run that exists."""
    await connection.execute(
        text(
            "INSERT INTO documents (id, collection, latest_ingestion_id)"
            " VALUES (:document_id, :collection, :ingestion_id)"
        ),
        {"document_id": document_id, "collection": collection, "ingestion_id": ingestion_id},
    )
