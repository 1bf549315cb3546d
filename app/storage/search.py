"""Search in what is visible: the chunks of each document's live ingestion.

Each search is one statement over one snapshot, so a document that is being replaced meanwhile is seen
in its old version or in its new one, whole. Which plan it takes is chosen here, not by the planner:

- a short list (at most 5,000 visible chunks left by the filter) is compared with the query entirely;
- a long list goes through an index, which gives candidates only. When the filter hides so many of them
  that fewer than `limit` are left, a thorough part of the same statement runs, else it costs nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import NullType

from app.pdf.pages import Box
from app.storage.chunks import TEXT_SEARCH_CONFIG, boxes_from_json, embeddings_table
from app.storage.database import halfvecs
from app.storage.filters import SearchFilter
from app.storage.words import Words, find_words

SHORT_LIST: Final = 5_000
"""Visible chunks that are compared one by one: 1-9 ms at 256 dimensions, recall 1."""

RANKED_CHUNKS: Final = 10_000
"""Chunks of a long list that are ranked for their words, at most: 2.4 us each."""

FUSED_CHUNKS: Final = 100
"""Length of each of the two lists that hybrid search fuses."""

RRF_K: Final = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

_SETTINGS: Final = {
    "plan_cache_mode": "force_custom_plan",  # a generic plan under a one-document filter: 1.2 of 10 rows
    "hnsw.iterative_scan": "relaxed_order",  # without it, after 15 replacements: 7.3 of 10 rows
    "hnsw.ef_search": "200",  # recall 0.964; with 100: 0.934
    "jit": "off",  # compiling takes longer than any statement here
}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A chunk before or after a hit; pages count from 1."""

    ordinal: int
    page_start: int
    page_end: int
    heading: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found; `boxes` are (page number, box) of its lines. A higher score is better.

    `matched` are words of the query that it has, `explain` the parts of its score; `neighbours` is None
    unless they were asked for.
    """

    chunk_id: UUID
    document_id: UUID
    filename: str
    title: str | None
    page_start: int
    page_end: int
    text: str
    score: float
    boxes: tuple[tuple[int, Box], ...]
    heading: str | None
    ordinal: int
    matched: tuple[str, ...] = ()
    explain: dict[str, float] | None = None
    neighbours: tuple[Neighbour, ...] | None = None


async def search_vector(
    connection: AsyncConnection,
    space_id: int,
    vector: NDArray[np.float32],
    wanted: SearchFilter,
    limit: int,
    min_score: float | None = None,
) -> list[Hit]:
    """The chunks nearest to a vector of length 1. Scores are cosine similarities, -1 to 1."""
    visible = await _begin(connection, wanted)
    hits = await _find(
        connection,
        f"{_nearest(visible, space_id)}, {_ONLY.format(ranked='nearest')}",
        visible.parameters | {"vector": _halfvec(vector), "depth": limit, "limit": limit},
    )
    return _at_least(min_score, hits)


async def search_text(
    connection: AsyncConnection,
    query: str,
    wanted: SearchFilter,
    limit: int,
    min_score: float | None = None,
) -> list[Hit]:
    """The chunks that have any of the words, by ts_rank. Scores are above 0 and below 1."""
    words = await find_words(connection, query)
    if not words.any_word:
        return []
    visible = await _begin(connection, wanted)
    hits = await _find(
        connection,
        f"{_matching(visible, words)}, {_ONLY.format(ranked='matching')}",
        visible.parameters | asdict(words) | {"depth": limit, "limit": limit},
    )
    return _at_least(min_score, hits)


async def search_hybrid(
    connection: AsyncConnection,
    space_id: int,
    vector: NDArray[np.float32],
    query: str,
    wanted: SearchFilter,
    limit: int,
) -> list[Hit]:
    """The chunks nearest in meaning and those best in words, fused by their places in the two lists.

    Scores are sums of 1 / (60 + place) over the lists that hold the chunk. One that has the query's words
    in the query's order counts as first of a third list: who quotes a sentence looks for its place.
    """
    words = await find_words(connection, query)
    visible = await _begin(connection, wanted)
    depth = max(limit, FUSED_CHUNKS)
    return await _find(
        connection,
        f"{_nearest(visible, space_id)}, {_matching(visible, words)}, {_FUSED}",
        visible.parameters
        | asdict(words)
        | {"query": query, "vector": _halfvec(vector), "depth": depth, "limit": limit},
    )


@dataclass(frozen=True, slots=True)
class _Visible:
    """What the filter leaves: its conditions, their parameters, and whether that is little."""

    conditions: str
    parameters: dict[str, Any]
    is_short: bool


async def _begin(connection: AsyncConnection, wanted: SearchFilter) -> _Visible:
    """Set up the transaction and measure the list, in one round trip.

    The window adds up documents in the order of an index and ends with the first that is too much.
    """
    conditions, parameters = wanted.sql()
    found = await connection.execute(sql(_BEGIN.format(visible=conditions)), parameters)
    return _Visible(conditions, parameters, found.one().is_short)


_BEGIN: Final = f"""
    SELECT {", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())},
        NOT EXISTS (
            SELECT FROM (
                SELECT sum(i.chunks) OVER (ORDER BY d.id ROWS UNBOUNDED PRECEDING) AS chunks
                FROM documents d JOIN ingestions i ON i.id = d.live_ingestion_id WHERE {{visible}}
            ) counted WHERE chunks > {SHORT_LIST}
        ) AS is_short
"""


def _nearest(visible: _Visible, space_id: int) -> str:
    """CTEs that end in `nearest(chunk_id, score)`: the :depth chunks nearest to :vector."""
    of_all = _NEAREST_OF_ALL.replace("{vectors}", embeddings_table(space_id))
    by_index = _NEAREST_BY_INDEX.replace("{vectors}", embeddings_table(space_id))
    return _ranked("nearest", visible, quick=None if visible.is_short else by_index, thorough=of_all)


_NEAREST_OF_ALL: Final = """
    SELECT chunk_id, score FROM documents d JOIN ingestions i ON i.id = d.live_ingestion_id
    CROSS JOIN LATERAL (
        SELECT chunk_id, -(embedding <#> CAST(:vector AS halfvec)) AS score
        FROM {vectors} WHERE ingestion_id = d.live_ingestion_id OFFSET 0
    ) compared
    WHERE {visible} ORDER BY score DESC LIMIT :depth
"""
_NEAREST_BY_INDEX: Final = """
    SELECT chunk_id, -(embedding <#> CAST(:vector AS halfvec)) AS score
    FROM {vectors} JOIN documents d ON d.live_ingestion_id = ingestion_id
        JOIN ingestions i ON i.id = d.live_ingestion_id
    WHERE {visible} ORDER BY embedding <#> CAST(:vector AS halfvec) LIMIT :depth
"""


def _matching(visible: _Visible, words: Words) -> str:
    """CTEs that end in `matching(chunk_id, score)`: the :depth chunks that rank highest for the words."""
    if visible.is_short:
        return _ranked("matching", visible, quick=None, thorough=_MATCHING_OF_ALL)
    any_word = _MATCHING_BY_INDEX.replace("{words}", ":any_word")
    candidates = _MATCHING_BY_INDEX.replace("{words}", ":candidates")
    has_all = words.candidates == words.any_word
    return _ranked("matching", visible, quick=None if has_all else candidates, thorough=any_word)


# Each OFFSET 0 keeps the planner from scanning the index of words once per document: 4-8 ms each.
_MATCHING_OF_ALL: Final = """
    SELECT chunk_id, ts_rank(tsv, CAST(:any_word AS tsquery)) AS score
    FROM documents d JOIN ingestions i ON i.id = d.live_ingestion_id CROSS JOIN LATERAL (
        SELECT id AS chunk_id, tsv FROM chunks WHERE ingestion_id = d.live_ingestion_id OFFSET 0
    ) chunk
    WHERE tsv @@ CAST(:any_word AS tsquery) AND {visible} ORDER BY score DESC, chunk_id LIMIT :depth
"""
_MATCHING_BY_INDEX: Final = f"""
    SELECT chunk_id, ts_rank(tsv, CAST(:any_word AS tsquery)) AS score FROM (
        SELECT chunk_id, tsv FROM (
            SELECT id AS chunk_id, ingestion_id, tsv FROM chunks
            WHERE tsv @@ CAST({{words}} AS tsquery) OFFSET 0
        ) chunk JOIN documents d ON d.live_ingestion_id = ingestion_id
            JOIN ingestions i ON i.id = d.live_ingestion_id
        WHERE {{visible}} LIMIT {RANKED_CHUNKS}
    ) matched
    ORDER BY score DESC, chunk_id LIMIT :depth
"""


def _ranked(name: str, visible: _Visible, quick: str | None, thorough: str) -> str:
    """CTEs that end in `name`: the quick list, joined by the thorough one if it has under :limit rows."""
    if quick is None:
        return f"{name} AS MATERIALIZED ({thorough.replace('{visible}', visible.conditions)})"
    is_needed = f"(SELECT count(*) FROM quick_{name}) < :limit"
    return f"""
        quick_{name} AS MATERIALIZED ({quick.replace("{visible}", visible.conditions)}),
        thorough_{name} AS MATERIALIZED (
            {thorough.replace("{visible}", f"{visible.conditions} AND {is_needed}")}
        ),
        {name} AS MATERIALIZED (
            SELECT * FROM quick_{name} UNION SELECT * FROM thorough_{name}
            ORDER BY score DESC, chunk_id LIMIT :depth
        )
    """


_ONLY: Final = "found AS (SELECT chunk_id, score FROM {ranked})"
_FUSED: Final = f"""
    found AS (
        SELECT chunk_id, sum(1.0 / ({RRF_K} + place)) AS score FROM (
            SELECT chunk_id, row_number() OVER (ORDER BY score DESC, chunk_id) AS place FROM nearest
            UNION ALL
            SELECT chunk_id, row_number() OVER (ORDER BY score DESC, chunk_id) AS place FROM matching
            UNION ALL
            SELECT chunk_id, 1 AS place FROM matching JOIN chunks ON id = chunk_id
            WHERE tsv @@ phraseto_tsquery('{TEXT_SEARCH_CONFIG}', CAST(:query AS text))
        ) placed
        GROUP BY chunk_id ORDER BY score DESC, chunk_id LIMIT :limit
    )
"""


async def _find(connection: AsyncConnection, ranked: str, parameters: dict[str, Any]) -> list[Hit]:
    """The hits of the CTE `found(chunk_id, score)`, best first."""
    statement = sql(f"""
        WITH {ranked}
        SELECT found.chunk_id, d.id AS document_id, i.filename, i.title, c.page_start, c.page_end, c.text,
            found.score, c.boxes, c.heading, c.ordinal
        FROM found JOIN chunks c ON c.id = found.chunk_id JOIN ingestions i ON i.id = c.ingestion_id
            JOIN documents d ON d.live_ingestion_id = i.id
        ORDER BY found.score DESC, found.chunk_id
    """)
    if "vector" in parameters:  # bytes would be sent as bytea
        statement = statement.bindparams(bindparam("vector", type_=NullType()))
    rows = await connection.execute(statement.columns(boxes=JSONB), parameters)
    return [
        Hit(
            chunk_id=row.chunk_id,
            document_id=row.document_id,
            filename=row.filename,
            title=row.title,
            page_start=row.page_start,
            page_end=row.page_end,
            text=row.text,
            score=float(row.score),
            boxes=boxes_from_json(row.boxes),
            heading=row.heading,
            ordinal=row.ordinal,
        )
        for row in rows
    ]


def _halfvec(vector: NDArray[np.float32]) -> bytes:
    return halfvecs(vector[np.newaxis])[0]


def _at_least(min_score: float | None, hits: list[Hit]) -> list[Hit]:
    return hits if min_score is None else [hit for hit in hits if hit.score >= min_score]
