"""What each caller has asked for: in a month, of runs; in a minute, of requests."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.runs.conditions import IS_UNCLAIMED

THIS_MONTH: Final = "date_trunc('month', now(), 'UTC')"
MOST_LISTED: Final = 500
_SUMS: Final = """
    count(*) AS documents, coalesce(sum(pages_done), 0) AS pages,
    CAST(coalesce(sum(byte_size), 0) AS bigint) AS bytes, CAST(coalesce(sum(i.tokens), 0) AS bigint) AS tokens
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Runs asked for, pages read of them, bytes of their files, tokens embedded."""

    documents: int
    pages: int
    bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class UsageOf(Usage):
    """On whose account, for documents of which collection: None, when they are deleted."""

    key: str
    collection: str | None


async def lock_account(connection: AsyncConnection, account: str) -> None:
    """Until the transaction ends nobody else asks for a run on this account."""
    await connection.execute(
        text("SELECT CAST(pg_advisory_xact_lock(hashtextextended(:account, 2)) AS text)"),
        {"account": account},
    )


async def sum_month(connection: AsyncConnection, account: str) -> Usage:
    """Of this month, in UTC. Reads the account's runs of the month along an index."""
    found = await connection.execute(
        text(f"SELECT {_SUMS} FROM ingestions i WHERE asked_by = :account AND created_at >= {THIS_MONTH}"),
        {"account": account},
    )
    return Usage(**found.one()._mapping)


async def count_waiting(connection: AsyncConnection, account: str, most: int) -> int:
    """Of its runs, those that nobody has begun; no more than `most` are counted."""
    waiting: int = await connection.scalar(
        text(f"""
        SELECT count(*) FROM (
            SELECT FROM ingestions WHERE {IS_UNCLAIMED} AND asked_by = :account LIMIT :most
        ) AS waiting
        """),
        {"account": account, "most": most},
    )
    return waiting


async def list_usage(
    connection: AsyncConnection, begin: datetime, end: datetime, account: str | None
) -> list[UsageOf]:
    """Of runs asked for between two times, on one account or on all; what is most comes first."""
    rows = await connection.execute(
        text(f"""
        SELECT coalesce(api_keys.name, asked_by) AS key, d.collection, {_SUMS}
        FROM ingestions i LEFT JOIN documents d ON d.id = i.document_id
            LEFT JOIN api_keys ON CAST(api_keys.id AS text) = asked_by
        WHERE i.created_at >= :begin AND i.created_at < :end
            AND (CAST(:account AS text) IS NULL OR asked_by = :account)
        GROUP BY asked_by, api_keys.name, d.collection
        ORDER BY documents DESC, asked_by, d.collection LIMIT {MOST_LISTED}
        """),
        {"begin": begin, "end": end, "account": account},
    )
    return [UsageOf(**row._mapping) for row in rows]


async def add_requests(connection: AsyncConnection, requests: Mapping[str, int]) -> None:
    """Add requests to those of this minute, by account. What is long past goes."""
    await connection.execute(
        text("""
        WITH gone AS (
            DELETE FROM request_counts WHERE ctid = ANY(ARRAY(
                SELECT ctid FROM request_counts WHERE minute < clock_timestamp() - interval '5 minutes'
                FOR UPDATE SKIP LOCKED
            ))
        )
        INSERT INTO request_counts AS known (account, minute, requests)
        SELECT account, date_trunc('minute', clock_timestamp()), requests
        FROM unnest(CAST(:accounts AS text[]), CAST(:requests AS int[])) AS new (account, requests)
        ORDER BY account
        ON CONFLICT (account, minute) DO UPDATE SET requests = known.requests + excluded.requests
        """),
        {"accounts": list(requests), "requests": list(requests.values())},
    )


async def list_requests(connection: AsyncConnection) -> dict[tuple[str, int], int]:
    """How many all processes have counted in this minute, by account and minute since 1970."""
    rows = await connection.execute(
        text("""
        SELECT account, CAST(extract(epoch FROM minute) / 60 AS int) AS minute, requests FROM request_counts
        WHERE minute = date_trunc('minute', clock_timestamp())
        """)
    )
    return {(row.account, row.minute): row.requests for row in rows}
