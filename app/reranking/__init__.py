"""A second look at what was found: a cross-encoder reads query and passage together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from app.errors import EmbeddingRefused
from app.loopback import open_client
from app.reranking.cross_encoder import CrossEncoder
from app.reranking.over_http import HTTPReranker
from app.reranking.reranker import Reranker

__all__ = ["open_reranker"]


@asynccontextmanager
async def open_reranker(
    *,
    provider: str,
    base_url: str | None = None,
    api_key: SecretStr | None = None,
    model: str | None = None,
    model_path: Path | None = None,
    threads: int = 1,
) -> AsyncIterator[Reranker | None]:
    """The reranker of a provider ("off", "http" or "fastembed"); it belongs to the running event loop.

    Raises EmbeddingRefused for settings that cannot work; nothing is asked, loaded or downloaded yet.
    """
    if provider == "off":
        yield None
    elif provider == "fastembed":
        yield CrossEncoder(model=model, folder=model_path, threads=threads)
    else:
        url = base_url or ""
        try:
            client = open_client(url, timeout=None)  # who asks has a limit
        except ValueError as error:
            raise EmbeddingRefused(str(error)) from error
        async with client:
            yield HTTPReranker(client, base_url=url, api_key=api_key, model=model)
