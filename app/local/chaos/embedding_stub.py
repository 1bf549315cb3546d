"""An OpenAI-compatible embedding server for chaos, tests and benchmarks: real HTTP, vectors from the words.

    python -m app.local.chaos.embedding_stub --port 9000 [--dimensions 1536] [--delay-ms 100] [--key secret]

Texts that share words have similar vectors, so search works on them. `GET /stub` says what it has
embedded; `POST /stub` with fields of `Behaviour` changes what it does, for example
`{"failures": [{"status": 429, "retry_after": "1"}], "delay_seconds": 0.1}`: each failure is used once.
"""

import argparse
import asyncio
import base64
import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

_WORD = re.compile(r"\w+")
_VALUES_PER_WORD = 8


@lru_cache(maxsize=200_000)
def _word_values(word: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where in the vector a word counts, as large numbers, and with which sign."""
    digest = np.frombuffer(hashlib.blake2b(word.encode(), digest_size=_VALUES_PER_WORD * 4).digest(), "<u4")
    return (digest >> 1).astype(np.int64), np.where(digest & 1, 1.0, -1.0).astype(np.float32)


def vector_of(text: str, dimensions: int) -> NDArray[np.float32]:
    """The `(dimensions,)` vector of a text: a hashed bag of its words, of length 1, never zero."""
    words = [_word_values(word) for word in _WORD.findall(text.casefold())] or [_word_values(text)]
    places = np.concatenate([places for places, _ in words]) % dimensions
    signs = np.concatenate([signs for _, signs in words])
    vector = np.bincount(places, signs, minlength=dimensions).astype(np.float32)
    vector[0] += 0.01  # words whose signs cancel out
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit


@dataclass
class Failure:
    """One bad answer. `garbage` is a name of `GARBAGE` or `ODDITIES`; the others are HTTP."""

    status: int = 200
    retry_after: str | None = None
    delay_seconds: float = 0.0
    garbage: str | None = None
    body: str = '{"error": {"message": "the stub was told to fail"}}'


@dataclass
class Behaviour:
    """What the stub does until told otherwise; `failures` are used up one by one.

    A request with a text that contains a key of `slow` waits for so many seconds more.
    """

    dimensions: int = 1536
    delay_seconds: float = 0.0
    key: str | None = None
    takes_base64: bool = True
    refused_fields: tuple[str, ...] = ()
    max_inputs: int = 2048
    refused_texts: tuple[str, ...] = ()
    """A text with one of these words in it is too much for the stub."""
    failures: list[Failure] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)

    def change(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if not hasattr(self, name):
                raise ValueError(f"no such behaviour: {name}")
            setattr(self, name, [Failure(**one) for one in value] if name == "failures" else value)


class EmbeddingStub:
    """The server's state: what it shall do and what it has seen."""

    def __init__(self, **behaviour: Any) -> None:
        self.behaviour = Behaviour(**behaviour)
        self.requests: list[dict[str, Any]] = []
        """Of each request: its fields without the texts, and how many `inputs` it had."""
        self.texts: Counter[str] = Counter()
        """How often each text was embedded (and answered)."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.app = Starlette(
            routes=[
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/stub", self._look, methods=["GET"]),
                Route("/stub", self._change, methods=["POST"]),
            ]
        )

    async def _embeddings(self, request: Request) -> Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(request)
        except ClientDisconnect:  # killed while it asked
            return Response(status_code=499)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: Request) -> Response:
        asked = orjson.loads(await request.body())
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        fields = {name: value for name, value in asked.items() if name != "input"}
        self.requests.append({**fields, "inputs": len(texts)})
        if self.behaviour.key and request.headers.get("Authorization") != f"Bearer {self.behaviour.key}":
            return _refusal(401, f"Incorrect API key provided: {request.headers.get('Authorization')}")
        await asyncio.sleep(self.behaviour.delay_seconds + self._extra_seconds(texts))
        failure = self.behaviour.failures.pop(0) if self.behaviour.failures else Failure()
        await asyncio.sleep(failure.delay_seconds)
        if failure.status != 200:
            headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
            return Response(failure.body, failure.status, headers, "application/json")
        refusal = self._refusal_of(asked, texts)
        if refusal is not None:
            return refusal
        self.texts.update(texts)
        entries = self._entries(asked, texts)
        if failure.garbage is not None:
            return Response((GARBAGE | ODDITIES)[failure.garbage](entries), media_type="application/json")
        return _json({"object": "list", "model": asked["model"], "data": entries})

    def _extra_seconds(self, texts: list[str]) -> float:
        slow = self.behaviour.slow
        return max((slow[mark] for mark in slow for text in texts if mark in text), default=0.0)

    def _refusal_of(self, asked: dict[str, Any], texts: list[str]) -> Response | None:
        for name in self.behaviour.refused_fields:
            if name in asked:
                return _refusal(400, f"{name} is not supported")
        if len(texts) > self.behaviour.max_inputs:
            most = self.behaviour.max_inputs
            return _refusal(422, f"batch size {len(texts)} > maximum allowed batch size {most}")
        if any(word in text for word in self.behaviour.refused_texts for text in texts):
            return _refusal(400, "input is too long")
        return _refusal(400, "input cannot be empty") if "" in texts else None

    def _entries(self, asked: dict[str, Any], texts: list[str]) -> list[dict[str, Any]]:
        dimensions = asked.get("dimensions") or self.behaviour.dimensions
        as_base64 = self.behaviour.takes_base64 and asked.get("encoding_format") == "base64"
        vectors = [_encoded(vector_of(text, dimensions), as_base64) for text in texts]
        return [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]

    async def _look(self, _request: Request) -> Response:
        return _json(
            {
                "requests": len(self.requests),
                "inputs": self.texts.total(),
                "texts": self.texts,
                "most_in_flight": self.most_in_flight,
            }
        )

    async def _change(self, request: Request) -> Response:
        try:
            self.behaviour.change(orjson.loads(await request.body()))
        except (ValueError, TypeError) as error:
            return _refusal(422, str(error))
        return Response(status_code=204)


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve on a free port from a thread; the address to set as EMBEDDING_BASE_URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, name="embedding-stub", daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def _encoded(vector: NDArray[np.float32], as_base64: bool) -> str | list[float]:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector.tolist()


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _refusal(status: int, message: str) -> Response:
    return Response(
        orjson.dumps({"error": {"message": message}}), status_code=status, media_type="application/json"
    )


def _data(entries: Any) -> bytes:
    return orjson.dumps({"data": entries})


def _first_vector_is(vector: Any) -> Any:
    return lambda entries: _data([{**entries[0], "embedding": vector}, *entries[1:]])


GARBAGE = {
    "not json": lambda entries: b"<html>502 Bad Gateway</html>",
    "no data": lambda entries: b'{"object": "list"}',
    "a list": lambda entries: b"[1, 2, 3]",
    "one too few": lambda entries: _data(entries[1:]),
    "one too many": lambda entries: _data([*entries, {**entries[0], "index": len(entries)}]),
    "an index twice": lambda entries: _data([{**entry, "index": 0} for entry in entries]),
    "an index that is no number": lambda entries: _data([{**entry, "index": "x"} for entry in entries]),
    "no vectors": lambda entries: _data([{"index": entry["index"]} for entry in entries]),
    "null": _first_vector_is(None),
    "a word": _first_vector_is("Zürich"),
    "text in a list": _first_vector_is(["0.5", "x"]),
    "a list of lists": _first_vector_is([[0.5, 0.5]]),
    "half a float": _first_vector_is(base64.b64encode(b"123").decode()),
    "nan": lambda entries: _constant(entries, float("nan")),
    "zero": lambda entries: _constant(entries, 0.0),
}
ODDITIES = {  # unusual, and right
    "reversed": lambda entries: _data(entries[::-1]),
    "no index": lambda entries: _data([{"embedding": entry["embedding"]} for entry in entries]),
}


def _constant(entries: Any, value: float) -> bytes:
    count = len(np.frombuffer(base64.b64decode(entries[0]["embedding"]), "<f4"))
    vector = base64.b64encode(np.full(count, value, "<f4").tobytes()).decode()
    return _data([{**entry, "embedding": vector} for entry in entries])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--key")
    arguments = parser.parse_args()
    stub = EmbeddingStub(
        dimensions=arguments.dimensions, delay_seconds=arguments.delay_ms / 1000, key=arguments.key
    )
    print(f"embeddings at http://{arguments.host}:{arguments.port}/v1", flush=True)  # noqa: T201 - its output
    uvicorn.run(stub.app, host=arguments.host, port=arguments.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
