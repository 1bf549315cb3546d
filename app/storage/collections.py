"""Collections, and how one is deleted: its name is free at once, its documents go one after another.

Documents name their collection, and a trigger notes its id with them and makes it when there is none. That
keeps the collection's row locked (FOR KEY SHARE): whoever renames or deletes it waits for documents that are
being added. The row is locked before any document of the collection, here as in the trigger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import CollectionExists, CollectionNotFound
from app.storage.database import jsonb
from app.storage.documents import delete_documents, lock_collections
from app.storage.reach import Reach

# SQL: of a row of `documents`, whether no version of it is as young as its collection keeps them.
IS_EXPIRED: Final = """EXISTS (
    SELECT FROM collections WHERE collections.id = collection_id
        AND documents.updated_at < clock_timestamp() - make_interval(days => expires_after_days)
)"""


@dataclass(frozen=True, slots=True)
class CollectionFields:
    """What can be said of a collection beside its name. `language` is an ISO 639-1 code; None: detected."""

    description: str | None = None
    metadata: dict[str, Any] | None = None
    language: str | None = None
    expires_after_days: int | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as it is kept; `metadata` is a JSON object."""

    id: UUID
    name: str
    description: str | None
    metadata: dict[str, Any]
    language: str | None
    expires_after_days: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Deletion:
    """The task that deletes a collection, and how many of its documents are gone."""

    id: UUID
    collection_id: UUID
    collection: str
    documents_total: int
    documents_done: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


_COLUMNS: Final = "id, name, description, metadata, language, expires_after_days, created_at"
_DELETION: Final = ", ".join(Deletion.__slots__)


async def create_collection(
    connection: AsyncConnection, collection_id: UUID, name: str, fields: CollectionFields
) -> Collection:
    """Raises CollectionExists."""
    made = await connection.execute(
        text(f"""
        INSERT INTO collections (id, name, description, metadata, language, expires_after_days)
        VALUES (:id, :name, :description, CAST(:metadata AS jsonb), :language, :expires_after_days)
        ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}
        """),
        {"id": collection_id, "name": name, **_values(fields)},
    )
    row = made.one_or_none()
    if row is None:
        raise CollectionExists
    return Collection(**row._mapping)


async def list_collections(
    connection: AsyncConnection, after_name: str | None, limit: int, reach: Reach
) -> list[Collection]:
    """By their names."""
    rows = await connection.execute(
        text(f"""
        SELECT {_COLUMNS} FROM collections
        WHERE name IS NOT NULL AND (CAST(:after AS text) IS NULL OR name > :after)
            AND {reach.sql_of_collections("name")}
        ORDER BY name LIMIT :limit
        """),
        {"after": after_name, "limit": limit} | reach.parameters,
    )
    return [Collection(**row._mapping) for row in rows]


async def find_collection(connection: AsyncConnection, name: str, *, to_change: bool = False) -> Collection:
    """With `to_change` no document is added to it until the transaction ends. Raises CollectionNotFound."""
    lock = "FOR UPDATE" if to_change else ""
    found = await connection.execute(
        text(f"SELECT {_COLUMNS} FROM collections WHERE name = :name {lock}"), {"name": name}
    )
    row = found.one_or_none()
    if row is None:
        raise CollectionNotFound
    return Collection(**row._mapping)


async def change_collection(
    connection: AsyncConnection, collection_id: UUID, fields: CollectionFields
) -> None:
    """Replace all that is said of it."""
    await connection.execute(
        text("""
        UPDATE collections SET description = :description, metadata = CAST(:metadata AS jsonb),
            language = :language, expires_after_days = :expires_after_days WHERE id = :id
        """),
        {"id": collection_id, **_values(fields)},
    )


async def rename_collection(connection: AsyncConnection, name: str, new_name: str) -> None:
    """With all its documents. Raises CollectionNotFound and CollectionExists.

    Nobody decides meanwhile about bytes in either: what is new under one name may be known under the other.
    """
    await lock_collections(connection, name, new_name)
    collection = await find_collection(connection, name, to_change=True)
    renamed = {"id": collection.id, "name": name, "new_name": new_name}
    try:
        await connection.execute(text("UPDATE collections SET name = :new_name WHERE id = :id"), renamed)
    except IntegrityError as error:
        raise CollectionExists from error
    await connection.execute(
        text(f"UPDATE documents SET collection = :new_name, collection_id = :id WHERE {_IS_IN}"), renamed
    )


async def begin_deletion(connection: AsyncConnection, deletion_id: UUID, name: str) -> Deletion:
    """From now on the name is free. Raises CollectionNotFound."""
    collection = await find_collection(connection, name, to_change=True)
    doomed = {"id": collection.id, "name": name}
    await connection.execute(
        text(f"UPDATE documents SET collection_id = :id WHERE {_IS_IN} AND collection_id IS NULL"), doomed
    )
    await connection.execute(text("UPDATE collections SET name = NULL WHERE id = :id"), {"id": collection.id})
    begun = await connection.execute(
        text(f"""
        INSERT INTO collection_deletions (id, collection_id, collection, documents_total)
        SELECT CAST(:deletion_id AS uuid), CAST(:id AS uuid), :name, count(*)
        FROM documents WHERE collection_id = :id
        RETURNING {_DELETION}
        """),
        doomed | {"deletion_id": deletion_id},
    )
    return Deletion(**begun.one()._mapping)


async def find_deletion(connection: AsyncConnection, deletion_id: UUID) -> Deletion | None:
    found = await connection.execute(
        text(f"SELECT {_DELETION} FROM collection_deletions WHERE id = :id"), {"id": deletion_id}
    )
    row = found.one_or_none()
    return Deletion(**row._mapping) if row else None


async def list_leaving(
    connection: AsyncConnection, why: str, documents: int, chunks: int
) -> Sequence[Sequence[UUID]]:
    """Documents that are to be deleted, of each collection some; `why` is IS_DOOMED or IS_EXPIRED.

    So many of a collection, or fewer when these have so many chunks; one at least.
    """
    found = await connection.scalars(
        text(f"""
        SELECT array_agg(document.id) FROM collections AS leaving CROSS JOIN LATERAL (
            SELECT next.id, sum(chunks) OVER (
                ORDER BY next.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS chunks_before
            FROM (
                SELECT id, live_ingestion_id FROM documents WHERE collection_id = leaving.id AND {why}
                ORDER BY id LIMIT :documents
            ) AS next LEFT JOIN ingestions ON ingestions.id = live_ingestion_id
        ) AS document
        WHERE (name IS NULL OR expires_after_days IS NOT NULL)
            AND coalesce(chunks_before, 0) < :chunks
        GROUP BY leaving.id
        """),
        {"documents": documents, "chunks": chunks},
    )
    return found.all()


async def delete_leaving(
    connection: AsyncConnection, space_id: int, document_ids: Sequence[UUID], why: str
) -> int:
    """Delete documents, but for those that may stay by now or that somebody has locked; how many.

    Their files are the sweeper's.
    """
    found = await connection.execute(
        text(
            f"SELECT id, collection_id FROM documents WHERE id = ANY(:ids) AND {why}"
            " ORDER BY id FOR UPDATE SKIP LOCKED"
        ),
        {"ids": list(document_ids)},
    )
    if not (leaving := found.all()):
        return 0
    await delete_documents(connection, space_id, [row.id for row in leaving])
    await connection.execute(
        text("""
        UPDATE collection_deletions SET documents_done = documents_done + gone.documents,
            started_at = coalesce(started_at, clock_timestamp())
        FROM (
            SELECT id, count(*) AS documents FROM unnest(CAST(:collection_ids AS uuid[])) AS id GROUP BY id
        ) AS gone
        WHERE collection_id = gone.id AND finished_at IS NULL
        """),
        {"collection_ids": [row.collection_id for row in leaving]},
    )
    return len(leaving)


async def end_deletions(connection: AsyncConnection) -> Sequence[Deletion]:
    """Of collections that have no documents any more: they go."""
    ended = await connection.execute(
        text(f"""
        WITH emptied AS (
            DELETE FROM collections WHERE name IS NULL
                AND NOT EXISTS (SELECT FROM documents WHERE collection_id = collections.id) RETURNING id
        )
        UPDATE collection_deletions SET finished_at = clock_timestamp(),
            started_at = coalesce(started_at, clock_timestamp())
        FROM emptied WHERE collection_id = emptied.id
        RETURNING {", ".join(f"collection_deletions.{name}" for name in Deletion.__slots__)}
        """)
    )
    return [Deletion(**row._mapping) for row in ended]


async def forget_deletions(connection: AsyncConnection, retention_days: float) -> None:
    await connection.execute(
        text("""
        DELETE FROM collection_deletions
        WHERE finished_at < clock_timestamp() - make_interval(secs => :retention_days * 86400)
        """),
        {"retention_days": retention_days},
    )


async def note_collections(connection: AsyncConnection, after: UUID, limit: int) -> UUID | None:
    """Note the ids of collections with the next documents of older versions; the last one's id.

    None at the end. Collections are locked before their documents, as everywhere.
    """
    noted = await connection.execute(
        text("""
        WITH unnoted AS (
            SELECT documents.id, collections.id AS collection_id
            FROM documents JOIN collections ON name = collection
            WHERE documents.id > :after AND documents.collection_id IS NULL
            ORDER BY documents.id LIMIT :limit FOR KEY SHARE OF collections
        ), noted AS (
            UPDATE documents SET collection_id = unnoted.collection_id
            FROM unnoted WHERE documents.id = unnoted.id AND documents.collection_id IS NULL
        )
        SELECT id FROM unnoted ORDER BY id DESC LIMIT 1
        """),
        {"after": after, "limit": limit},
    )
    last: UUID | None = noted.scalar_one_or_none()
    return last


# Its documents, with those of older versions, which have no id yet.
_IS_IN: Final = "collection = :name AND coalesce(collection_id, :id) = :id"


def _values(fields: CollectionFields) -> dict[str, Any]:
    return {
        "description": fields.description,
        "metadata": jsonb(fields.metadata or {}),
        "language": fields.language,
        "expires_after_days": fields.expires_after_days,
    }
