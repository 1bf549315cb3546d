"""Services that all work needs and that are out, one row each, for the whole fleet.

While there is one, nothing is claimed (`runs.claim`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import Database
from app.storage.runs.conditions import IS_UNCLAIMED

MAX_PROBE_PAUSE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Outage:
    """A service that does not do its work, and why."""

    service: str
    reason: str
    since: datetime


async def begin_outage(connection: AsyncConnection, service: str, reason: str) -> bool:
    """Whether it is new. The first probe is due in a second."""
    begun = await connection.scalar(
        text(
            "INSERT INTO outages (service, reason, next_probe_at)"
            " VALUES (:service, :reason, clock_timestamp() + interval '1 second')"
            " ON CONFLICT DO NOTHING RETURNING true"
        ),
        {"service": service, "reason": reason},
    )
    return begun is not None


async def services_out(database: Database) -> set[str]:
    """Of all that is out the name alone: each search asks."""
    return {row.service for row in await database.fetch("SELECT service FROM outages")}


async def list_outages(connection: AsyncConnection) -> list[Outage]:
    rows = await connection.execute(text("SELECT service, reason, since FROM outages ORDER BY service"))
    return [Outage(**row._mapping) for row in rows]


async def take_probes(connection: AsyncConnection) -> Sequence[str]:
    """Services to try now; nobody else gets them until the next probe, after 2, 4, 8 … 30 seconds."""
    found = await connection.execute(
        text(f"""
        UPDATE outages SET probes = probes + 1, next_probe_at = clock_timestamp()
            + make_interval(secs => least({MAX_PROBE_PAUSE_SECONDS}, 2 ^ least(probes + 1, 10)))
        WHERE next_probe_at <= clock_timestamp() RETURNING service
        """)
    )
    return found.scalars().all()


async def note_reason(connection: AsyncConnection, service: str, reason: str) -> None:
    """What a probe has met, where it is another thing than before."""
    await connection.execute(
        text("UPDATE outages SET reason = :reason WHERE service = :service AND reason <> :reason"),
        {"service": service, "reason": reason},
    )


async def end_outage(connection: AsyncConnection, service: str) -> float | None:
    """How many seconds it took; None when there was none. What waits is announced at once."""
    seconds: float | None = await connection.scalar(
        text(f"""
        WITH over AS (DELETE FROM outages WHERE service = :service RETURNING since),
        waiting AS (
            UPDATE ingestions SET rung_at = NULL, rings = 0 FROM over
            WHERE {IS_UNCLAIMED} AND rings > 0
        )
        SELECT CAST(extract(epoch FROM clock_timestamp() - since) AS float8) FROM over
        """),
        {"service": service},
    )
    return seconds
