"""What a search may see, measured before it begins: by that its plan is chosen, not by the planner."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from sqlalchemy import Row
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.filters import SearchFilter

# Visible chunks that are all compared with the question: 6 us each with twelve words.
SHORT_LIST: Final = 5_000

# Visible documents that are all weighed for the question: 1 us each and word of it.
FEW_DOCUMENTS: Final = 500

# Documents that are counted, 0.1 us each; of more, statistics are near enough.
COUNTED_DOCUMENTS: Final = 10_000

# Collections that are named to a statement; more are found by their patterns.
MOST_NAMES: Final = 1_000

_SETTINGS: Final = {
    "plan_cache_mode": "force_custom_plan",  # a generic plan under a one-document filter: 1.2 of 10 rows
    "hnsw.iterative_scan": "relaxed_order",  # without it, after 15 replacements: 7.3 of 10 rows
    "hnsw.ef_search": "300",  # costs and finds what 200 did in an index of twice the links (spaces.py)
    "jit": "off",  # compiling takes longer than any statement here
}


@dataclass(frozen=True, slots=True)
class Visible:
    """What the filter leaves: its conditions over `documents d` and `versions i`, and how much that is.

    `documents_total` counts all published documents, filtered or not.
    """

    conditions: str
    parameters: dict[str, Any]
    is_short: bool
    has_few_documents: bool
    documents_total: int

    @classmethod
    def of(cls, row: Row[Any], conditions: str, parameters: dict[str, Any]) -> Self:
        """As a row of `beginning` tells it."""
        return cls(conditions, parameters, row.is_short, row.has_few_documents, row.documents_total)


async def with_names(connection: AsyncConnection, wanted: SearchFilter) -> SearchFilter:
    """The filter of a bound caller with the names of the collections in reach.

    Below a policy the planner may use no statistics of LIKE, but those of equal texts, and their index. With
    none as well a search by names takes half as long as one by patterns, in 29 of 100,000 documents.
    """
    reach = wanted.reach
    if reach.collections is None or reach.document_ids is not None:
        return wanted
    found = await connection.scalars(
        sql(
            f"SELECT name FROM collections WHERE name IS NOT NULL AND {reach.sql_of_collections('name')}"
            f" LIMIT {MOST_NAMES + 1}"
        ),
        reach.parameters,
    )
    names = tuple(found)
    return wanted if len(names) > MOST_NAMES else replace(wanted, names=names)


async def begin_search(connection: AsyncConnection, wanted: SearchFilter) -> Visible:
    """Set up the transaction for searching and measure what is visible, in one round trip."""
    wanted = await with_names(connection, wanted)
    conditions, parameters = wanted.sql()
    found = await connection.execute(sql(beginning(conditions)), parameters)
    return Visible.of(found.one(), conditions, parameters)


def beginning(conditions: str) -> str:
    """The statement that does both, with one row."""
    return _BEGIN.format(visible=conditions)


# The windows add up documents in the order of an index and end with the first that is too much.
_MEASURE: Final = """
    SELECT FROM (
        SELECT {sum} OVER (ORDER BY d.id ROWS UNBOUNDED PRECEDING) AS up_to_here
        FROM documents d JOIN versions i ON i.id = d.live_ingestion_id WHERE {{visible}}
    ) measured WHERE up_to_here > {limit}
"""
_SET: Final = " || ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())
_BEGIN: Final = f"""
    SELECT {_SET} AS settings,
        NOT EXISTS ({_MEASURE.format(sum="sum(i.chunks)", limit=SHORT_LIST)}) AS is_short,
        NOT EXISTS ({_MEASURE.format(sum="count(*)", limit=FEW_DOCUMENTS)}) AS has_few_documents,
        CASE WHEN counted < {COUNTED_DOCUMENTS} THEN counted ELSE greatest(counted, (
            SELECT CAST(reltuples AS int) FROM pg_class WHERE oid = CAST('documents' AS regclass)
        )) END AS documents_total
    FROM (SELECT published_documents({COUNTED_DOCUMENTS}) AS counted OFFSET 0) documents
"""
