"""Opening the embedder that the settings name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from pydantic import SecretStr
from tokenizers import Tokenizer

from app.embeddings import local, openai
from app.embeddings.base import Embedder
from app.embeddings.budget import Budget, NoBudget
from app.embeddings.fastembed import FastEmbedEmbedder
from app.embeddings.local import LocalEmbedder, built_in_tokenizer
from app.embeddings.openai import OpenAIEmbedder
from app.errors import EmbeddingRefused


@asynccontextmanager
async def open_embedder(  # noqa: PLR0913 - each is a setting of its own
    *,
    provider: str,
    model: str | None = None,
    dimensions: int | None = None,
    base_url: str = "https://api.openai.com/v1",
    api_key: SecretStr | None = None,
    tokenizer: Path | None = None,
    batch_inputs: int = 64,
    batch_tokens: int = 16_384,
    timeout_seconds: float = 30,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    model_path: Path | None = None,
    threads: int = 1,
    budget: Budget | None = None,
) -> AsyncIterator[Embedder]:
    """The embedder of a provider ("local", "fastembed" or "openai"); it belongs to the running event loop.

    None means the provider's default; the budget is that of a server. Without a tokenizer.json the built-in
    one estimates, so leave room.
    Raises EmbeddingRefused for settings that cannot work, EmbeddingFailed if a model cannot be downloaded.
    """
    if provider == "local":
        yield await asyncio.to_thread(LocalEmbedder, model or local.MODEL, dimensions or local.DIMENSIONS)
    elif provider == "fastembed":
        yield await asyncio.to_thread(
            FastEmbedEmbedder,
            model=model,
            folder=model_path,
            dimensions=dimensions,
            threads=threads,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
        )
    else:
        _check_server(base_url, api_key)
        counting = await asyncio.to_thread(_tokenizer_of, tokenizer)
        async with httpx.AsyncClient(timeout=timeout_seconds) as client:
            yield OpenAIEmbedder(
                client,
                base_url=base_url,
                api_key=api_key,
                model=model or openai.MODEL,
                dimensions=dimensions or openai.DIMENSIONS,
                asks_dimensions=dimensions is not None,
                tokenizer=counting,
                budget=budget or NoBudget(),
                batch_inputs=batch_inputs,
                batch_tokens=batch_tokens,
                query_prefix=query_prefix or "",
                passage_prefix=passage_prefix or "",
            )


def _check_server(base_url: str, api_key: SecretStr | None) -> None:
    if httpx.URL(base_url).scheme not in {"http", "https"}:
        raise EmbeddingRefused("EMBEDDING_BASE_URL must begin with http:// or https://.")
    if api_key is not None and not api_key.get_secret_value().strip().isascii():
        raise EmbeddingRefused("EMBEDDING_API_KEY has characters that no key has.")


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
