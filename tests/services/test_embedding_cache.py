"""A text that was embedded before is not paid for again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from app.config import Settings
from app.embeddings.base import EmbeddingIdentity, TokenIds
from app.embeddings.local import built_in_tokenizer
from app.errors import EmbeddingFailed
from app.local.chaos.embedding_stub import EmbeddingStub, vector_of
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.resources import open_services
from app.services.embedding_cache import CachedEmbedder
from app.storage import embedding_cache
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.services.test_outages import upload


class Counting:
    """An embedder that remembers what it was asked."""

    is_contextual = False
    max_tokens = None
    tokenizer = built_in_tokenizer()

    def __init__(self, model: str = "counting", dimensions: int = 64, passage_prefix: str = "") -> None:
        self.identity = EmbeddingIdentity("test", model, dimensions)
        self.passage_prefix = passage_prefix
        self.asked: list[str] = []
        self.token_ids: list[Sequence[int]] = []
        self.is_broken = False

    async def embed(self, texts: Sequence[str], token_ids: TokenIds | None = None) -> NDArray[np.float32]:
        if self.is_broken:
            raise EmbeddingFailed
        self.asked += texts
        self.token_ids += token_ids or ()
        return np.stack([vector_of(one, self.identity.dimensions) for one in texts])

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        return (await self.embed([text]))[0]


def expected(texts: Sequence[str], dimensions: int = 64) -> NDArray[np.float32]:
    return np.stack([vector_of(one, dimensions) for one in texts])


@pytest.fixture(scope="module")
async def own_database_url(postgres: EmbeddedPostgres) -> str:
    return await migrated(postgres, f"cache_{uuid4().hex}")


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    async with database.autocommit() as connection:
        await connection.execute(text("TRUNCATE embedding_cache"))
    yield database
    await database.close()


async def test_only_what_is_new_is_embedded_and_each_text_once(database: Database) -> None:
    embedder = Counting()
    cached = CachedEmbedder(embedder, database)
    first = await cached.embed(["a", "b", "a", "c"], [[1], [2], [1], [3]])
    np.testing.assert_allclose(first, expected(["a", "b", "a", "c"]), atol=1e-3)
    assert sorted(embedder.asked) == ["a", "b", "c"]
    again = await cached.embed(["c", "d", "b"], [[3], [4], [2]])
    np.testing.assert_allclose(again, expected(["c", "d", "b"]), atol=1e-3)
    assert sorted(embedder.asked) == ["a", "b", "c", "d"]
    assert sorted(embedder.token_ids) == [[1], [2], [3], [4]]
    assert again.dtype == np.float32
    embedder.is_broken = True
    np.testing.assert_array_equal(
        (await cached.embed(["a"]))[0].astype(np.float16), first[0].astype(np.float16)
    )


async def test_vectors_are_of_one_model_size_and_prefix(database: Database) -> None:
    others = [Counting("another"), Counting(dimensions=32), Counting(passage_prefix="passage: ")]
    for embedder in (Counting(), *others):
        vectors = await CachedEmbedder(embedder, database).embed(["a"])
        assert vectors.shape == (1, embedder.identity.dimensions)
        assert embedder.asked == ["a"]


async def test_a_failure_leaves_nothing_behind(database: Database) -> None:
    embedder = Counting()
    embedder.is_broken = True
    cached = CachedEmbedder(embedder, database)
    with pytest.raises(EmbeddingFailed):
        await cached.embed(["a"])
    embedder.is_broken = False
    await cached.embed(["a"])
    assert embedder.asked == ["a"]


async def test_many_may_meet_the_same_texts_at_once(database: Database) -> None:
    texts = [f"text {number}" for number in range(200)]
    orders = [texts, texts[::-1], texts[100:] + texts[:100]] * 3
    cached = CachedEmbedder(Counting(), database)
    for made in await asyncio.gather(*(cached.embed(order) for order in orders)):
        assert made.shape == (200, 64)
    async with database.autocommit() as connection:
        await connection.execute(text("UPDATE embedding_cache SET used_at = now() - interval '2 hours'"))
    await asyncio.gather(*(cached.embed(order) for order in orders))
    async with database.autocommit() as connection:
        aged = await connection.scalar(
            text("SELECT count(*) FROM embedding_cache WHERE used_at < now() - interval '1 hour'")
        )
    assert aged == 0


async def test_what_was_not_used_for_longest_goes_first(database: Database) -> None:
    embedder = Counting()
    cached = CachedEmbedder(embedder, database)
    await cached.embed(["old", "older", "oldest"])
    async with database.autocommit() as connection:
        await connection.execute(text("UPDATE embedding_cache SET used_at = now() - interval '1 day'"))
    await cached.embed(["old", "new"])
    async with database.autocommit() as connection:
        assert await embedding_cache.forget_oldest(connection, 2) == 2
        assert await embedding_cache.forget_oldest(connection, 2) == 0
    embedder.asked.clear()
    await cached.embed(["old", "new", "older"])
    assert embedder.asked == ["older"]
    async with database.autocommit() as connection:
        assert await embedding_cache.forget_oldest(connection, 0) == 3


@pytest.fixture
def settings(own_database_url: str, valkey: EmbeddedValkey, embedding_url: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        database_url=own_database_url,
        celery_broker_url=empty_broker(valkey, 12),
        storage_url=(tmp_path / "files").as_uri(),
        embedding_provider="openai",
        embedding_base_url=embedding_url,
        embedding_dimensions=64,
        embedding_cache_rows=1000,
    )


@pytest.mark.parametrize(("rows", "times"), [(1000, 1), (0, 2)])
async def test_a_document_with_the_same_text_is_paid_for_once_if_wanted(
    database: Database, settings: Settings, stub: EmbeddingStub, rows: int, times: int
) -> None:
    settings = settings.model_copy(update={"embedding_cache_rows": rows})
    async with open_services(settings) as services:
        chunks = []
        for _ in range(2):
            task_id: UUID = await upload(services)
            chunks.append(await services.rag.ingest_pdf("", task_id))
        vectors = await vectors_of_all(services.database, services.space_id)
    assert chunks[0] == chunks[1] > 0
    assert set(stub.texts.values()) == {times}
    assert len(set(vectors)) == len(stub.texts), "the same vectors are stored"


async def vectors_of_all(database: Database, space_id: int) -> list[str]:
    async with database.autocommit() as connection:
        rows = await connection.execute(text(f"SELECT embedding::text FROM embeddings_{space_id}"))
        return list(rows.scalars())
