"""Reranking over HTTP, with any server that has `POST /rerank`: Cohere, Jina, vLLM, TEI."""

import math
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from app.embeddings.answers import post
from app.reranking.reranker import RerankFailed

_OTHERWISE = frozenset({400, 413, 422})  # what servers say to fields they miss and to too many passages
# Some servers send the passages back; they may write a letter as `\u00e9`.
_TIMES_ASKED = 6
_BYTES_BESIDES = 100_000


class HTTPReranker:
    """Cohere, Jina and vLLM want `documents` and a `model`, TEI `texts`, and by default at most 32 of them.

    A server that refuses the one is asked the other way, one that still refuses with half of the passages;
    what it accepts is kept for later requests. Nothing is asked twice: whoever searches is waiting.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, base_url: str, api_key: SecretStr | None, model: str | None
    ) -> None:
        self._client = client
        self._url = f"{base_url.rstrip('/')}/rerank"
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key.get_secret_value().strip()}"
        self._model = {"model": model} if model else {}
        self._wants_texts: bool | None = None  # not known yet
        self._most_passages: int | None = None

    async def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """One score for each passage. Raises RerankFailed."""
        scores: list[float] = []
        most = self._most_passages or max(1, len(passages))
        for start in range(0, len(passages), most):
            scores += await self._scores(query, list(passages[start : start + most]))
        return scores

    async def _scores(self, query: str, passages: list[str]) -> list[float]:
        response = await self._ask(query, passages, wants_texts=bool(self._wants_texts))
        if response.status_code in _OTHERWISE and self._wants_texts is None:
            response = await self._ask(query, passages, wants_texts=True)
        if response.status_code in _OTHERWISE and len(passages) > 1:
            half = (len(passages) + 1) // 2
            scores = await self._scores(query, passages[:half]) + await self._scores(query, passages[half:])
            self._most_passages = min(self._most_passages or half, half)
            return scores
        if not response.is_success:
            raise RerankFailed(f"HTTP {response.status_code}")
        return _read(response.content, len(passages))

    async def _ask(self, query: str, passages: list[str], *, wants_texts: bool) -> httpx.Response:
        named = {"texts": passages, "truncate": True} if wants_texts else {"documents": passages}
        body = orjson.dumps({**self._model, "query": query, **named})
        most_bytes = _BYTES_BESIDES + _TIMES_ASKED * len(body)
        try:
            response = await post(self._client, self._url, body, self._headers, most_bytes)
        except httpx.HTTPError as error:
            raise RerankFailed(f"no answer ({type(error).__name__})") from error
        if response.is_success:
            self._wants_texts = wants_texts
        return response


def _read(content: bytes, count: int) -> list[float]:
    """`[{"index", "score"}]`, or the same with `relevance_score` under `results` or `data`; in any order."""
    try:
        answer: Any = orjson.loads(content)
        entries = answer if isinstance(answer, list) else answer.get("results", answer.get("data"))
        scores = {int(entry["index"]): _score(entry) for entry in entries}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RerankFailed(f"an answer that makes no sense ({error!r})") from error
    if set(scores) != set(range(count)) or not all(map(math.isfinite, scores.values())):
        raise RerankFailed(f"scores of {len(scores)} passages, not of {count}, or one that is no number")
    return [scores[index] for index in range(count)]


def _score(entry: dict[str, Any]) -> float:
    return float(entry["relevance_score"] if "relevance_score" in entry else entry["score"])
