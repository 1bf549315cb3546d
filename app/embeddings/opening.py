"""Opening the embedder that the settings name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from tokenizers import Tokenizer

from app.embeddings import local, openai
from app.embeddings.base import Embedder
from app.embeddings.budget import Budget, NoBudget
from app.embeddings.fastembed import FastEmbedEmbedder
from app.embeddings.local import LocalEmbedder, built_in_tokenizer
from app.embeddings.openai import OpenAIEmbedder
from app.errors import EmbeddingRefused
from app.loopback import open_client


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderOptions:
    """Of a provider: "local", "fastembed" or "openai", which is any server that speaks as OpenAI's does.

    None means the provider's default. Without a `tokenizer`.json the built-in one estimates what a server's
    model counts, so leave room.
    """

    provider: str
    model: str | None = None
    dimensions: int | None = None
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    tokenizer: Path | None = None
    batch_inputs: int = 64
    batch_tokens: int = 16_384
    timeout_seconds: float = 30
    query_prefix: str | None = None
    passage_prefix: str | None = None
    model_path: Path | None = None
    threads: int = 1


@asynccontextmanager
async def open_embedder(options: EmbedderOptions, budget: Budget | None = None) -> AsyncIterator[Embedder]:
    """The embedder; it belongs to the running event loop. The budget is that of a server.

    Raises EmbeddingRefused for options that cannot work, EmbeddingFailed if a model cannot be downloaded.
    """
    if options.provider == "openai":
        async with _open_server(options, budget or NoBudget()) as embedder:
            yield embedder
    else:
        yield await asyncio.to_thread(_IN_PROCESS[options.provider], options)


def _local(options: EmbedderOptions) -> Embedder:
    return LocalEmbedder(options.model or local.MODEL, options.dimensions or local.DIMENSIONS)


def _fastembed(options: EmbedderOptions) -> Embedder:
    return FastEmbedEmbedder(
        model=options.model,
        folder=options.model_path,
        dimensions=options.dimensions,
        threads=options.threads,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
    )


_IN_PROCESS: dict[str, Callable[[EmbedderOptions], Embedder]] = {"local": _local, "fastembed": _fastembed}


@asynccontextmanager
async def _open_server(options: EmbedderOptions, budget: Budget) -> AsyncIterator[Embedder]:
    tokenizer = await asyncio.to_thread(_tokenizer_of, options.tokenizer)
    try:
        client = open_client(options.base_url, timeout=options.timeout_seconds)
    except ValueError as error:
        raise EmbeddingRefused(str(error)) from error
    async with client:
        yield OpenAIEmbedder(
            client,
            base_url=options.base_url,
            api_key=options.api_key,
            model=options.model or openai.MODEL,
            dimensions=options.dimensions or openai.DIMENSIONS,
            asks_dimensions=options.dimensions is not None,
            tokenizer=tokenizer,
            budget=budget,
            batch_inputs=options.batch_inputs,
            batch_tokens=options.batch_tokens,
            query_prefix=options.query_prefix or "",
            passage_prefix=options.passage_prefix or "",
        )


def _tokenizer_of(path: Path | None) -> Tokenizer:
    if path is None:
        return built_in_tokenizer()
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise EmbeddingRefused(
            f"EMBEDDING_TOKENIZER is not a readable tokenizer.json: {path.name}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
