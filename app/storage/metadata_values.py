"""What documents hold: keys of their metadata, and values of one, those that most documents have first.

Of what a search with the same filter looks through, and as conditions find it (filters.py): a list has the
values that are in it, an object has none, and null is the same as nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.filters import FIELDS, Scalar, SearchFilter, key_of, name_of

MOST_CHARACTERS: Final = 200  # of a text that is listed; a longer one is nothing to choose from
COUNTED_FIELDS: Final = tuple(name for name, field in FIELDS.items() if field.kind != "time")

_VISIBLE: Final = "documents d JOIN versions i ON i.id = d.live_ingestion_id"


@dataclass(frozen=True, slots=True)
class KeyCount:
    """A key, by the name conditions have for it, and how many documents have it."""

    key: str
    documents: int


@dataclass(frozen=True, slots=True)
class ValueCount:
    """A value, and how many documents have it."""

    value: Scalar
    documents: int


async def count_keys(connection: AsyncConnection, wanted: SearchFilter, limit: int) -> Sequence[KeyCount]:
    """Reads all metadata: of 10,000 documents with eight keys in 60 ms of CPU time, of 100,000 in 200."""
    visible, parameters = wanted.sql()
    found = await connection.execute(
        text(f"""
        SELECT key, count(*) AS documents
        FROM {_VISIBLE} CROSS JOIN jsonb_object_keys(jsonb_strip_nulls(d.metadata)) AS key
        WHERE {visible} GROUP BY key ORDER BY documents DESC, key COLLATE "C" LIMIT :limit
        """),
        parameters | {"limit": limit},
    )
    return [KeyCount(name_of(row.key), row.documents) for row in found]


async def count_values(
    connection: AsyncConnection, wanted: SearchFilter, name: str, limit: int
) -> Sequence[ValueCount]:
    """Of the key with this name. Of 10,000 documents in 55 ms of CPU time, with lists of three in 80."""
    visible, parameters = wanted.sql()
    value = FIELDS[name].sql if name in FIELDS else "d.metadata -> :key"
    found = await connection.execute(
        text(f"""
        WITH held AS MATERIALIZED (
            SELECT {value} AS value FROM {_VISIBLE} WHERE {visible} AND {value} IS NOT NULL
        ), single AS (
            SELECT value FROM held
            UNION ALL
            SELECT listed.value FROM held CROSS JOIN LATERAL (
                SELECT DISTINCT value FROM jsonb_array_elements(
                    CASE jsonb_typeof(held.value) WHEN 'array' THEN held.value ELSE '[]' END
                )
            ) AS listed
        )
        SELECT value, count(*) AS documents FROM single
        WHERE jsonb_typeof(value) IN ('string', 'number', 'boolean')
            AND length(value #>> '{{}}') <= {MOST_CHARACTERS}
        GROUP BY value ORDER BY documents DESC, value LIMIT :limit
        """).columns(value=JSONB),
        parameters | ({} if name in FIELDS else {"key": key_of(name)}) | {"limit": limit},
    )
    return [ValueCount(row.value, row.documents) for row in found]
