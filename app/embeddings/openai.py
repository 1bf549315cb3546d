"""Embedding over HTTP, with any server that speaks OpenAI's `/embeddings`."""

import asyncio
import base64
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np
import orjson
import structlog
from numpy.typing import NDArray
from pydantic import SecretStr
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)
from tokenizers import Tokenizer

from app.embeddings.base import PROBE, URGENT_SECONDS, EmbeddingIdentity, TokenIds, unit_rows
from app.errors import EmbeddingFailed, EmbeddingRefused, TextRefused
from app.metrics import counters

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536

_ATTEMPTS = 5
_URGENT_ATTEMPTS = 2
_SECONDS_OF_ATTEMPTS = 90  # none is begun later than this; the ingestion is tried again after a longer pause
_LONGEST_BACKOFF_SECONDS = 10
_LONGEST_RETRY_AFTER_SECONDS = 30
_REQUESTS_AT_ONCE = 4  # of one call
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429
_MAYBE_TOO_MUCH = frozenset({400, 413, 422})  # what servers say to a field or a number of texts they refuse
_LOGGED_CHARS = 500

log = structlog.get_logger(__name__)


class OpenAIEmbedder:
    """Requests of bounded size, several at once; each is tried again when that can help.

    `dimensions` is asked of the server only if `asks_dimensions`: many models have one size and refuse
    the question. A server that refuses a request with optional fields is asked again without them, one
    that refuses many texts at once with half of them; what it accepts is kept for later requests.
    """

    is_contextual = True  # every model offered over HTTP that we know of
    max_tokens: int | None = None

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        api_key: SecretStr | None,
        model: str,
        dimensions: int,
        asks_dimensions: bool,
        tokenizer: Tokenizer,
        batch_inputs: int,
        batch_tokens: int,
        query_prefix: str = "",
        passage_prefix: str = "",
        first_backoff_seconds: float = 0.5,
    ) -> None:
        self.identity = EmbeddingIdentity("openai", model, dimensions)
        self.tokenizer = tokenizer
        self.passage_prefix = passage_prefix
        self._query_prefix = query_prefix
        self._client = client
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._api_key = api_key.get_secret_value().strip() if api_key else ""
        self._batch_inputs = batch_inputs
        self._batch_tokens = batch_tokens
        self._backoff = wait_random_exponential(first_backoff_seconds, max=_LONGEST_BACKOFF_SECONDS)
        self._optional_fields: dict[str, Any] = {"encoding_format": "base64"}
        if asks_dimensions:
            self._optional_fields["dimensions"] = dimensions
        self._is_accepted = False  # the server has said yes to these fields

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        """`(len(texts), dimensions)` float32, each row of length 1, of passages.

        Raises EmbeddingFailed when the server still fails after some attempts or answers nonsense,
        EmbeddingRefused when it says no to everything, and TextRefused when it says no to one text only.
        """
        return await self._embed([self.passage_prefix + text for text in texts], _ATTEMPTS, token_ids)

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a query, `(dimensions,)` float32, of length 1; or none in URGENT_SECONDS.

        Raises what `embed` raises.
        """
        try:
            async with asyncio.timeout(URGENT_SECONDS):
                vectors = await self._embed([self._query_prefix + text], _URGENT_ATTEMPTS)
        except TimeoutError as error:
            raise EmbeddingFailed("The embedding service did not answer in time.") from error
        vector: NDArray[np.float32] = vectors[0]
        return vector

    async def _embed(
        self, texts: Sequence[str], attempts: int, token_ids: TokenIds | None = None
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.identity.dimensions), dtype=np.float32)
        slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)

        async def fill(batch: slice) -> None:
            async with slots:
                vectors[batch] = await self._embed_batch(list(texts[batch]), attempts)

        try:
            async with asyncio.TaskGroup() as requests:
                for batch in await self._batches(texts, token_ids):
                    requests.create_task(fill(batch))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return vectors

    async def _batches(self, texts: Sequence[str], token_ids: TokenIds | None) -> list[slice]:
        """Slices within both limits; one text alone may be over the limit of tokens."""
        if len(texts) <= self._batch_inputs and sum(map(len, texts)) * 4 <= self._batch_tokens:
            return [slice(0, len(texts))] if texts else []  # no tokenizer counts more than the bytes
        if token_ids is None:
            tokens = await asyncio.to_thread(_count, self.tokenizer, list(texts))
        else:
            special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
            tokens = [len(ids) + special for ids in token_ids]
        return list(_slices(tokens, self._batch_inputs, self._batch_tokens))

    async def _embed_batch(self, texts: list[str], attempts: int) -> NDArray[np.float32]:
        response = await self._answer(texts, self._optional_fields, attempts)
        if response.status_code in _MAYBE_TOO_MUCH and not self._is_accepted:
            response = await self._answer_with_fewer_fields(texts, response, attempts)
        if response.status_code in _MAYBE_TOO_MUCH and len(texts) > 1:
            half = len(texts) // 2
            halves = [await self._embed_batch(part, attempts) for part in (texts[:half], texts[half:])]
            self._batch_inputs = min(self._batch_inputs, half)
            return np.concatenate(halves)
        if response.status_code in _MAYBE_TOO_MUCH and tuple(texts) != PROBE:
            await self._embed_batch(list(PROBE), attempts)  # raises when it is not the text's fault
            raise TextRefused(self._refusal(response).message)
        if not response.is_success:
            raise self._refusal(response)
        self._is_accepted = True
        return await asyncio.to_thread(_vectors, response.content, len(texts), self.identity)

    async def _answer_with_fewer_fields(
        self, texts: list[str], refusal: httpx.Response, attempts: int
    ) -> httpx.Response:
        for fields in ({"encoding_format": "base64"}, {}):
            if len(fields) < len(self._optional_fields):
                response = await self._answer(texts, fields, attempts)
                if response.is_success:
                    log.warning(
                        "embedding_fields_refused", asked=list(self._optional_fields), kept=list(fields)
                    )
                    self._optional_fields = fields
                    return response
        return refusal

    async def _answer(self, texts: list[str], fields: dict[str, Any], attempts: int) -> httpx.Response:
        """The server's yes or no. Raises EmbeddingFailed when there is neither after some attempts."""
        body = orjson.dumps({"model": self.identity.model, "input": texts, **fields})
        asking = AsyncRetrying(
            retry=retry_if_exception_type(_NoAnswer),
            stop=stop_after_attempt(attempts) | stop_after_delay(_SECONDS_OF_ATTEMPTS),
            wait=self._pause,
            before_sleep=_log_attempt,
            reraise=True,
        )
        try:
            return await asking(self._ask, body)
        except _NoAnswer as error:
            log.error("embedding_failed", host=httpx.URL(self._url).host, reason=str(error))
            raise EmbeddingFailed(f"The embedding service did not answer ({error}).") from error

    async def _ask(self, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            response = await self._client.post(self._url, content=body, headers=headers)
        except httpx.TimeoutException as error:
            counters().embedding_requests.labels("timeout").inc()
            raise _NoAnswer("no answer in time") from error
        except httpx.TransportError as error:
            counters().embedding_requests.labels("no_connection").inc()
            raise _NoAnswer("no connection") from error
        status = response.status_code
        counters().embedding_requests.labels(str(status)).inc()
        if status == _TOO_MANY_REQUESTS and "insufficient_quota" in response.text:
            raise self._refusal(response)
        if status in (_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS) or response.is_server_error:
            raise _NoAnswer(f"HTTP {status}", _retry_after_seconds(response))
        return response

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_seconds if isinstance(error, _NoAnswer) else 0.0
        return max(self._backoff(state), min(asked, _LONGEST_RETRY_AFTER_SECONDS))

    def _refusal(self, response: httpx.Response) -> EmbeddingRefused:
        reason = _reason(response)
        if self._api_key:
            reason = reason.replace(self._api_key, "…")
        log.error(
            "embedding_refused", host=httpx.URL(self._url).host, status=response.status_code, reason=reason
        )
        sentence = _REFUSALS.get(
            response.status_code,
            "It does not take this text or these settings; a chunk may be too long for the model"
            " (CHUNK_TOKENS, EMBEDDING_TOKENIZER). The log has its answer.",
        )
        return EmbeddingRefused(
            f"The embedding service refused the request (HTTP {response.status_code}). {sentence}"
        )


_NOT_THIS_KEY = "It does not accept the API key (EMBEDDING_API_KEY)."
_REFUSALS = {
    401: _NOT_THIS_KEY,
    403: _NOT_THIS_KEY,
    402: "The account has no credit left.",
    404: "It does not know the address or the model (EMBEDDING_BASE_URL, EMBEDDING_MODEL).",
    405: "This is not the address of an embedding service (EMBEDDING_BASE_URL).",
    429: "The account has no credit left.",
}


class _NoAnswer(Exception):  # noqa: N818 - a fact; errors for callers are in app.errors
    """Neither yes nor no: asking again may help."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


def _log_attempt(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning(
        "embedding_tried_again",
        reason=str(error),
        attempt=state.attempt_number,
        seconds=round(state.upcoming_sleep, 2),
    )


def _count(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [len(encoding) for encoding in tokenizer.encode_batch_fast(texts)]


def _slices(tokens: Sequence[int], batch_inputs: int, batch_tokens: int) -> Iterator[slice]:
    start = total = 0
    for index, count in enumerate(tokens):
        if index > start and (index - start == batch_inputs or total + count > batch_tokens):
            yield slice(start, index)
            start, total = index, 0
        total += count
    if start < len(tokens):
        yield slice(start, len(tokens))


def _vectors(content: bytes, count: int, identity: EmbeddingIdentity) -> NDArray[np.float32]:
    """The vectors of an answer, in the order of the texts, base64 (little-endian float32) or lists."""
    try:
        answer = orjson.loads(content)
        entries = answer["data"]
        counters().embedding_tokens.inc(_tokens_used(answer))
        by_index = {int(entry.get("index", place)): entry["embedding"] for place, entry in enumerate(entries)}
        if len(entries) != count or set(by_index) != set(range(count)):
            raise ValueError(f"{len(entries)} vectors for {count} texts")
        rows = [_vector(by_index[index]) for index in range(count)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.error("embedding_answer_unreadable", reason=repr(error))
        raise EmbeddingFailed("The embedding service gave an answer that makes no sense.") from error
    wrong = next((len(row) for row in rows if len(row) != identity.dimensions), None)
    if wrong is not None:
        raise EmbeddingRefused(
            f"The model {identity.model} makes vectors of {wrong} values, not {identity.dimensions}:"
            f" set EMBEDDING_DIMENSIONS={wrong}."
        )
    return unit_rows(np.stack(rows))


def _tokens_used(answer: dict[str, Any]) -> int:
    """What the server says it read; 0 if it does not say."""
    usage = answer.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def _vector(embedding: object) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    vector = np.asarray(embedding, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError(f"a vector of shape {vector.shape}")
    return vector


def _retry_after_seconds(response: httpx.Response) -> float:
    """What `Retry-After` asks for: seconds or a date (RFC 9110, 10.2.3); 0 if it asks for nothing."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _reason(response: httpx.Response) -> str:
    """The message of a refusal, without the texts that some servers repeat in it."""
    try:
        answer = orjson.loads(response.content)
    except ValueError:
        return response.text[:_LOGGED_CHARS]
    for name in ("error", "message", "detail"):
        found = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(found, list) and found:
            found = found[0]
        if isinstance(found, dict):
            found = found.get("message") or found.get("msg")
        if isinstance(found, str):
            return found[:_LOGGED_CHARS]
    return "(no message)"
