"""What the tests of services share: a workshop, and an embedding server of each test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.chaos.embedding_stub import EmbeddingStub, serving
from app.storage.database import Database
from tests.services.workshop import Workshop


@pytest.fixture
def workshop(database: Database, space_id: int, tmp_path: Path) -> Workshop:
    return Workshop(database, space_id, tmp_path / "files")


@pytest.fixture
def stub() -> EmbeddingStub:
    return EmbeddingStub(dimensions=64)


@pytest.fixture
def embedding_url(stub: EmbeddingStub) -> Iterator[str]:
    with serving(stub.app) as url:
        yield url
