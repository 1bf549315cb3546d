"""An embedding server of each test's own."""

from collections.abc import Iterator

import pytest

from app.local.chaos.embedding_stub import EmbeddingStub, serving


@pytest.fixture
def stub() -> EmbeddingStub:
    return EmbeddingStub(dimensions=64)


@pytest.fixture
def embedding_url(stub: EmbeddingStub) -> Iterator[str]:
    with serving(stub.app) as url:
        yield url
