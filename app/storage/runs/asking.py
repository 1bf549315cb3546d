"""How a run begins: asked for with its file, or by a path, whose file is taken in later.

A run asked for by its path has its task's id and a row from the first moment. Its file is put off while it
cannot be taken in; its bytes may be here already, and then it shares what they gave, or waits for it.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import PDFIngestError, QueueFull
from app.storage.runs.conditions import IS_UNCLAIMED
from app.storage.runs.turns import new_turn

# Counts at most `max_queued` rows of a partial index, so that a long queue stays cheap to measure. A function
# of the database's, since those in nobody's reach count as well.
HAS_ROOM = "waiting_runs(CAST(:max_queued AS int)) < CAST(:max_queued AS int)"


def insert_run(collection: str) -> str:
    """The beginning of a statement; `collection` is SQL."""
    return f"""
    INSERT INTO ingestions
        (id, document_id, filename, sha256, byte_size, storage_key, password, request_id, asked_by,
            queue, is_bulk, turn)
    SELECT CAST(:ingestion_id AS uuid), CAST(:document_id AS uuid), :filename, CAST(:sha256 AS bytea),
        CAST(:byte_size AS bigint), :storage_key, CAST(:password AS bytea), :request_id,
        CAST(:asked_by AS text), {collection},
        CAST(:is_bulk AS bool), {new_turn(collection, "CAST(:is_bulk AS bool)")}
"""


@dataclass(frozen=True, slots=True)
class NewIngestion:
    """A run to ask for; its file is in the file store already. `password` is encrypted.

    `asked_by` is the account of the caller. `is_bulk`: others go before it, see `turns`.
    """

    ingestion_id: UUID
    filename: str
    sha256: bytes
    byte_size: int
    storage_key: str
    password: bytes | None = None
    asked_by: str = ""
    is_bulk: bool = False
    request_id: str | None = None


async def ask(
    connection: AsyncConnection, document_id: UUID, ingestion: NewIngestion, max_queued: int
) -> None:
    """A run that its document does not point at yet. Raises QueueFull, with nothing written."""
    made = await connection.execute(
        text(f"{_INSERT_VERSION} WHERE {HAS_ROOM} RETURNING id"),
        values_of(document_id, ingestion) | {"max_queued": max_queued},
    )
    if made.one_or_none() is None:
        raise QueueFull


def values_of(document_id: UUID, ingestion: NewIngestion) -> dict[str, Any]:
    return {
        "ingestion_id": ingestion.ingestion_id,
        "document_id": document_id,
        "filename": ingestion.filename,
        "sha256": ingestion.sha256,
        "byte_size": ingestion.byte_size,
        "storage_key": ingestion.storage_key,
        "password": ingestion.password,
        "asked_by": ingestion.asked_by,
        "is_bulk": ingestion.is_bulk,
        "request_id": ingestion.request_id,
    }


_INSERT_VERSION = insert_run("(SELECT collection FROM documents WHERE id = CAST(:document_id AS uuid))")


async def ask_by_path(
    connection: AsyncConnection, ingestion_id: UUID, document_id: UUID, filename: str, path: str
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
    connection: AsyncConnection, ingestion_id: UUID, sha256: bytes, byte_size: int, storage_key: str
) -> bool:
    """The file of a run has been taken in. False when it has one already, or has ended."""
    given = await connection.execute(
        text(f"""
        UPDATE ingestions SET
            sha256 = :sha256, byte_size = :byte_size, storage_key = :storage_key, path = NULL,
            status = 'queued', retries = 0, error_code = NULL, error_message = NULL, next_attempt_at = NULL,
            revision = revision + 1
        WHERE id = :id AND path IS NOT NULL AND {IS_UNCLAIMED} RETURNING id
        """),
        {"id": ingestion_id, "sha256": sha256, "byte_size": byte_size, "storage_key": storage_key},
    )
    return given.one_or_none() is not None


async def put_off(
    connection: AsyncConnection,
    ingestion_id: UUID,
    error: PDFIngestError,
    seconds: float,
    *,
    is_counted: bool,
) -> None:
    """The file could not be taken in now."""
    await connection.execute(
        text(f"""
        UPDATE ingestions SET status = 'retrying', error_code = :code, error_message = :message,
            retries = retries + CAST(:is_counted AS int), rung_at = NULL, rings = 0,
            next_attempt_at = clock_timestamp() + make_interval(secs => :seconds), revision = revision + 1
        WHERE id = :id AND path IS NOT NULL AND {IS_UNCLAIMED}
        """),
        {
            "id": ingestion_id,
            "code": error.code,
            "message": error.message,
            "seconds": seconds,
            "is_counted": is_counted,
        },
    )


async def find_waiting(connection: AsyncConnection, ingestion_id: UUID) -> Row[Any] | None:
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


async def wait_for_equal(
    connection: AsyncConnection, ingestion_id: UUID, document_id: UUID, other_id: UUID
) -> None:
    """Look again in a second: the other run, the document's newest, has the same bytes in work."""
    await connection.execute(
        text("""
        UPDATE ingestions SET document_id = :document_id, waits_for = :other_id, rung_at = NULL, rings = 0,
            next_attempt_at = clock_timestamp() + interval '1 second', revision = revision + 1
        WHERE id = :id AND status = 'queued'
        """),
        {"id": ingestion_id, "document_id": document_id, "other_id": other_id},
    )


async def move(connection: AsyncConnection, ingestion_id: UUID, document_id: UUID) -> None:
    """Give the run to a document, which is to point at it in the same transaction."""
    await connection.execute(
        text(
            "UPDATE ingestions SET document_id = :document_id, waits_for = NULL, next_attempt_at = NULL"
            " WHERE id = :id"
        ),
        {"id": ingestion_id, "document_id": document_id},
    )
