"""Whose turn it is: queues, one for each account and collection, are served in turn, whatever waits in them.

Each run gets the number of its turn when it is asked for: one more than the last that waits in its queue, and
no less than that of the run which is next of all. So a queue of 10,000 has one run in each turn, and who
comes new is served in the turn that is served now (start-time fair queueing). What is asked for at the very
same moment may get the same number: then a queue has a few runs in one turn.

An account whose work waits in many collections gains little: for each FREE_QUEUES of them its runs are a turn
further apart, so that it has about so many in each turn, and not a thousand with a thousand collections.

What is bulk has a queue of its own for each collection and takes one turn in BULK_TURNS: interactive work
goes before it and cannot starve it.

What was begun goes before all that is new. A run that was asked for by its path has no turn: who sent its
message, and may wait for its result, has it worked on by that message.
"""

from app.storage.runs.conditions import (
    IS_DUE,
    IS_IN_GOOD_COMPANY,
    IS_LANE_FREE,
    IS_SLOW,
    IS_UNCLAIMED,
)

BULK_TURNS = 8
FREE_QUEUES = 8  # as many collections as an account may have in work at once, and lose nothing

IS_FRESH = "status = 'queued' AND started_at IS NULL AND turn IS NOT NULL"
IN_TURN = "turn, is_bulk, created_at, id"

_MAY_BE_CLAIMED = f"""
    {IS_DUE} AND (NOT {IS_SLOW} OR {IS_LANE_FREE}) AND {IS_IN_GOOD_COMPANY}
    AND EXISTS (SELECT FROM documents WHERE latest_ingestion_id = ingestions.id)
"""
# Of :worker. Two lists, each along its index: 0.3 ms when 10,000 wait, 0.7 when 100,000 do.
NEXT = f"""
    begun AS (
        SELECT id FROM ingestions
        WHERE {IS_UNCLAIMED} AND started_at IS NOT NULL AND turn IS NOT NULL AND {_MAY_BE_CLAIMED}
        ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ), fresh AS (
        SELECT id FROM ingestions
        WHERE {IS_FRESH} AND NOT EXISTS (SELECT FROM begun) AND {_MAY_BE_CLAIMED}
        ORDER BY {IN_TURN} LIMIT 1 FOR UPDATE SKIP LOCKED
    ), next AS (SELECT id FROM begun UNION ALL SELECT id FROM fresh)
"""


def new_turn(queue: str, is_bulk: str, queues_before: str = "0") -> str:
    """The turn of what `:asked_by` asks for now; all are SQL. The next (`next_turn`) may be out of reach.

    `queues_before` are those of the account that get work by the same statement, which does not see them.
    """
    account, step = "CAST(:asked_by AS text)", turns_of(is_bulk)
    return f"""(
        SELECT greatest(
            (apart - 1) * {step},
            next_turn() + CASE WHEN {is_bulk} THEN {BULK_TURNS} ELSE 0 END + (apart - 1) * {step},
            (
                SELECT last.turn FROM ingestions AS last
                WHERE {IS_FRESH} AND last.asked_by = {account} AND last.queue = {queue}
                    AND last.is_bulk = {is_bulk}
                ORDER BY last.turn DESC LIMIT 1
            ) + apart * {step}
        ) FROM (
            SELECT 1 + (waiting_queues({account}) + {queues_before}) / {FREE_QUEUES} AS apart OFFSET 0
        ) AS account
    )"""


def turns_of(is_bulk: str) -> str:
    """How many turns apart two runs of a queue are, of an account that has few."""
    return f"CASE WHEN {is_bulk} THEN {BULK_TURNS} ELSE 1 END"
