"""Runs asked for by the path of a file: the task's id is given, and the same bytes may be here already."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from app.storage.database import Connection
from app.storage.documents import NewIngestion


async def insert_if_unknown(connection: Connection, document_id: UUID, ingestion: NewIngestion) -> bool:
    """A queued run that no document points at yet. False when the id has a row already."""
    made = await connection.execute(
        text("""
        INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, storage_key)
        VALUES (:ingestion_id, :document_id, :filename, :sha256, :byte_size, :storage_key)
        ON CONFLICT (id) DO NOTHING RETURNING id
        """),
        {
            "ingestion_id": ingestion.ingestion_id,
            "document_id": document_id,
            "filename": ingestion.filename,
            "sha256": ingestion.sha256,
            "byte_size": ingestion.byte_size,
            "storage_key": ingestion.storage_key,
        },
    )
    return made.one_or_none() is not None


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


async def wait_for(connection: Connection, ingestion_id: UUID, document_id: UUID) -> None:
    """Look again in a second: the document's newest run, with the same bytes, is in work."""
    await connection.execute(
        text("""
        UPDATE ingestions SET document_id = :document_id, rung_at = NULL, rings = 0,
            next_attempt_at = clock_timestamp() + interval '1 second', revision = revision + 1
        WHERE id = :id AND status = 'queued'
        """),
        {"id": ingestion_id, "document_id": document_id},
    )


async def share(connection: Connection, ingestion_id: UUID, served_id: UUID) -> None:
    """End as success with the chunks that are served already; the run's own file is not needed."""
    await connection.execute(
        text("""
        UPDATE ingestions AS mine SET
            status = 'success', stage = 'publishing', document_id = served.document_id, title = served.title,
            pages_done = served.pages_done, pages_total = served.pages_total, chunks = served.chunks,
            pages_failed = served.pages_failed, pages_without_text = served.pages_without_text,
            engine = served.engine, language = served.language,
            storage_key = NULL, next_attempt_at = NULL, revision = mine.revision + 1,
            started_at = coalesce(mine.started_at, clock_timestamp()), finished_at = clock_timestamp()
        FROM ingestions AS served
        WHERE mine.id = :id AND mine.status = 'queued' AND served.id = :served_id
        """),
        {"id": ingestion_id, "served_id": served_id},
    )


async def move(connection: Connection, ingestion_id: UUID, document_id: UUID) -> None:
    """Give the run to a document, which is to point at it in the same transaction."""
    await connection.execute(
        text("UPDATE ingestions SET document_id = :document_id, next_attempt_at = NULL WHERE id = :id"),
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
