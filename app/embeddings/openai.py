"""Embedding over HTTP, with any server that speaks OpenAI's `/embeddings`."""

import asyncio
import base64
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
    wait_random_exponential,
)
from tokenizers import Tokenizer

from app.embeddings.answers import AnswerUnfit, post
from app.embeddings.base import PROBE, URGENT_SECONDS, EmbeddingIdentity, TokenIds, unit_rows
from app.embeddings.budget import Budget
from app.errors import EmbeddingFailed, EmbeddingRefused, TextRefused
from app.metrics import counters

MODEL = "text-embedding-3-small"
DIMENSIONS = 1536

_ATTEMPTS = 5
_URGENT_ATTEMPTS = 2
# None is begun later than this, turns not counted; the ingestion is tried again after a longer pause.
_SECONDS_OF_ATTEMPTS = 90
_LONGEST_BACKOFF_SECONDS = 10
_LONGEST_PAUSE_SECONDS = 300  # whatever the server asks for: what was meant for one minute is over by then
_CHARS_PER_TOKEN = 4
_REQUESTS_AT_ONCE = 4  # of one call
_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS = 408, 429
_DURATION_PART = r"(\d{1,9}(?:\.\d{1,9})?)(ms|h|m|s)"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_MAYBE_TOO_MUCH = frozenset({400, 413, 422})  # what servers say to a field or a number of texts they refuse
_LOGGED_CHARS = 500
# Numbers of an answer are written in 25 bytes at most, and what else is in it is little.
_BYTES_A_VALUE = 32
_BYTES_BESIDES = 1_000_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Texts of one request, and how many tokens each has. Urgent: somebody waits for it."""

    texts: Sequence[str]
    tokens: Sequence[int]
    attempts: int
    is_urgent: bool

    def part(self, places: slice) -> "_Batch":
        return replace(self, texts=self.texts[places], tokens=self.tokens[places])

    def halves(self) -> tuple["_Batch", "_Batch"]:
        half = len(self.texts) // 2
        return self.part(slice(half)), self.part(slice(half, None))


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
        budget: Budget,
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
        self._budget = budget
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
        prefixed = [self.passage_prefix + text for text in texts]
        tokens = await self._count(prefixed, token_ids)
        return await self._embed(_Batch(prefixed, tokens, _ATTEMPTS, is_urgent=tuple(texts) == PROBE))

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a query, `(dimensions,)` float32, of length 1; or none in URGENT_SECONDS.

        Raises what `embed` raises.
        """
        prefixed = [self._query_prefix + text]
        try:
            async with asyncio.timeout(URGENT_SECONDS):
                tokens = await self._count(prefixed)
                vectors = await self._embed(_Batch(prefixed, tokens, _URGENT_ATTEMPTS, is_urgent=True))
        except TimeoutError as error:
            raise EmbeddingFailed("The embedding service did not answer in time.") from error
        vector: NDArray[np.float32] = vectors[0]
        return vector

    async def _embed(self, wanted: _Batch) -> NDArray[np.float32]:
        vectors = np.empty((len(wanted.texts), self.identity.dimensions), dtype=np.float32)
        slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)

        async def fill(places: slice) -> None:
            async with slots:
                vectors[places] = await self._embed_batch(wanted.part(places))

        try:
            async with asyncio.TaskGroup() as requests:
                for places in _slices(wanted.tokens, self._batch_inputs, self._batch_tokens):
                    requests.create_task(fill(places))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return vectors

    async def _count(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> list[int]:
        """Tokens of each text; about as many where it makes no difference to what is sent."""
        if token_ids is not None:
            special = self.tokenizer.num_special_tokens_to_add(is_pair=False)
            return [len(ids) + special for ids in token_ids]
        if sum(map(len, texts)) * 4 <= self._batch_tokens:  # no tokenizer counts more than the bytes
            return [len(text) // _CHARS_PER_TOKEN + 1 for text in texts]
        return await asyncio.to_thread(_count, self.tokenizer, list(texts))

    async def _embed_batch(self, batch: _Batch) -> NDArray[np.float32]:
        response = await self._answer(batch, self._optional_fields)
        if response.status_code in _MAYBE_TOO_MUCH and not self._is_accepted:
            response = await self._answer_with_fewer_fields(batch, response)
        if response.status_code in _MAYBE_TOO_MUCH and len(batch.texts) > 1:
            halves = [await self._embed_batch(half) for half in batch.halves()]
            self._batch_inputs = min(self._batch_inputs, len(batch.texts) // 2)
            return np.concatenate(halves)
        if response.status_code in _MAYBE_TOO_MUCH and tuple(batch.texts) != PROBE:
            probe = replace(batch, texts=PROBE, tokens=await self._count(PROBE))
            await self._embed_batch(probe)  # raises when it is not the text's fault
            raise TextRefused(self._refusal(response).message)
        if not response.is_success:
            raise self._refusal(response)
        self._is_accepted = True
        return await asyncio.to_thread(_vectors, response.content, len(batch.texts), self.identity)

    async def _answer_with_fewer_fields(self, batch: _Batch, refusal: httpx.Response) -> httpx.Response:
        for fields in ({"encoding_format": "base64"}, {}):
            if len(fields) < len(self._optional_fields):
                response = await self._answer(batch, fields)
                if response.is_success:
                    log.warning(
                        "embedding_fields_refused", asked=list(self._optional_fields), kept=list(fields)
                    )
                    self._optional_fields = fields
                    return response
        return refusal

    async def _answer(self, batch: _Batch, fields: dict[str, Any]) -> httpx.Response:
        """The server's yes or no. Raises EmbeddingFailed when there is neither after some attempts."""
        body = orjson.dumps({"model": self.identity.model, "input": batch.texts, **fields})
        waited = 0.0

        async def ask() -> httpx.Response:
            nonlocal waited
            waited += await self._wait_for_turn(batch)
            return await self._ask(body, batch)

        def is_enough(state: RetryCallState) -> bool:
            seconds = (state.seconds_since_start or 0.0) - waited
            return state.attempt_number >= batch.attempts or seconds > _SECONDS_OF_ATTEMPTS

        asking = AsyncRetrying(
            retry=retry_if_exception_type(_NoAnswer),
            stop=is_enough,
            wait=self._backoff,
            before_sleep=_log_attempt,
            reraise=True,
        )
        try:
            return await asking(ask)
        except _NoAnswer as error:
            log.error("embedding_failed", host=httpx.URL(self._url).host, reason=str(error))
            raise EmbeddingFailed(f"The embedding service did not answer ({error}).") from error

    async def _wait_for_turn(self, batch: _Batch) -> float:
        seconds = await self._budget.wait(sum(batch.tokens), is_urgent=batch.is_urgent)
        counters().embedding_wait_seconds.inc(seconds)
        return seconds

    async def _ask(self, body: bytes, batch: _Batch) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        most_bytes = _BYTES_BESIDES + _BYTES_A_VALUE * self.identity.dimensions * len(batch.texts)
        try:
            response = await post(self._client, self._url, body, headers, most_bytes)
        except httpx.TimeoutException as error:
            counters().embedding_requests.labels("timeout").inc()
            raise _NoAnswer("no answer in time") from error
        except AnswerUnfit as error:
            counters().embedding_requests.labels("unfit").inc()
            raise _NoAnswer(str(error)) from error
        except httpx.TransportError as error:
            counters().embedding_requests.labels("no_connection").inc()
            raise _NoAnswer("no connection") from error
        status = response.status_code
        counters().embedding_requests.labels(str(status)).inc()
        if status == _TOO_MANY_REQUESTS and "insufficient_quota" in response.text:
            raise self._refusal(response)
        is_no_answer = status in (_REQUEST_TIMEOUT, _TOO_MANY_REQUESTS) or response.is_server_error
        await self._heed(response, sum(batch.tokens), asks_for_time=is_no_answer)
        if is_no_answer:
            raise _NoAnswer(f"HTTP {status}")
        return response

    async def _heed(self, response: httpx.Response, tokens: int, *, asks_for_time: bool) -> None:
        """Keep the pauses that the server asks for. A query needs a request, but few tokens."""
        asked = _retry_after_seconds(response) if asks_for_time else 0.0
        if seconds := max(asked, _refill_seconds(response, "requests", 1)):
            await self._budget.pause(min(seconds, _LONGEST_PAUSE_SECONDS))
        if seconds := _refill_seconds(response, "tokens", tokens):
            await self._budget.pause(min(seconds, _LONGEST_PAUSE_SECONDS), spares_urgent=True)

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


def _refill_seconds(response: httpx.Response, what: str, wanted: int) -> float:
    """Until the server has room for so many again, as OpenAI's headers tell; 0 if it has, or does not say."""
    if _number(response.headers.get(f"x-ratelimit-remaining-{what}", "")) >= wanted:
        return 0.0
    return _seconds(response.headers.get(f"x-ratelimit-reset-{what}", ""))


def _number(value: str) -> float:
    return float(value) if value.isdecimal() else math.inf


def _seconds(duration: str) -> float:
    """Of a duration as Go writes it (`6m0s`, `120ms`), or of a bare number; 0 of anything else."""
    if re.fullmatch(rf"({_DURATION_PART})+", duration):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION_PART, duration))
    return float(duration) if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", duration) else 0.0


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
