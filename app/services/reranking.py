"""Hits in the order of a reranker, or as they were when it fails: searching goes on without it."""

import asyncio
import time
from dataclasses import dataclass, field, replace

import structlog

from app.reranking.reranker import Reranker, RerankFailed
from app.services.headers import header
from app.storage.search import Hit

RERANKED_HITS = 50
PAUSE_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reranking:
    """A reranker and how long a search waits for it. After a failure it is left in peace for 10 s."""

    reranker: Reranker
    timeout_seconds: float
    _paused_until: float = field(default=0.0, init=False)

    async def rerank(self, query: str, hits: list[Hit]) -> list[Hit] | None:
        """The hits, best first, with the reranker's scores; None when it failed or is in its pause."""
        if time.monotonic() < self._paused_until:
            return None
        passages = [f"{header(hit.filename, hit.title, None)}\n{hit.text}" for hit in hits]
        try:
            async with asyncio.timeout(self.timeout_seconds):
                scores = await self.reranker.score(query, passages)
        except (RerankFailed, TimeoutError) as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("rerank_failed", reason=str(error) or f"no answer in {self.timeout_seconds:g} s")
            return None
        scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: hit.score, reverse=True)
