"""Keys of the database: who made which, and which of them open the service now."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_MAKING_KEYS: Final = 0x4B65_7973  # of an advisory lock; any number that nobody else takes
IS_VALID: Final = "(revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()))"
_COLUMNS: Final = """
    id, name, prefix, digest, scopes, collections, limits, created_at, expires_at, last_used_at, revoked_at
"""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is kept: `digest` is the SHA-256 of all of it, `prefix` its first part, which is no secret.

    `collections` are names or patterns; None: all.
    """

    id: UUID
    name: str
    prefix: str
    digest: bytes
    scopes: tuple[str, ...]
    collections: tuple[str, ...] | None
    limits: dict[str, int]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


async def lock_keys(connection: AsyncConnection) -> None:
    """Until the transaction ends nobody else makes a key."""
    await connection.execute(
        text("SELECT CAST(pg_advisory_xact_lock(:lock) AS text)"), {"lock": _MAKING_KEYS}
    )


async def insert_key(  # noqa: PLR0913 - the columns of a row
    connection: AsyncConnection,
    *,
    key_id: UUID,
    name: str,
    prefix: str,
    digest: bytes,
    scopes: Collection[str],
    collections: Collection[str] | None,
    limits: Mapping[str, int],
    expires_at: datetime | None,
) -> KeyRow:
    found = await connection.execute(
        text(f"""
        INSERT INTO api_keys (id, name, prefix, digest, scopes, collections, limits, expires_at)
        VALUES (:id, :name, :prefix, :digest, CAST(:scopes AS text[]), CAST(:collections AS text[]),
            CAST(:limits AS jsonb), CAST(:expires_at AS timestamptz))
        RETURNING {_COLUMNS}
        """),
        {
            "id": key_id,
            "name": name,
            "prefix": prefix,
            "digest": digest,
            "scopes": list(scopes),
            "collections": None if collections is None else list(collections),
            "limits": orjson.dumps(dict(limits)).decode(),
            "expires_at": expires_at,
        },
    )
    return _key(found.one())


async def list_keys(connection: AsyncConnection, after: UUID | None, limit: int) -> list[KeyRow]:
    """The newest first, those that are revoked or have run out too."""
    rows = await connection.execute(
        text(f"""
        SELECT {_COLUMNS} FROM api_keys WHERE CAST(:after AS uuid) IS NULL OR id < :after
        ORDER BY id DESC LIMIT :limit
        """),
        {"after": after, "limit": limit},
    )
    return [_key(row) for row in rows]


async def read_clock(connection: AsyncConnection) -> float:
    """Seconds since 1970, as `IS_VALID` looks at them."""
    seconds = await connection.scalar(text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8)"))
    return float(seconds)


async def list_valid_keys(connection: AsyncConnection) -> list[KeyRow]:
    return [
        _key(row)
        for row in await connection.execute(text(f"SELECT {_COLUMNS} FROM api_keys WHERE {IS_VALID}"))
    ]


async def has_keys(connection: AsyncConnection) -> bool:
    """Whether a key was ever made."""
    return bool(await connection.scalar(text("SELECT EXISTS (SELECT FROM api_keys)")))


async def revoke_key(connection: AsyncConnection, key_id: UUID) -> str | None:
    """From now on the key opens nothing. Its name; None when there is no such key, or it is revoked."""
    name: str | None = await connection.scalar(
        text(
            "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id AND revoked_at IS NULL"
            " RETURNING name"
        ),
        {"id": key_id},
    )
    return name


async def note_uses(connection: AsyncConnection, key_ids: Sequence[UUID], apart_seconds: float) -> None:
    """These were used just now; of a key that was noted less than `apart_seconds` ago nothing is written."""
    await connection.execute(
        text("""
        UPDATE api_keys SET last_used_at = clock_timestamp() WHERE id = ANY(:ids) AND (
            last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => :apart)
        )
        """),
        {"ids": list(key_ids), "apart": apart_seconds},
    )


def _key(row: Any) -> KeyRow:
    lists = {"scopes": tuple(row.scopes), "collections": row.collections and tuple(row.collections)}
    return KeyRow(**{**row._mapping, **lists})
