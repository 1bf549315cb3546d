"""A second attempt goes on behind what the first has stored, if it reads the same."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.config import Settings
from app.errors import ChunksDiffer, EmbeddingFailed
from app.local.chaos.embedding_stub import EmbeddingStub, Failure
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.resources import Services, open_services
from app.services.pipeline import EMBEDDING_BATCHES_AT_ONCE
from app.services.resuming import ChunkChain, behind
from app.storage.chunks import Chunk
from app.storage.runs import StoredChunks
from tests.databases import empty_broker, migrated
from tests.services.test_outages import row_of, upload

PAGES = 60


def chunk(ordinal: int, text: str = "") -> Chunk:
    return Chunk(ordinal=ordinal, page_start=1, page_end=1, text=text or f"text {ordinal}", tokens=2)


async def pieces(chunks: list[Chunk], size: int = 3) -> AsyncGenerator[list[Chunk]]:
    for start in range(0, len(chunks), size):
        yield chunks[start : start + size]


async def ordinals(chunks: list[Chunk], stored: StoredChunks) -> list[int]:
    return [one.ordinal async for some in behind(pieces(chunks), stored) for one in some]


def stored(chunks: list[Chunk]) -> StoredChunks:
    return StoredChunks(len(chunks), ChunkChain().add(chunks))


CHUNKS = [chunk(ordinal) for ordinal in range(10)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
async def test_what_is_stored_is_left_out(count: int) -> None:
    assert await ordinals(CHUNKS, stored(CHUNKS[:count])) == list(range(count, 10))


@pytest.mark.parametrize("place", [0, 3])
async def test_one_other_chunk_among_the_stored_ones_is_noticed(place: int) -> None:
    others = [*CHUNKS[:place], chunk(place, "read otherwise"), *CHUNKS[place + 1 :]]
    with pytest.raises(ChunksDiffer):
        await ordinals(others, stored(CHUNKS[:4]))


async def test_fewer_chunks_than_stored_are_noticed() -> None:
    with pytest.raises(ChunksDiffer):
        await ordinals(CHUNKS[:3], stored(CHUNKS[:4]))


def test_the_hash_is_the_same_in_whatever_portions_it_is_made() -> None:
    in_portions = ChunkChain(stored(CHUNKS[:4]).digest)
    assert in_portions.add(CHUNKS[4:]) == stored(CHUNKS).digest


@pytest.fixture
async def services(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, embedding_url: str, tmp_path: Path
) -> AsyncIterator[Services]:
    settings = Settings(
        _env_file=None,
        database_url=await migrated(postgres, f"resuming_{uuid4().hex}"),
        celery_broker_url=empty_broker(valkey, 12),
        storage_url=(tmp_path / "files").as_uri(),
        embedding_provider="openai",
        embedding_base_url=embedding_url,
        embedding_dimensions=64,
        embedding_batch_inputs=1,
        chunk_tokens=32,
    )
    async with open_services(settings) as services:
        yield services


async def cut_off(services: Services, stub: EmbeddingStub) -> UUID:
    """A document of which some chunks are stored, then its attempt ends.

    Several are asked for at once, so which of the requests fails is chance.
    """
    task_id = await upload(services, PAGES)
    stub.behaviour.failures = [*[Failure()] * 9, Failure(garbage="nan")]
    with pytest.raises(EmbeddingFailed):
        await services.rag.ingest_pdf("", task_id)
    assert (
        9 - EMBEDDING_BATCHES_AT_ONCE
        < (await row_of(services, task_id)).chunks
        < 9 + EMBEDDING_BATCHES_AT_ONCE
    )
    async with services.database.transaction() as connection:
        await connection.execute(text("UPDATE ingestions SET next_attempt_at = clock_timestamp()"))
    return task_id


async def texts_of(services: Services, task_id: UUID) -> list[str]:
    async with services.database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT ordinal, text FROM chunks WHERE ingestion_id = :id ORDER BY ordinal"),
            {"id": task_id},
        )
        found = rows.all()
        vectors = await connection.scalar(
            text(f"SELECT count(*) FROM embeddings_{services.space_id} WHERE ingestion_id = :id"),
            {"id": task_id},
        )
    assert [row.ordinal for row in found] == list(range(vectors))
    return [row.text for row in found]


async def test_a_second_attempt_embeds_nothing_again(services: Services, stub: EmbeddingStub) -> None:
    whole = await upload(services, PAGES)
    count = await services.rag.ingest_pdf("", whole)
    task_id = await cut_off(services, stub)
    asked, known = len(stub.requests), (await row_of(services, task_id)).chunks
    assert await services.rag.ingest_pdf("", task_id) == count
    assert len(stub.requests) - asked == count - known
    assert await texts_of(services, task_id) == await texts_of(services, whole)


async def test_chunks_of_another_reading_are_not_gone_on_with(
    services: Services, stub: EmbeddingStub
) -> None:
    """As when OCR went otherwise: the recipe is the same, the text is not."""
    whole = await upload(services, PAGES)
    count = await services.rag.ingest_pdf("", whole)
    task_id = await cut_off(services, stub)
    async with services.database.transaction() as connection:
        await connection.execute(
            text("UPDATE ingestions SET chunks_hash = :hash WHERE id = :id"),
            {"hash": stored(CHUNKS[: (await row_of(services, task_id)).chunks]).digest, "id": task_id},
        )
        await connection.execute(
            text("UPDATE chunks SET text = 'gone' WHERE ingestion_id = :id"), {"id": task_id}
        )
    assert await services.rag.ingest_pdf("", task_id) == count
    assert await texts_of(services, task_id) == await texts_of(services, whole)


async def test_chunks_without_a_hash_are_not_gone_on_with(services: Services, stub: EmbeddingStub) -> None:
    """An earlier version has stored them."""
    task_id = await cut_off(services, stub)
    async with services.database.transaction() as connection:
        await connection.execute(text("UPDATE ingestions SET chunks_hash = NULL"))
    count = await services.rag.ingest_pdf("", task_id)
    assert len(await texts_of(services, task_id)) == count


async def when_a_run_changes(services: Services, change: str, then: str) -> None:
    """Let a change of a run's row take its time, or be refused."""
    name = f"trigger_{uuid4().hex}"
    async with services.database.transaction() as connection:
        await connection.execute(
            text(f"""
            CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {then}; RETURN NULL; END $$
        """)
        )
        await connection.execute(
            text(f"""
            CREATE TRIGGER {name} AFTER UPDATE ON ingestions FOR EACH ROW
            WHEN ({change}) EXECUTE FUNCTION {name}()
        """)
        )


async def test_a_heartbeat_that_waits_behind_the_publishing_loses_no_lease(services: Services) -> None:
    """The run's row is locked by what publishes it for longer than a heartbeat, as on a busy disk."""
    await when_a_run_changes(services, "NEW.status = 'success'", "PERFORM pg_sleep(2.5)")
    assert await services.rag.ingest_pdf("", await upload(services)) > 0


async def test_a_heartbeat_from_before_the_first_page_takes_no_number_of_pages_back(
    services: Services,
) -> None:
    """It waits for what writes the number down, and comes after it."""
    await when_a_run_changes(services, "OLD.recipe IS DISTINCT FROM NEW.recipe", "PERFORM pg_sleep(0.6)")
    await when_a_run_changes(services, "NEW.pages_total < OLD.pages_total", "RAISE EXCEPTION 'taken back'")
    task_id = await upload(services, pages=2)
    await services.rag.ingest_pdf("", task_id)
    row = await row_of(services, task_id)
    assert (row.status, row.pages_done, row.pages_total) == ("success", 2, 2)
