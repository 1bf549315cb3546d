"""The rule of same content for files that tasks name by their path."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from uuid_utils.compat import uuid7

from app.storage import documents, path_files
from app.storage.database import Connection
from app.storage.documents import KnownContent, NewIngestion


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a path's file.

    `queued`: its run is the newest of its document; `success`: the same bytes are served already, in so
    many chunks; `waiting`: another run has them in work, look again in a second (`settle`); `known`: the
    id had a row already.
    """

    outcome: Literal["queued", "success", "waiting", "known"]
    document_id: UUID | None = None
    chunks: int = 0


async def register(
    connection: Connection, space_id: int, collection: str, ingestion: NewIngestion
) -> Registration:
    await documents.lock_contents(connection, collection, [ingestion.sha256])
    known = await documents.find_content(connection, collection, ingestion.sha256)
    document_id = known.document_id if known else uuid7()
    if not await path_files.insert_if_unknown(connection, document_id, ingestion):
        return Registration("known")
    return await _decide(connection, space_id, collection, ingestion.ingestion_id, known)


async def settle(
    connection: Connection, space_id: int, ingestion_id: UUID, collection: str, sha256: bytes
) -> Registration:
    """Decide again about a run that waits."""
    await documents.lock_contents(connection, collection, [sha256])
    known = await documents.find_content(connection, collection, sha256)
    return await _decide(connection, space_id, collection, ingestion_id, known)


async def _decide(
    connection: Connection, space_id: int, collection: str, ingestion_id: UUID, known: KnownContent | None
) -> Registration:
    if known and known.is_live:
        await path_files.share(connection, ingestion_id, known.ingestion_id)
        return Registration("success", known.document_id, known.chunks)
    if known and known.is_in_work:
        await path_files.wait_for(connection, ingestion_id, known.document_id)
        return Registration("waiting", known.document_id)
    if known and await documents.lock_document(connection, known.document_id):
        await path_files.move(connection, ingestion_id, known.document_id)
        await documents.make_latest(connection, space_id, known.document_id, ingestion_id)
        return Registration("queued", known.document_id)
    document_id = uuid7()
    await path_files.move(connection, ingestion_id, document_id)
    await path_files.insert_document(connection, document_id, collection, ingestion_id)
    return Registration("queued", document_id)
