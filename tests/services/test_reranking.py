"""The order of hits when a reranker answers, fails, or takes too long; its server is a transport."""

import asyncio
import json
from uuid import uuid4

import httpx

from app.reranking.over_http import HTTPReranker
from app.services.reranking import Reranking
from app.storage.search import Hit


def hit(text: str, score: float) -> Hit:
    return Hit(
        chunk_id=uuid4(),
        document_id=uuid4(),
        filename="rivers_of_europe.pdf",
        title="Rivers",
        page_start=1,
        page_end=1,
        text=text,
        score=score,
        boxes=(),
        heading=None,
        ordinal=0,
    )


HITS = [hit("The Rhine.", 0.9), hit("The Danube.", 0.8), hit("The Danube, and the Danube.", 0.7)]


class DanubeServer:
    """Scores passages by how often they name the Danube."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_seconds = 0.0
        self.passages: list[list[str]] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        passages = json.loads(request.content)["documents"]
        self.passages.append(passages)
        await asyncio.sleep(self.delay_seconds)
        scores = [{"index": n, "relevance_score": text.count("Danube")} for n, text in enumerate(passages)]
        return httpx.Response(self.status, json={"results": scores})

    def reranking(self, timeout_seconds: float = 5) -> Reranking:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        reranker = HTTPReranker(client, base_url="http://reranker", api_key=None, model=None)
        return Reranking(reranker, timeout_seconds)


async def test_hits_take_the_order_and_the_scores_of_the_reranker() -> None:
    server = DanubeServer()
    reranked = await server.reranking().rerank("Danube", HITS)
    assert reranked is not None
    assert [(hit.text, hit.score) for hit in reranked] == [
        ("The Danube, and the Danube.", 2),
        ("The Danube.", 1),
        ("The Rhine.", 0),
    ]
    assert server.passages[0][0] == "rivers of europe · Rivers\nThe Rhine."


async def test_equal_scores_keep_the_order_of_the_search() -> None:
    again = [hit("The Danube.", score) for score in (0.9, 0.8, 0.7)]
    reranked = await DanubeServer().reranking().rerank("Danube", again)
    assert [hit.chunk_id for hit in reranked or []] == [hit.chunk_id for hit in again]


async def test_a_reranker_that_failed_is_left_in_peace_for_a_while() -> None:
    server = DanubeServer()
    server.status = 503
    reranking = server.reranking()
    assert await reranking.rerank("Danube", HITS) is None
    assert await reranking.rerank("Danube", HITS) is None
    assert len(server.passages) == 1
    server.status = 200
    assert await server.reranking().rerank("Danube", HITS) is not None


async def test_a_search_waits_for_a_slow_reranker_no_longer_than_its_limit() -> None:
    server = DanubeServer()
    server.delay_seconds = 30
    async with asyncio.timeout(5):
        assert await server.reranking(timeout_seconds=0.1).rerank("Danube", HITS) is None
