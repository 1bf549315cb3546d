"""Searching: a question becomes a vector, storage ranks chunks, a reranker may reorder the best of them."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from app.embeddings.base import Embedder
from app.errors import EmbeddingFailed
from app.services.grouping import GROUPED_HITS, best_of_documents
from app.services.outages import Outages
from app.services.query_vectors import QueryVectors
from app.services.reranking import RERANKED_HITS, Reranking
from app.storage import search
from app.storage.canonical import canonical
from app.storage.database import Database
from app.storage.filters import SearchFilter
from app.storage.neighbours import with_neighbours
from app.storage.search import Hit

log = structlog.get_logger(__name__)

Mode = Literal["hybrid", "vector", "text"]
LeftOut = Literal["embedder", "reranker"]


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a search, best first, and what failed and had to be left out."""

    hits: list[Hit]
    degraded: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search: what is asked, and how much of the answer is wanted.

    With a group size `limit` counts documents: each one's best chunks follow one another. With neighbours
    each hit has so many chunks before and after it.
    """

    query: str
    mode: Mode = "hybrid"
    filter: SearchFilter = field(default_factory=SearchFilter)
    limit: int = 10
    min_score: float | None = None
    group_size: int | None = None
    neighbours: int = 0

    def best_of(self, hits: list[Hit]) -> list[Hit]:
        if self.group_size is None:
            return hits[: self.limit]
        return best_of_documents(hits, self.limit, self.group_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searcher:
    """Answers searches over what is published."""

    database: Database
    embedder: Embedder
    space_id: int
    query_vectors: QueryVectors
    outages: Outages
    reranking: Reranking | None = None

    async def search(self, wanted: Search) -> Found:
        """The best chunks of the documents that pass the filter; no match is an empty list.

        While the embedder is out, words have to do, whose scores `min_score` is not about; not so where the
        question was asked before. Signs alone ask for nothing: to an embedder they are near to anything.
        """
        if not any(map(str.isalnum, canonical(wanted.query))):
            return Found([])
        vector = None if wanted.mode == "text" else await self._vector_in_time(wanted.query)
        if wanted.mode != "text" and vector is None:
            by_words = replace(wanted, mode="text", min_score=None)
            return Found((await self.search(by_words)).hits, ("embedder",))
        reranking = self.reranking if wanted.mode == "hybrid" else None
        depth = wanted.limit if wanted.group_size is None else GROUPED_HITS
        hits = await self._ranked(wanted, vector, max(depth, RERANKED_HITS if reranking else 0))
        if reranking is None or not hits:
            return Found(wanted.best_of(hits))
        reranked = await reranking.rerank(wanted.query, hits)
        if reranked is None:
            return Found(wanted.best_of(hits), ("reranker",))
        return Found(wanted.best_of(reranked))

    async def _vector_in_time(self, query: str) -> NDArray[np.float32] | None:
        if (known := self.query_vectors.known(query)) is not None:
            return known
        if await self.outages.has_any("embedder"):
            return None
        try:
            return await self.query_vectors.embedded(query)
        except EmbeddingFailed as error:
            log.warning("searching words only", reason=error.message)
            return None

    async def _ranked(self, wanted: Search, vector: NDArray[np.float32] | None, depth: int) -> list[Hit]:
        """The best `depth` hits; they and their neighbours are of one moment."""
        what = (wanted.filter, depth, wanted.min_score)
        async with self.database.snapshot(wanted.filter.reach) as connection:
            if vector is None:
                hits = await search.search_text(connection, wanted.query, *what)
            elif wanted.mode == "vector":
                hits = await search.search_vector(connection, self.space_id, vector, *what)
            else:
                is_contextual = self.embedder.is_contextual
                hits = await search.search_hybrid(
                    connection, self.space_id, vector, wanted.query, *what, is_contextual=is_contextual
                )
            return await with_neighbours(connection, hits, wanted.neighbours) if wanted.neighbours else hits
