"""Search in what is visible: the chunks of each document's live ingestion.

Each search is one statement over one snapshot, so a document that is being replaced meanwhile is seen
in its old version or in its new one, whole. Which plan it takes is chosen here, not by the planner:

- a short list (at most 5,000 visible chunks left by the filter) is compared with the question entirely;
- of a long list are compared the chunks of the documents that are most about the question, and those
  that indexes of vectors and of words bring from anywhere.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from sqlalchemy import Executable, bindparam
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import NullType

from app.pdf.pages import Box
from app.storage.chunks import boxes_from_json
from app.storage.filters import SearchFilter
from app.storage.ranking import NEAREST_CHUNKS, Ranking, listing, nearest
from app.storage.visible import Visible, begin_search
from app.storage.words import begin_question

PARTS = ("words", "vector", "document", "coverage", "phrase")

# Parameters of Postgres' own types, by how their names begin.
_TYPED = ("vector", "lexeme_", "candidates", "phrase")


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

    `matched` are words of the query that it has, `explain` the parts of its score, `places` its places from 1
    among all that were compared, by words alone and by meaning alone; `neighbours` is None unless they were
    asked for.
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
    places: dict[str, int] | None = None
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
    visible = await begin_search(connection, wanted)
    parameters = visible.parameters | {"vector": HalfVector(vector), "depth": limit, "limit": limit}
    ranked = f"""
        {listing(visible)}, {nearest(visible, space_id)},
        found AS (SELECT chunk_id, similarity AS score FROM nearest)
    """
    rows = await _find(connection, visible, ranked, parameters)
    return _at_least(min_score, [_hit(row) for row in rows])


async def search_text(
    connection: AsyncConnection,
    query: str,
    wanted: SearchFilter,
    limit: int,
    min_score: float | None = None,
) -> list[Hit]:
    """The chunks that answer a query best, by their words and their documents'. Scores are 0 to 1."""
    question, visible = await begin_question(connection, query, wanted)
    if not question.words:
        return []
    ranking = Ranking(question, visible, None)
    parameters = ranking.parameters | {"limit": limit}
    rows = await _find(connection, visible, ranking.statement(), parameters, ranking.held_words())
    return _at_least(min_score, [_ranked_hit(row, ranking) for row in rows])


async def search_hybrid(  # noqa: PLR0913, PLR0917 - a space and its vector, a query and its filter
    connection: AsyncConnection,
    space_id: int,
    vector: NDArray[np.float32],
    query: str,
    wanted: SearchFilter,
    limit: int,
    min_score: float | None = None,
    *,
    is_contextual: bool = False,
) -> list[Hit]:
    """The chunks that answer a query best, by their words, their documents' and their meaning: 0 to 1.

    Vectors of a contextual embedder weigh more.
    """
    question, visible = await begin_question(connection, query, wanted)
    ranking = Ranking(question, visible, space_id, is_contextual=is_contextual)
    parameters = ranking.parameters | {
        "vector": HalfVector(vector),
        "depth": max(limit, NEAREST_CHUNKS),
        "limit": limit,
    }
    rows = await _find(connection, visible, ranking.statement(), parameters, ranking.held_words())
    return _at_least(min_score, [_ranked_hit(row, ranking) for row in rows])


async def _find(
    connection: AsyncConnection, visible: Visible, ranked: str, parameters: dict[str, Any], held: str = "NULL"
) -> list[Any]:
    """The rows of the CTE `found(chunk_id, score, …)` and of their chunks, best first.

    A plan is kept with its connection and used for all questions of one shape. It is for a library of this
    scale: what was planned while there was nothing is not used when there is much.
    """
    statement = _statement(f"""
        /* scale {visible.scale} */ WITH {ranked}
        SELECT found.*, hit.* FROM found CROSS JOIN LATERAL (
            SELECT d.id AS document_id, i.filename, coalesce(d.title, i.title) AS title,
                c.page_start, c.page_end, c.text, c.boxes, c.heading, c.ordinal, {held} AS held
            FROM chunks c JOIN ingestions i ON i.id = c.ingestion_id
                JOIN documents d ON d.live_ingestion_id = i.id
            WHERE c.id = found.chunk_id OFFSET 0
        ) hit
        ORDER BY found.score DESC, found.chunk_id
    """)
    return list(await connection.execute(statement, parameters))


@lru_cache(maxsize=256)
def _statement(text: str) -> Executable:
    """Vectors and queries go as what they are cast to: as text they would be parsed for every chunk."""
    statement = sql(text)
    typed = [name for name in statement.compile().params if name.startswith(_TYPED)]
    return statement.bindparams(*(bindparam(name, type_=NullType()) for name in typed))


def _hit(row: Any, **more: Any) -> Hit:
    return Hit(
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
        **more,
    )


def _ranked_hit(row: Any, ranking: Ranking) -> Hit:
    parts = {part: float(value) for part in PARTS if (value := getattr(row, part)) is not None}
    places = {"words": row.words_place, "vector": row.vector_place}
    return _hit(
        row,
        matched=ranking.matched(row.held),
        explain=parts,
        places={name: place for name, place in places.items() if place is not None},
    )


def _at_least(min_score: float | None, hits: list[Hit]) -> list[Hit]:
    return hits if min_score is None else [hit for hit in hits if hit.score >= min_score]
