import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from tokenizers import Tokenizer

from app.embeddings import EmbedderOptions, open_embedder
from app.embeddings.base import PROBE, EmbeddingIdentity
from app.embeddings.budget import NoBudget
from app.embeddings.local import built_in_tokenizer
from app.embeddings.openai import OpenAIEmbedder
from app.errors import EmbeddingFailed, EmbeddingRefused
from app.local.chaos.embedding_stub import EmbeddingStub, Failure, serving, vector_of

KEY = "sk-very-secret-0123456789"
TOKENIZER = built_in_tokenizer()


class Door:
    """One server for all tests, and behind it the stub of the running one."""

    stub = EmbeddingStub()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stub.app(scope, receive, send)


@pytest.fixture(scope="module")
def door_and_url() -> Iterator[tuple[Door, str]]:
    door = Door()
    with serving(door) as url:
        yield door, url


@pytest.fixture
def stub(door_and_url: tuple[Door, str]) -> EmbeddingStub:
    door_and_url[0].stub = EmbeddingStub(dimensions=64)
    return door_and_url[0].stub


@pytest.fixture
def url(door_and_url: tuple[Door, str], stub: EmbeddingStub) -> str:
    return door_and_url[1]


@asynccontextmanager
async def embedder_at(
    url: str, timeout_seconds: float = 10, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> AsyncIterator[OpenAIEmbedder]:
    settings: dict[str, Any] = {
        "base_url": url,
        "api_key": SecretStr(KEY),
        "model": "stub",
        "dimensions": 64,
        "asks_dimensions": False,
        "tokenizer": TOKENIZER,
        "budget": NoBudget(),
        "batch_inputs": 64,
        "batch_tokens": 16_384,
        "first_backoff_seconds": 0.001,
    }
    async with httpx.AsyncClient(timeout=timeout_seconds, transport=transport) as client:
        yield OpenAIEmbedder(client, **(settings | options))


def expected(texts: list[str], dimensions: int = 64) -> np.ndarray:
    return np.stack([vector_of(text, dimensions) for text in texts])


TEXTS = [f"text number {number} of many" for number in range(150)]


async def test_vectors_come_back_in_the_order_of_the_texts(stub: EmbeddingStub, url: str) -> None:
    async with embedder_at(url) as embedder:
        vectors = await embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(TEXTS), atol=1e-6)
    assert sorted(request["inputs"] for request in stub.requests) == [22, 64, 64]
    assert stub.texts == dict.fromkeys(TEXTS, 1)


async def test_a_request_stays_within_the_limit_of_tokens(stub: EmbeddingStub, url: str) -> None:
    texts = ["word " * length for length in (10, 300, 10, 10, 80, 5)]
    async with embedder_at(url, batch_tokens=100) as embedder:
        vectors = await embedder.embed(texts)
    np.testing.assert_allclose(vectors, expected(texts), atol=1e-6)
    assert sorted(request["inputs"] for request in stub.requests) == [1, 1, 2, 2]


async def test_several_requests_are_in_flight_but_not_too_many(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.delay_seconds = 0.05
    async with embedder_at(url, batch_inputs=10) as embedder:
        vectors = await embedder.embed(TEXTS)
    np.testing.assert_allclose(vectors, expected(TEXTS), atol=1e-6)
    assert stub.most_in_flight == 4


async def test_base64_is_asked_for_and_dimensions_only_when_set(stub: EmbeddingStub, url: str) -> None:
    async with embedder_at(url) as embedder:
        await embedder.embed(["a"])
    async with embedder_at(url, dimensions=32, asks_dimensions=True) as embedder:
        assert (await embedder.embed(["a"])).shape == (1, 32)
    assert stub.requests == [
        {"model": "stub", "encoding_format": "base64", "inputs": 1},
        {"model": "stub", "encoding_format": "base64", "dimensions": 32, "inputs": 1},
    ]


async def test_a_server_that_answers_with_lists_of_numbers_will_do(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.takes_base64 = False
    async with embedder_at(url) as embedder:
        np.testing.assert_allclose(await embedder.embed(TEXTS[:3]), expected(TEXTS[:3]), atol=1e-6)


@pytest.mark.parametrize("garbage", ["reversed", "no index"])
async def test_the_index_of_an_answer_counts_and_its_place_without_one(
    stub: EmbeddingStub, url: str, garbage: str
) -> None:
    stub.behaviour.failures = [Failure(garbage=garbage)]
    async with embedder_at(url) as embedder:
        np.testing.assert_allclose(await embedder.embed(TEXTS[:5]), expected(TEXTS[:5]), atol=1e-6)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
async def test_a_busy_or_broken_server_is_asked_again(stub: EmbeddingStub, url: str, status: int) -> None:
    stub.behaviour.failures = [Failure(status=status)] * 3
    async with embedder_at(url) as embedder:
        await embedder.embed(["a"])
    assert len(stub.requests) == 4


async def test_a_server_that_stays_broken_is_embedding_failed(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.failures = [Failure(status=503)] * 9
    async with embedder_at(url) as embedder:
        with pytest.raises(EmbeddingFailed, match="HTTP 503") as caught:
            await embedder.embed(["a"])
    assert len(stub.requests) == 5
    assert caught.value.retryable


async def test_a_server_on_this_machine_is_not_asked_through_a_proxy(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    options = EmbedderOptions(provider="openai", base_url=url, api_key=SecretStr(KEY), dimensions=64)
    async with open_embedder(options) as embedder:
        assert (await embedder.embed(["a text"])).shape[0] == 1


@pytest.mark.parametrize(
    "proxy", ["socks5://user:hunter2@127.0.0.1:9", "nonsense://127.0.0.1:9", "http://a:b:c"]
)
async def test_a_proxy_that_cannot_be_used_is_told_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    options = EmbedderOptions(provider="openai", base_url="http://models.invalid/v1", dimensions=64)
    with pytest.raises(EmbeddingRefused, match=r"^A proxy of the environment \(ALL_PROXY, ") as caught:
        async with open_embedder(options):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_slow_answer_is_given_up_and_asked_again(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.failures = [Failure(delay_seconds=30)]
    async with embedder_at(url, timeout_seconds=0.2) as embedder:
        np.testing.assert_allclose(await embedder.embed(["a"]), expected(["a"]), atol=1e-6)


async def test_a_server_that_is_not_there_is_embedding_failed() -> None:
    async with embedder_at("http://127.0.0.1:9/v1") as embedder:
        with pytest.raises(EmbeddingFailed, match="no connection"):
            await embedder.embed(["a"])


async def test_a_connection_cut_in_mid_answer_is_asked_again() -> None:
    served = 0

    async def cut_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        answer = json.dumps({"data": [{"index": 0, "embedding": [1.0] + [0.0] * 63}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
        writer.write(answer[:20] if served == 1 else answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(cut_first, "127.0.0.1", 0)
    async with server, embedder_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as embedder:
        assert (await embedder.embed(["a"]))[0, 0] == 1
    assert served == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(stub: EmbeddingStub, url: str, form: str) -> None:
    later = datetime.now(UTC) + timedelta(seconds=2)
    asked = "1" if form == "seconds" else format_datetime(later, usegmt=True)
    stub.behaviour.failures = [Failure(status=429, retry_after=asked)]
    start = time.monotonic()
    async with embedder_at(url) as embedder:
        await embedder.embed(["a"])
    assert 0.9 < time.monotonic() - start < 5


@pytest.mark.parametrize("asked", ["soon", "-5", "Fri, 31 Feb 2025 99:00:00 GMT", "nan"])
async def test_a_retry_after_without_sense_is_overlooked(stub: EmbeddingStub, url: str, asked: str) -> None:
    stub.behaviour.failures = [Failure(status=429, retry_after=asked)]
    start = time.monotonic()
    async with embedder_at(url) as embedder:
        await embedder.embed(["a"])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("status", [200, 500])
async def test_of_an_answer_without_end_no_more_is_read_than_a_right_one_could_have(status: int) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += 100_000
            yield b" " * 100_000

    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=pieces()))
    async with embedder_at("http://embedder/v1", transport=transport) as embedder:
        with pytest.raises(EmbeddingFailed, match=r"an answer of more than 1,002,048 bytes"):
            await embedder.embed(["a"])
    assert sent < 6_000_000  # of five attempts


async def test_an_answer_that_nobody_asked_to_be_packed_is_not_unpacked() -> None:
    vector = base64.b64encode(np.ones(64, "<f4").tobytes()).decode()
    packed = gzip.compress(json.dumps({"data": [{"index": 0, "embedding": vector}]}).encode())
    headers = {"Content-Encoding": "gzip"}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers=headers, stream=httpx.ByteStream(packed))
    )
    async with embedder_at("http://embedder/v1", transport=transport) as embedder:
        with pytest.raises(EmbeddingFailed, match="a packed answer"):
            await embedder.embed(["a"])


async def test_an_answer_that_comes_in_drops_has_the_time_of_one_request() -> None:
    async def drops() -> AsyncIterator[bytes]:
        for _ in range(100):
            await asyncio.sleep(0.05)
            yield b" "

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=drops()))
    async with embedder_at("http://embedder/v1", timeout_seconds=0.2, transport=transport) as embedder:
        with pytest.raises(EmbeddingFailed, match="no answer in time"):
            await embedder.embed(["a"])


class Recorded(NoBudget):
    """What an embedder has asked of its budget; nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, bool]] = []
        self.pauses: list[tuple[float, bool]] = []

    async def wait(self, tokens: int, *, is_urgent: bool) -> float:
        self.asked.append((tokens, is_urgent))
        return 0.0

    async def pause(self, seconds: float, *, spares_urgent: bool = False) -> None:
        self.pauses.append((seconds, spares_urgent))


def limits(what: str, remaining: str, reset: str) -> dict[str, str]:
    return {f"x-ratelimit-remaining-{what}": remaining, f"x-ratelimit-reset-{what}": reset}


@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        (limits("requests", "0", "1s"), [(1.0, False)]),
        (limits("requests", "0", "1m12.5s"), [(72.5, False)]),
        (limits("requests", "0", "120ms"), [(0.12, False)]),
        (limits("requests", "0", "7"), [(7.0, False)]),
        (limits("requests", "0", "20h"), [(300.0, False)]),
        (limits("requests", "1", "1s"), []),
        (limits("tokens", "0", "2s"), [(2.0, True)]),
        (limits("tokens", "3", "2s"), [(2.0, True)]),
        (limits("tokens", "149000", "2s"), []),
        (limits("tokens", "0", "2s") | limits("requests", "0", "3s"), [(3.0, False), (2.0, True)]),
        (limits("requests", "0", "soon"), []),
        (limits("requests", "none", "1s"), []),
        (limits("requests", "0", "9" * 5000), []),
        (limits("requests", "9" * 5000, "1s"), []),
        ({}, []),
    ],
)
async def test_a_server_that_has_no_room_for_another_request_is_left_alone_until_it_has(
    headers: dict[str, str], pauses: list[tuple[float, bool]]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        data = [{"index": place, "embedding": [1.0] * 64} for place in range(len(texts))]
        return httpx.Response(200, json={"data": data}, headers=headers)

    budget = Recorded()
    async with embedder_at("http://server", transport=httpx.MockTransport(answer), budget=budget) as embedder:
        await embedder.embed(["a text of some words"])
    assert budget.pauses == pauses


async def test_each_request_waits_for_its_turn_with_its_tokens_and_a_query_is_urgent(
    stub: EmbeddingStub, url: str
) -> None:
    stub.behaviour.failures = [Failure(status=503)]
    budget = Recorded()
    async with embedder_at(url, budget=budget, batch_inputs=2) as embedder:
        special = TOKENIZER.num_special_tokens_to_add(is_pair=False)
        await embedder.embed(["a", "b", "c"], [[1] * 10, [1] * 20, [1] * 40])
        assert sorted(budget.asked) in (
            sorted([(30 + 2 * special, False)] * 2 + [(40 + special, False)]),
            sorted([(30 + 2 * special, False)] + [(40 + special, False)] * 2),
        )
        budget.asked.clear()
        await embedder.embed_query("how many words has this question?")
        await embedder.embed(PROBE)
    assert [is_urgent for _, is_urgent in budget.asked] == [True, True]
    assert 5 < budget.asked[0][0] < 15


class Crowded(NoBudget):
    """Each turn takes a while."""

    async def wait(self, tokens: int, *, is_urgent: bool) -> float:
        await asyncio.sleep(0.4)
        return 0.4


async def test_waiting_for_turns_is_not_held_against_the_server(
    stub: EmbeddingStub, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.embeddings.openai._SECONDS_OF_ATTEMPTS", 1.0)
    stub.behaviour.failures = [Failure(status=503)] * 3
    async with embedder_at(url, budget=Crowded()) as embedder:
        await embedder.embed(["a"])
    assert len(stub.requests) == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "EMBEDDING_API_KEY"), (403, "EMBEDDING_API_KEY"), (404, "EMBEDDING_MODEL"), (400, "CHUNK_TOKENS")],
)
async def test_a_no_is_not_asked_for_twice_and_says_what_to_look_at(
    stub: EmbeddingStub, url: str, status: int, said: str
) -> None:
    stub.behaviour.failures = [Failure(status=status)] * 9
    async with embedder_at(url) as embedder:
        with pytest.raises(EmbeddingRefused, match=said) as caught:
            await embedder.embed(["a"])
    assert caught.value.owner == "embedder"
    assert len(stub.requests) == (4 if status == 400 else 1)  # 400: with fewer fields, and other words, too


async def test_an_account_without_credit_is_not_asked_again(stub: EmbeddingStub, url: str) -> None:
    body = '{"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}'
    stub.behaviour.failures = [Failure(status=429, body=body)]
    async with embedder_at(url) as embedder:
        with pytest.raises(EmbeddingRefused, match="credit"):
            await embedder.embed(["a"])
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        "not json",
        "no data",
        "a list",
        "one too few",
        "one too many",
        "an index twice",
        "an index that is no number",
        "no vectors",
        "null",
        "a word",
        "text in a list",
        "a list of lists",
        "half a float",
        "nan",
        "zero",
    ],
)
async def test_an_answer_that_makes_no_sense_is_embedding_failed(
    stub: EmbeddingStub, url: str, garbage: str
) -> None:
    stub.behaviour.failures = [Failure(garbage=garbage)]
    async with embedder_at(url) as embedder:
        with pytest.raises(EmbeddingFailed) as caught:
            await embedder.embed(["a", "b", "c"])
    assert type(caught.value) is EmbeddingFailed


async def test_vectors_of_another_size_name_the_setting(url: str) -> None:
    async with embedder_at(url, dimensions=1536) as embedder:
        with pytest.raises(EmbeddingRefused, match="EMBEDDING_DIMENSIONS=64"):
            await embedder.embed(["a"])


@pytest.mark.parametrize(
    ("refused", "kept"),
    [(("dimensions",), {"encoding_format"}), (("dimensions", "encoding_format"), set())],
)
async def test_fields_a_server_refuses_are_left_out_from_then_on(
    stub: EmbeddingStub, url: str, refused: tuple[str, ...], kept: set[str]
) -> None:
    stub.behaviour.refused_fields = refused
    async with embedder_at(url, asks_dimensions=True) as embedder:
        np.testing.assert_allclose(await embedder.embed(TEXTS[:3]), expected(TEXTS[:3]), atol=1e-6)
        asked_before = len(stub.requests)
        await embedder.embed(TEXTS[:3])
    assert len(stub.requests) == asked_before + 1
    assert set(stub.requests[-1]) - {"model", "inputs"} == kept


async def test_a_server_that_takes_fewer_texts_gets_fewer(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.max_inputs = 10
    async with embedder_at(url) as embedder:
        np.testing.assert_allclose(await embedder.embed(TEXTS), expected(TEXTS), atol=1e-6)
        stub.requests.clear()
        await embedder.embed(TEXTS)
    assert max(request["inputs"] for request in stub.requests) <= 10


async def test_one_failure_stops_the_other_requests(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.failures = [Failure(status=401)]
    stub.behaviour.delay_seconds = 0.05
    async with embedder_at(url, batch_inputs=1) as embedder:
        with pytest.raises(EmbeddingRefused):
            await embedder.embed(TEXTS)
    assert len(stub.requests) < 20


async def test_a_cancelled_call_ends_at_once(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.delay_seconds = 30
    async with embedder_at(url) as embedder:
        call = asyncio.create_task(embedder.embed(TEXTS))
        while stub.in_flight == 0:  # noqa: ASYNC110 - the stub lives in another thread
            await asyncio.sleep(0.01)
        call.cancel()
        start = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - start < 1


async def test_no_texts_make_no_request(url: str) -> None:
    requests: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(500)

    async with embedder_at(url, transport=httpx.MockTransport(note)) as embedder:
        assert (await embedder.embed([])).shape == (0, 64)
    assert requests == []


async def test_the_key_is_sent_but_neither_logged_nor_shown(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.key = "another key"
    stub_saw = f"Bearer {KEY}"
    async with embedder_at(url) as embedder:
        with capture_logs() as logs, pytest.raises(EmbeddingRefused) as caught:
            await embedder.embed(["a"])
        stub.behaviour.key = KEY
        await embedder.embed(["a"])
    assert stub_saw not in str(caught.value)
    (refusal,) = [entry for entry in logs if entry["event"] == "embedding_refused"]
    assert refusal["reason"].startswith("Incorrect API key provided")
    assert KEY not in str(logs) + str(caught.value) + repr(vars(embedder)["_client"].headers)


@pytest.mark.parametrize(
    "body",
    [
        '{"detail": [{"msg": "too long", "input": "the text"}]}',
        '{"object": "error", "message": "too long", "input": "the text"}',
        '{"error": "too long"}',
    ],
)
async def test_the_log_has_the_servers_reason_but_not_the_text(body: str) -> None:
    refuse = httpx.MockTransport(lambda request: httpx.Response(409, text=body))
    async with embedder_at("http://server/v1", transport=refuse) as embedder:
        with capture_logs() as logs, pytest.raises(EmbeddingRefused):
            await embedder.embed(["the text"])
    assert logs[-1]["reason"] == "too long"
    assert "the text" not in str(logs)


async def test_opened_without_options_it_is_openais_small_model() -> None:
    async with open_embedder(EmbedderOptions(provider="openai")) as embedder:
        assert embedder.identity == EmbeddingIdentity("openai", "text-embedding-3-small", 1536)
        assert len(embedder.tokenizer.encode("The sale of books.")) > 4


async def test_opened_with_settings_it_works(stub: EmbeddingStub, url: str) -> None:
    stub.behaviour.key = KEY
    async with open_embedder(
        EmbedderOptions(
            provider="openai", base_url=f"{url}/", api_key=SecretStr(f"{KEY}\n"), model="m", dimensions=48
        )
    ) as embedder:
        assert embedder.identity == EmbeddingIdentity("openai", "m", 48)
        assert (await embedder.embed(["a", "b"])).shape == (2, 48)


async def test_a_tokenizer_of_the_model_counts_without_its_own_limits(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    async with open_embedder(
        EmbedderOptions(provider="openai", tokenizer=tmp_path / "tokenizer.json")
    ) as embedder:
        assert len(embedder.tokenizer.encode("one two three four five six seven eight")) > 8


async def test_a_tokenizer_that_is_not_there_is_refused_when_opening() -> None:
    options = EmbedderOptions(provider="openai", tokenizer=Path("/nowhere/tokenizer.json"))
    with pytest.raises(EmbeddingRefused, match="EMBEDDING_TOKENIZER"):
        async with open_embedder(options):
            pass


async def test_queries_and_passages_get_the_prefixes_of_their_own(stub: EmbeddingStub, url: str) -> None:
    async with open_embedder(
        EmbedderOptions(
            provider="openai", base_url=url, dimensions=64, query_prefix="query: ", passage_prefix="passage: "
        )
    ) as embedder:
        await embedder.embed(["one", "two"])
        query = await embedder.embed_query("who?")
    assert stub.texts == {"passage: one": 1, "passage: two": 1, "query: who?": 1}
    np.testing.assert_allclose(query, vector_of("query: who?", 64), atol=1e-6)
    assert embedder.passage_prefix == "passage: "
