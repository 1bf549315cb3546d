"""Embedding spaces: which model's vectors the database holds, and the table that holds them."""

from typing import Final

from sqlalchemy import Row
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.embeddings.base import EmbeddingIdentity
from app.errors import EmbeddingSpaceMismatch
from app.storage.chunks import embeddings_table
from app.storage.database import Database
from app.storage.reach import TENANT_ROLE
from app.storage.tenants import RIGHTS_ON_VECTORS

MAX_DIMENSIONS: Final = 4_000  # pgvector's HNSW indexes no longer halfvec

# Of a vector to others in the HNSW index: each link made is a page changed and a neighbour's choice anew, so
# 16, pgvector's default, cost 2.3 times as much an insert. What fewer miss, `hnsw.ef_search` makes up for.
LINKS: Final = 8

# Per cent of a page that are filled at first. The other half is for what the move of a document writes again:
# in the same page no index is touched, and 869 vectors take 2 ms, not 250.
FILLED: Final = 50

_LOCK: Final = 0x5061_6365  # any number, the same in every process


async def open_space(database: Database, identity: EmbeddingIdentity) -> int:
    """The id of the space for this model, made on first use together with its table.

    Raises EmbeddingSpaceMismatch when the database already belongs to another model, or when the
    vectors are too long for an index.
    """
    if identity.dimensions > MAX_DIMENSIONS:
        raise EmbeddingSpaceMismatch(
            f"{_name(identity)} makes vectors of {identity.dimensions:,} dimensions, the index takes at most "
            f"{MAX_DIMENSIONS:,}. Set EMBEDDING_DIMENSIONS to fewer or choose another EMBEDDING_MODEL."
        )
    async with database.transaction() as connection:
        await connection.execute(sql("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        live = await _live_space(connection)
        if live is None:
            return await _make_space(connection, identity)
        if EmbeddingIdentity(live.provider, live.model, live.dimensions) != identity:
            raise EmbeddingSpaceMismatch(_mismatch(live, identity))
        if not live.is_kept_apart:
            for statement in _keep_apart(embeddings_table(live.id)):
                await connection.execute(sql(statement))
        return int(live.id)


async def _live_space(connection: AsyncConnection) -> Row[tuple[int, str, str, int, bool]] | None:
    """`is_kept_apart`: not so when a version of before made its table after the migration."""
    rows = await connection.execute(
        sql("""
        SELECT id, provider, model, dimensions,
            EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass('embeddings_' || id)) AS is_kept_apart
        FROM embedding_spaces WHERE is_live
        """)
    )
    return rows.one_or_none()


async def _make_space(connection: AsyncConnection, identity: EmbeddingIdentity) -> int:
    space_id = int(
        await connection.scalar(
            sql(
                "INSERT INTO embedding_spaces (provider, model, dimensions, is_live) "
                "VALUES (:provider, :model, :dimensions, true) "
                "ON CONFLICT (provider, model, dimensions) DO UPDATE SET is_live = true RETURNING id"
            ),
            {"provider": identity.provider, "model": identity.model, "dimensions": identity.dimensions},
        )
    )
    table = embeddings_table(space_id)
    for statement in (
        f"CREATE TABLE IF NOT EXISTS {table} (chunk_id uuid CONSTRAINT pk_{table} PRIMARY KEY, "
        f"ingestion_id uuid NOT NULL, embedding halfvec({int(identity.dimensions)}) NOT NULL)",
        # inline up to the page size, so that the exact path reads no TOAST: 4,000 dimensions are 8,008 bytes
        f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN",
        f"CREATE INDEX IF NOT EXISTS ix_{table}_ingestion_id ON {table} (ingestion_id)",
        f"CREATE INDEX IF NOT EXISTS ix_{table}_embedding ON {table} USING hnsw (embedding halfvec_ip_ops) "
        f"WITH (m = {LINKS})",
        *_keep_apart(table),
        f"GRANT {RIGHTS_ON_VECTORS} ON {table} TO {TENANT_ROLE}",
    ):
        await connection.execute(sql(statement))
    return space_id


def _keep_apart(table: str) -> tuple[str, str]:
    """Statements by which its rows tell their collection, and are shown to who may see that."""
    return f"ALTER TABLE {table} SET (fillfactor = {FILLED})", f"SELECT keep_apart('{table}')"


def _name(identity: EmbeddingIdentity) -> str:
    return f"{identity.model} ({identity.provider})"


def _mismatch(live: Row[tuple[int, str, str, int, bool]], wanted: EmbeddingIdentity) -> str:
    return (
        f"The database holds embeddings of {live.model} ({live.provider}, {live.dimensions} dimensions); "
        f"the settings ask for {wanted.model} ({wanted.provider}, {wanted.dimensions} dimensions), and the "
        f"vectors of two models cannot be compared. Either set EMBEDDING_PROVIDER={live.provider}, "
        f"EMBEDDING_MODEL={live.model} and EMBEDDING_DIMENSIONS={live.dimensions}, or point DATABASE_URL at "
        "an empty database and upload again."
    )
