"""The turns of all who ask the embedding server, in one row, by the clock of the database.

A turn is a moment: the one after the turn given out before it, as late as that one's cost demands (the
generic cell rate algorithm, without bursts: servers refuse sixty requests in the first second of a minute).
What comes in between, a query or a pause, puts off all turns that are given out and not yet there:
`delayed_seconds`, which only grows, tells each who waits by how much.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_NOW = "clock_timestamp()"
_COST = "make_interval(secs => :cost_seconds)"


@dataclass(frozen=True, slots=True)
class Turn:
    """In how many seconds it is; and the sum of all delays so far, with which a later one is compared."""

    seconds: float
    delayed_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Its end, and for how many seconds it holds up what is urgent, too."""

    until: datetime
    urgent_seconds: float


async def take_turn(connection: AsyncConnection, cost_seconds: float) -> Turn:
    """Behind all who have asked before. `cost_seconds`: how long the next one has to stay behind this one."""
    row = await connection.execute(
        text(f"""
        INSERT INTO embedding_budget AS budget (next_at) VALUES ({_NOW} + {_COST})
        ON CONFLICT (id) DO UPDATE SET next_at = greatest(budget.next_at, {_NOW}) + {_COST}
        RETURNING greatest(0, extract(epoch FROM next_at - {_COST} - {_NOW}))::float8, delayed_seconds
        """),
        {"cost_seconds": cost_seconds},
    )
    return Turn(*row.one())


async def take_urgent_turn(
    connection: AsyncConnection, cost_seconds: float, longest_seconds: float
) -> float | None:
    """Behind others that are urgent, and before all that are not: seconds. None if it takes too long."""
    seconds: float | None = await connection.scalar(
        text(f"""
        INSERT INTO embedding_budget AS budget (next_at, next_urgent_at)
        VALUES ({_NOW} + {_COST}, {_NOW} + {_COST})
        ON CONFLICT (id) DO UPDATE SET
            next_urgent_at = greatest(budget.next_urgent_at, {_NOW}) + {_COST},
            next_at = greatest(budget.next_at, {_NOW}) + {_COST},
            delayed_seconds = budget.delayed_seconds + :cost_seconds
        WHERE budget.next_urgent_at < {_NOW} + make_interval(secs => :longest_seconds)
        RETURNING greatest(0, extract(epoch FROM next_urgent_at - {_COST} - {_NOW}))::float8
        """),
        {"cost_seconds": cost_seconds, "longest_seconds": longest_seconds},
    )
    return seconds


async def delayed_seconds(connection: AsyncConnection) -> float:
    """By how much turns have been put off, in sum; after a crash of the server it begins anew at 0."""
    return await connection.scalar(text("SELECT delayed_seconds FROM embedding_budget")) or 0.0


async def pause(connection: AsyncConnection, seconds: float, *, spares_urgent: bool) -> None:
    """Nobody's turn comes sooner, or nobody's but what is urgent; one pause within another adds nothing."""
    until = f"{_NOW} + make_interval(secs => :seconds)"
    left = f"greatest(interval '0', {until} - greatest(budget.paused_until, {_NOW}))"
    await connection.execute(
        text(f"""
        INSERT INTO embedding_budget AS budget (next_at, next_urgent_at, paused_until)
        VALUES ({until}, CASE WHEN :spares_urgent THEN '-infinity' ELSE {until} END, {until})
        ON CONFLICT (id) DO UPDATE SET
            paused_until = greatest(budget.paused_until, {_NOW}) + {left},
            next_at = greatest(budget.next_at, {_NOW}) + {left},
            next_urgent_at = greatest(budget.next_urgent_at, excluded.next_urgent_at),
            delayed_seconds = budget.delayed_seconds + extract(epoch FROM {left})
        """),
        {"seconds": seconds, "spares_urgent": spares_urgent},
    )


async def find_pause(connection: AsyncConnection) -> Pause | None:
    """The pause that the server has asked for, if it is not over."""
    found = await connection.execute(
        text(f"""
        SELECT paused_until AS until,
            extract(epoch FROM greatest(next_urgent_at, {_NOW}) - {_NOW})::float8 AS urgent_seconds
        FROM embedding_budget WHERE paused_until > {_NOW}
        """)
    )
    row = found.one_or_none()
    return None if row is None else Pause(row.until, row.urgent_seconds)


async def is_used_up(connection: AsyncConnection) -> bool:
    """Whether a turn taken now would lie in the future."""
    return bool(await connection.scalar(text(f"SELECT next_at > {_NOW} FROM embedding_budget")))
