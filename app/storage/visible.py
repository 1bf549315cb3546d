"""What a search may see, measured before it begins: by that its plan is chosen, not by the planner."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self

from sqlalchemy import Row
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.filters import SearchFilter
from app.storage.reach import find_names

# Visible chunks that are all compared with the question: 6 us each with twelve words.
SHORT_LIST: Final = 5_000

# Visible chunks whose vectors are all compared, at 0.7 us each: a fifth of all, at most so many. The index
# would look through five times as many as it brings, and miss more.
MOST_COMPARED: Final = 20_000

# Visible documents that are all weighed for the question: 1 us each and word of it.
FEW_DOCUMENTS: Final = 500

# Documents that are counted, 0.1 us each; of more, statistics are near enough.
COUNTED_DOCUMENTS: Final = 10_000

_SETTINGS: Final = {
    "plan_cache_mode": "force_generic_plan",  # planning anew takes 6 ms
    "enable_seqscan": "off",  # a plan made while a table was empty would read all of it later
    "hnsw.iterative_scan": "relaxed_order",  # without it, after 15 replacements: 7.3 of 10 rows
    "hnsw.ef_search": "300",  # costs and finds what 200 did in an index of twice the links (spaces.py)
    "jit": "off",  # compiling takes longer than any statement here
}


@dataclass(frozen=True, slots=True)
class Visible:
    """What the filter leaves: its conditions over `documents d` and `versions i`, and how much that is.

    `is_short`: all is compared; `is_narrow`: all vectors are. `documents_total` counts all published
    documents, filtered or not; `scale` is the logarithm of the size of the library.
    """

    conditions: str
    parameters: dict[str, Any]
    is_short: bool
    is_narrow: bool
    has_few_documents: bool
    documents_total: int
    scale: int

    @classmethod
    def of(cls, row: Row[Any], conditions: str, parameters: dict[str, Any]) -> Self:
        """As a row of `beginning` tells it."""
        return cls(
            conditions,
            parameters,
            is_short=row.is_short,
            is_narrow=row.is_short or row.is_narrow,
            has_few_documents=row.has_few_documents,
            documents_total=row.documents_total,
            scale=row.scale,
        )


async def with_names(connection: AsyncConnection, wanted: SearchFilter) -> SearchFilter:
    """The filter of a bound caller with the names of the collections in reach.

    With no policy a search by names takes half as long as one by patterns, too, in 29 of 100,000 documents.
    """
    names = await find_names(connection, wanted.reach)
    return wanted if names is None else replace(wanted, names=names)


async def begin_search(connection: AsyncConnection, wanted: SearchFilter) -> Visible:
    """Set up the transaction for searching and measure what is visible, in one round trip."""
    wanted = await with_names(connection, wanted)
    conditions, parameters = wanted.sql()
    found = await connection.execute(sql(beginning(wanted, conditions)), parameters)
    return Visible.of(found.one(), conditions, parameters)


def beginning(wanted: SearchFilter, conditions: str) -> str:
    """The statement that does both, with one row."""
    is_narrow = "false" if wanted == SearchFilter() else _IS_NARROW
    return _BEGIN.format(visible=conditions, is_narrow=is_narrow.format(visible=conditions))


# What is visible; each version is looked up by its key, however few there were when this was planned.
LIVE: Final = """
    FROM documents d CROSS JOIN LATERAL (
        SELECT * FROM versions WHERE id = d.live_ingestion_id OFFSET 0
    ) i WHERE {visible}
"""


def _is_at_most(limit: int | str, summed: str) -> str:
    """SQL. The window adds up documents in the order of an index and ends with the first that is too much."""
    return f"""NOT EXISTS (
        SELECT FROM (
            SELECT {summed} OVER (ORDER BY d.id ROWS UNBOUNDED PRECEDING) AS up_to_here {LIVE}
        ) measured WHERE up_to_here > {limit}
    )"""


_PAGES: Final = "pg_relation_size('chunks') / 8192"  # of some four chunks
# To read a document takes as long as to compare two vectors.
_IS_NARROW: Final = _is_at_most(f"least({MOST_COMPARED}, {_PAGES} * 4 / 5)", "sum(i.chunks + 2)")
_SET: Final = " || ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())
_BEGIN: Final = f"""
    SELECT {_SET} AS settings,
        {_is_at_most(SHORT_LIST, "sum(i.chunks)")} AS is_short,
        {{is_narrow}} AS is_narrow,
        {_is_at_most(FEW_DOCUMENTS, "count(*)")} AS has_few_documents,
        CASE WHEN counted < {COUNTED_DOCUMENTS} THEN counted ELSE greatest(counted, (
            SELECT CAST(reltuples AS int) FROM pg_class WHERE oid = CAST('documents' AS regclass)
        )) END AS documents_total,
        CAST(ln(greatest(1, {_PAGES})) AS int) AS scale
    FROM (SELECT published_documents({COUNTED_DOCUMENTS}) AS counted OFFSET 0) documents
"""
