"""Reranking by servers that speak as Cohere, Jina, vLLM and TEI do."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.reranking import open_reranker
from app.reranking.over_http import HTTPReranker
from app.reranking.reranker import RerankFailed

PASSAGES = ["none", "river river", "river", "of bread"]
SCORES = [0.0, 2.0, 1.0, 0.0]


def entries(passages: list[str], name: str) -> list[dict[str, Any]]:
    """How often each passage says river, best first, as rerankers answer."""
    scored = [{"index": index, name: float(text.count("river"))} for index, text in enumerate(passages)]
    return sorted(scored, key=lambda entry: entry[name], reverse=True)


class Server:
    """Answers as a kind of server does, and remembers what it was asked."""

    def __init__(self, answer: Callable[[dict[str, Any]], httpx.Response]) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers = httpx.Headers()
        self.path = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        self.headers, self.path = request.headers, request.url.path
        return self.answer(self.asked[-1])

    def reranker(self, base_url: str = "http://reranker/v1", **options: Any) -> HTTPReranker:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return HTTPReranker(client, base_url=base_url, **({"api_key": None, "model": "stub"} | options))


def cohere(asked: dict[str, Any]) -> httpx.Response:
    """Jina and vLLM, too."""
    if "documents" not in asked or "model" not in asked:
        return httpx.Response(400, json={"message": "invalid request"})
    return httpx.Response(200, json={"results": entries(asked["documents"], "relevance_score")})


def voyage(asked: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"data": entries(asked["documents"], "relevance_score")})


def tei(asked: dict[str, Any]) -> httpx.Response:
    if "texts" not in asked:
        return httpx.Response(422, text="Failed to deserialize the JSON body: missing field `texts`")
    if len(asked["texts"]) > 32:
        return httpx.Response(422, json={"error": "batch size 50 > maximum allowed batch size 32"})
    return httpx.Response(200, json=entries(asked["texts"], "score"))


@pytest.mark.parametrize("kind", [cohere, voyage, tei])
async def test_scores_come_in_the_order_of_the_passages(
    kind: Callable[[dict[str, Any]], httpx.Response],
) -> None:
    server = Server(kind)
    reranker = server.reranker()
    assert await reranker.score("river", PASSAGES) == SCORES
    assert await reranker.score("river", PASSAGES[1:]) == SCORES[1:]
    assert server.path == "/v1/rerank"
    assert server.asked[-1]["query"] == "river"
    assert await reranker.score("river", []) == []


async def test_a_server_is_asked_in_its_own_way_from_the_second_time_on() -> None:
    server = Server(tei)
    reranker = server.reranker()
    fifty = ["none", "river"] * 25
    assert await reranker.score("river", fifty) == [0.0, 1.0] * 25
    learnt = len(server.asked)
    assert await reranker.score("river", fifty) == [0.0, 1.0] * 25
    assert [len(asked["texts"]) for asked in server.asked[learnt:]] == [25, 25]
    assert all(asked["truncate"] for asked in server.asked[learnt:])


async def test_key_and_model_are_sent_when_there_are_any() -> None:
    server = Server(cohere)
    await server.reranker(api_key=SecretStr(" secret ")).score("river", PASSAGES)
    assert server.headers["Authorization"] == "Bearer secret"
    assert server.asked[0]["model"] == "stub"
    server = Server(tei)
    await server.reranker(model=None).score("river", PASSAGES)
    assert "Authorization" not in server.headers
    assert all("model" not in asked for asked in server.asked)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_a_server_that_says_no_is_not_asked_again(status: int) -> None:
    server = Server(lambda asked: httpx.Response(status))
    with pytest.raises(RerankFailed, match=f"HTTP {status}"):
        await server.reranker().score("river", PASSAGES)
    assert len(server.asked) == 1


async def test_a_server_that_refuses_everything_is_asked_a_bounded_number_of_times() -> None:
    server = Server(lambda asked: httpx.Response(422))
    with pytest.raises(RerankFailed, match="HTTP 422"):
        await server.reranker().score("river", ["river"] * 50)
    assert len(server.asked) <= 14


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"null",
        b"{}",
        b'{"results": 3}',
        b'{"results": [{"index": 0}]}',
        b'{"results": [{"index": 0, "relevance_score": 1}]}',
        b'[{"index": 0, "score": 1}, {"index": 2, "score": 1}]',
        b'[{"index": 0, "score": 1}, {"index": 1, "score": "NaN"}]',
        b'[{"index": 0, "score": 1}, {"index": 1, "score": null}]',
    ],
)
async def test_an_answer_without_a_score_for_each_passage_is_a_failure(content: bytes) -> None:
    server = Server(lambda asked: httpx.Response(200, content=content))
    with pytest.raises(RerankFailed):
        await server.reranker().score("river", ["one", "two"])


async def test_a_server_that_is_not_there_is_a_failure() -> None:
    def refuse(asked: dict[str, Any]) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RerankFailed, match="no answer"):
        await Server(refuse).reranker().score("river", PASSAGES)


async def test_an_answer_much_longer_than_the_question_is_a_failure() -> None:
    content = b"[" + b" " * 1_000_000 + json.dumps(entries(PASSAGES, "score")).encode()[1:]
    with pytest.raises(RerankFailed, match="no answer"):
        await Server(lambda asked: httpx.Response(200, content=content)).reranker().score("river", PASSAGES)


async def test_reranking_can_be_off() -> None:
    async with open_reranker(provider="off") as reranker:
        assert reranker is None
