"""Which model's vectors a database holds: decided once, and defended."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.embeddings.base import EmbeddingIdentity
from app.errors import EmbeddingSpaceMismatch
from app.local.embedded import EmbeddedPostgres
from app.storage.chunks import embeddings_table
from app.storage.database import Database, halfvecs
from app.storage.spaces import open_space
from tests.databases import migrated

SMALL = EmbeddingIdentity("local", "small-model", 8)


@pytest.fixture
async def fresh(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """A migrated database that has no embedding space yet."""
    database = Database(await migrated(postgres, request.node.name))
    yield database
    await database.close()


async def insert(database: Database, space_id: int, dimensions: int) -> None:
    vector = halfvecs(np.full((1, dimensions), 0.01, dtype=np.float32))
    async with database.transaction() as connection:
        await connection.execute(
            text(
                f"INSERT INTO {embeddings_table(space_id)} (chunk_id, ingestion_id, embedding)"
                " SELECT gen_random_uuid(), gen_random_uuid(), (CAST(:vector AS halfvec[]))[1]"
            ),
            {"vector": vector},
        )


async def test_processes_that_start_together_make_one_space(fresh: Database) -> None:
    space_ids = await asyncio.gather(*(open_space(fresh, SMALL) for _ in range(8)))
    assert len(set(space_ids)) == 1
    assert await open_space(fresh, SMALL) == space_ids[0]


async def test_a_space_is_a_table_with_an_index_on_vectors_and_one_on_ingestions(fresh: Database) -> None:
    table = embeddings_table(await open_space(fresh, SMALL))
    async with fresh.transaction() as connection:
        rows = await connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE tablename = :table"), {"table": table}
        )
        indexes = " ".join(sorted(row.indexdef for row in rows))
    assert "USING hnsw (embedding halfvec_ip_ops) WITH (m='8')" in indexes
    assert "USING btree (ingestion_id)" in indexes
    assert "UNIQUE INDEX" in indexes


async def test_a_table_that_a_version_before_made_is_kept_apart_when_it_is_opened(fresh: Database) -> None:
    """Beside this version, after its migration."""
    table = embeddings_table(await open_space(fresh, SMALL))
    async with fresh.transaction() as connection:
        await connection.execute(text(f"DROP POLICY reach ON {table}"))
        await connection.execute(text(f"ALTER TABLE {table} DROP COLUMN collection_id"))
        await connection.execute(text(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"))
    for _ in range(2):
        await open_space(fresh, SMALL)
        async with fresh.transaction() as connection:
            await connection.execute(text(f"SELECT collection_id FROM {table}"))
            with_policy = text("SELECT relrowsecurity FROM pg_class WHERE relname = :table")
            assert await connection.scalar(with_policy, {"table": table})


@pytest.mark.parametrize(
    "other",
    [
        EmbeddingIdentity("openai", "small-model", 8),
        EmbeddingIdentity("local", "large-model", 8),
        EmbeddingIdentity("local", "small-model", 16),
    ],
    ids=["provider", "model", "dimensions"],
)
async def test_another_model_is_refused_with_what_to_do(fresh: Database, other: EmbeddingIdentity) -> None:
    space_id = await open_space(fresh, SMALL)
    with pytest.raises(EmbeddingSpaceMismatch) as refused:
        await open_space(fresh, other)
    assert "EMBEDDING_MODEL=small-model" in refused.value.message
    assert f"{other.model} ({other.provider}, {other.dimensions} dimensions)" in refused.value.message
    assert "DATABASE_URL" in refused.value.message
    assert await open_space(fresh, SMALL) == space_id


async def test_the_most_dimensions_an_index_takes_fit_into_a_row(fresh: Database) -> None:
    space_id = await open_space(fresh, EmbeddingIdentity("openai", "wide-model", 4_000))
    await insert(fresh, space_id, 4_000)


async def test_more_dimensions_than_an_index_takes_are_refused(fresh: Database) -> None:
    with pytest.raises(EmbeddingSpaceMismatch, match=r"4,001 .* 4,000.*EMBEDDING_DIMENSIONS"):
        await open_space(fresh, EmbeddingIdentity("openai", "wide-model", 4_001))
    async with fresh.transaction() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM embedding_spaces")) == 0


async def test_vectors_of_another_length_do_not_fit(fresh: Database) -> None:
    space_id = await open_space(fresh, SMALL)
    with pytest.raises(DBAPIError, match="expected 8 dimensions"):
        await insert(fresh, space_id, 9)
