"""The fenced lease: who may work on an ingestion, proven again inside every statement that writes.

Each function below is one statement, run outside a transaction block, so that a process that is
stopped at any moment holds no lock. A write carries the lease's epoch; when no row comes back the
lease belongs to somebody else (or nobody) and nothing was written: LeaseLost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from app.errors import LeaseLost, PDFIngestError
from app.pdf.pages import DocumentFacts
from app.storage.canonical import canonical
from app.storage.chunks import Chunk, embeddings_table
from app.storage.database import halfvecs
from app.storage.document_words import INSERT_WORDS, VERSION
from app.storage.languages import TextLanguage, chunk_vector
from app.storage.models import Ingestion

LEASE_SECONDS = 3.0
PAUSES_SECONDS = (0, 1, 5, 20, 60)
"""Before the attempt after the first, second … death. A whole fleet that is killed again and again for a
minute ends no innocent run: the pauses alone take longer."""
MAX_DEATHS = len(PAUSES_SECONDS) + 1
"""A run whose own process died this often, without progress in between, is given up as worker_lost."""
LOSSES_IN_COMPANY = 2
"""So often a lost lease may be somebody else's fault. Then the run goes on alone in its process, and what
happens to that is its own."""
COMPANY_SECONDS = 120
"""Nothing waits longer for a process of its own."""

IS_OURS = "id = :id AND lease_epoch = :epoch AND status = 'processing'"
NEW_LEASE = f"clock_timestamp() + interval '{LEASE_SECONDS} seconds'"
# For a while after Postgres' own start no lease is lost: its holders could not have renewed it.
IS_EXPIRED = (
    "lease_expires_at < clock_timestamp() "
    f"AND clock_timestamp() > pg_postmaster_start_time() + interval '{LEASE_SECONDS} seconds'"
)
# A queued ingestion, or one whose time for another attempt has come.
IS_DUE = "status IN ('queued', 'retrying') AND coalesce(next_attempt_at <= clock_timestamp(), true)"
# What was lost too often without progress waits for a process that has nothing else in work, and has it for
# itself: in a pool of threads a crash takes all of them.
IS_IN_GOOD_COMPANY = f"""NOT EXISTS (
    SELECT FROM ingestions AS other WHERE other.status = 'processing' AND other.worker = :worker AND (
        other.losses >= {LOSSES_IN_COMPANY} OR ingestions.losses >= {LOSSES_IN_COMPANY}
        AND ingestions.next_attempt_at > clock_timestamp() - interval '{COMPANY_SECONDS} seconds'
    )
)"""
SLOW_TURN_SECONDS = 120
"""What has been slow for so long has waited for its turn, and counts as any other."""
IS_SLOW = f"""(
    is_slow AND coalesce(slow_since, created_at) > clock_timestamp() - interval '{SLOW_TURN_SECONDS} seconds'
)"""
# Processes that have work, or asked for some a moment ago.
RUNNING = """(
    SELECT count(*) FROM (
        SELECT holder FROM workers WHERE seen_at > clock_timestamp() - interval '10 seconds'
        UNION SELECT worker FROM ingestions WHERE status = 'processing'
    ) AS running
)"""
# Half of the processes may read slow files at a time, so that these cannot hold every one of them; the only
# process looks at them last.
LANE_SIZE = f"CASE WHEN {RUNNING} > 1 THEN {RUNNING} / 2 ELSE 0 END"
IS_LANE_FREE = f"""(
    NOT EXISTS (SELECT FROM ingestions WHERE {IS_DUE} AND NOT {IS_SLOW})
    OR (SELECT count(*) FROM ingestions WHERE status = 'processing' AND {IS_SLOW}) < {LANE_SIZE}
)"""
# What is due for so long found no free worker.
IS_WAITING = f"""
    {IS_DUE} AND NOT {IS_SLOW}
    AND coalesce(next_attempt_at, created_at) < clock_timestamp() - interval '0.5 seconds'
"""
FAILED = """
    status = 'error', error_code = :code, error_message = :message, chunks = 0, password = NULL,
    finished_at = clock_timestamp(), lease_expires_at = NULL, revision = revision + 1
"""


def without_chunks(of: str, space_id: int) -> str:
    """CTEs that delete the chunks, words and vectors of the ingestions in the CTE `of`."""
    return f"""
        gone_chunks AS (DELETE FROM chunks USING {of} WHERE chunks.ingestion_id = {of}.id),
        gone_words AS (DELETE FROM document_words USING {of} WHERE document_words.ingestion_id = {of}.id),
        gone_vectors AS (
            DELETE FROM {embeddings_table(space_id)} e USING {of} WHERE e.ingestion_id = {of}.id
        )
    """


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for an ingestion until the epoch changes."""

    ingestion_id: UUID
    epoch: int
    storage_key: str
    password: bytes | None
    retries: int
    document_id: UUID
    attempt: int
    filename: str


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """How many chunks a run has stored, and a hash of them all."""

    count: int
    digest: bytes


@dataclass(slots=True)
class Progress:
    """How far a run has come; written with each heartbeat."""

    stage: str = "reading"
    pages_done: int = 0
    pages_total: int | None = None

    def advance(self, pages_done: int) -> None:
        """Pages are read ahead, then split: what was shown as done stays done."""
        self.pages_done = max(self.pages_done, pages_done)


async def claim(connection: AsyncConnection, ingestion_id: UUID, worker: str) -> Lease | None:
    """Take the lease of work that is due; None when there is nothing to take.

    Only a document's newest ingestion is worked on; one that waits for another with the same content is
    not its newest. What is slow waits until the slow lane is free, and everything for the end of an outage.
    """
    statement = text(f"""
        WITH seen AS (
            INSERT INTO workers (holder, seen_at) VALUES (:worker, clock_timestamp())
            ON CONFLICT (holder) DO UPDATE SET seen_at = excluded.seen_at
        )
        UPDATE ingestions SET
            status = 'processing', stage = 'reading', worker = :worker, attempt = attempt + 1,
            next_attempt_at = NULL,
            lease_epoch = lease_epoch + 1, lease_expires_at = {NEW_LEASE},
            started_at = coalesce(started_at, clock_timestamp()), revision = revision + 1
        WHERE id = :id AND {IS_DUE} AND (NOT {IS_SLOW} OR {IS_LANE_FREE}) AND {IS_IN_GOOD_COMPANY}
            AND NOT EXISTS (SELECT FROM outages)
            AND EXISTS (SELECT FROM documents WHERE latest_ingestion_id = ingestions.id)
        RETURNING lease_epoch, storage_key, password, retries, document_id, attempt, filename
    """)
    found = await connection.execute(statement, {"id": ingestion_id, "worker": worker})
    row = found.one_or_none()
    if row is None:
        return None
    return Lease(
        ingestion_id,
        row.lease_epoch,
        row.storage_key or "",
        row.password,
        row.retries,
        row.document_id,
        row.attempt,
        row.filename,
    )


async def is_due(connection: AsyncConnection, ingestion_id: UUID) -> bool:
    """Whether an ingestion waits for somebody to go on with it."""
    found = await connection.scalar(
        text(f"SELECT true FROM ingestions WHERE id = :id AND {IS_DUE}"), {"id": ingestion_id}
    )
    return found is not None


async def renew(connection: AsyncConnection, lease: Lease, progress: Progress) -> None:
    """The heartbeat: prove and extend the lease, and show how far the work is. More pages are progress."""
    await _write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, stage = :stage,
            losses = CASE WHEN :pages_done > pages_done THEN 0 ELSE losses END,
            deaths = CASE WHEN :pages_done > pages_done THEN 0 ELSE deaths END,
            pages_done = greatest(pages_done, :pages_done),
            pages_total = coalesce(CAST(:pages_total AS int), pages_total), revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        stage=progress.stage,
        pages_done=progress.pages_done,
        pages_total=progress.pages_total,
    )


async def enter_slow_lane(connection: AsyncConnection, lease: Lease) -> bool:
    """Mark a run as slow if anything else waits; False when it must make way.

    It must when as many others as the lane has room for were slow before it; not when it has made way before,
    and waited for its turn.
    """
    found = await connection.execute(
        text(f"""
        WITH mine AS (
            UPDATE ingestions SET is_slow = true, slow_since = coalesce(slow_since, clock_timestamp())
            WHERE {IS_OURS} AND EXISTS (SELECT FROM ingestions WHERE {IS_WAITING})
            RETURNING id, slow_since
        )
        SELECT mine.slow_since < clock_timestamp() - interval '{SLOW_TURN_SECONDS} seconds' OR (
            SELECT count(*) FROM ingestions AS other WHERE status = 'processing' AND is_slow
            AND (other.slow_since, other.id) < (mine.slow_since, mine.id)
        ) < {LANE_SIZE} FROM mine
        """),
        {"id": lease.ingestion_id, "epoch": lease.epoch},
    )
    may_go_on: bool | None = found.scalar()
    return may_go_on is not False


async def begin(
    connection: AsyncConnection, lease: Lease, space_id: int, facts: DocumentFacts, recipe: str
) -> StoredChunks:
    """Note what the reader found; the chunks stored by an earlier attempt.

    Chunks cut by another recipe (reader, splitter or embedding space) cannot be continued: they go.
    """
    row = await _write_row(
        connection,
        lease,
        f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, engine = :engine, title = :title,
                pages_total = :pages_total, recipe = :recipe, revision = revision + 1,
                chunks = CASE WHEN recipe = :recipe AND chunks_hash IS NOT NULL THEN chunks ELSE 0 END,
                pages_done = CASE WHEN recipe = :recipe THEN pages_done ELSE 0 END
            WHERE {IS_OURS} RETURNING id, chunks, chunks_hash
        ), unusable AS (SELECT id FROM lease WHERE chunks = 0),
        {without_chunks("unusable", space_id)}
        SELECT chunks, chunks_hash FROM lease
        """,
        engine=facts.engine,
        title=facts.title,
        pages_total=facts.pages_total,
        recipe=recipe,
    )
    return StoredChunks(row.chunks, row.chunks_hash if row.chunks else b"")


async def begin_anew(connection: AsyncConnection, lease: Lease, space_id: int) -> None:
    """What earlier attempts have stored goes: it is not what is read now."""
    await _write(
        connection,
        lease,
        f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, chunks = 0, revision = revision + 1
            WHERE {IS_OURS} RETURNING id
        ), {without_chunks("lease", space_id)}
        SELECT id FROM lease
        """,
    )


async def store(  # noqa: PLR0913 - a batch, and what proves and describes it
    connection: AsyncConnection,
    lease: Lease,
    space_id: int,
    chunks: Sequence[Chunk],
    vectors: NDArray[np.float32],
    progress: Progress,
    *,
    language: TextLanguage,
    digest: bytes,
) -> None:
    """Insert chunks with their `(len(chunks), dimensions)` vectors; `digest`: the hash of all up to these.

    The language is the document's, the same for all of its chunks.
    """
    await _write(
        connection,
        lease,
        _store(space_id),
        stage=progress.stage,
        pages_done=progress.pages_done,
        stored=chunks[-1].ordinal + 1,
        language=language.code,
        config=language.config,
        digest=digest,
        vectors=halfvecs(vectors),
        **_columns(chunks),
    )


def _store(space_id: int) -> str:
    return f"""
        WITH lease AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, stage = :stage,
                pages_done = greatest(pages_done, :pages_done), chunks = :stored,
                chunks_hash = :digest, losses = 0, deaths = 0, retries = 0, revision = revision + 1,
                language = :language, text_search_config = CAST(:config AS text)
            WHERE {IS_OURS} RETURNING id
        ), batch AS (
            SELECT lease.id AS ingestion_id, chunk.* FROM lease, unnest(
                CAST(:ids AS uuid[]), CAST(:ordinals AS int[]), CAST(:page_starts AS int[]),
                CAST(:page_ends AS int[]), CAST(:boxes AS text[]), CAST(:headings AS text[]),
                CAST(:texts AS text[]), CAST(:tokens AS int[]), CAST(:hidden AS bool[]),
                CAST(:heading_words AS text[]), CAST(:words AS text[]), CAST(:vectors AS halfvec[])
            ) AS chunk(
                id, ordinal, page_start, page_end, boxes, heading, text, tokens, hidden_text,
                heading_words, words, embedding
            )
        ), new_chunks AS (
            INSERT INTO chunks (
                id, ingestion_id, ordinal, page_start, page_end, boxes, heading, text, tokens, hidden_text,
                tsv
            )
            SELECT id, ingestion_id, ordinal, page_start, page_end, CAST(boxes AS jsonb), heading, text,
                tokens, hidden_text, {_TEXT_SEARCH_VECTOR}
            FROM batch
        ), new_vectors AS (
            INSERT INTO {embeddings_table(space_id)} (chunk_id, ingestion_id, embedding)
            SELECT id, ingestion_id, embedding FROM batch
        )
        SELECT id FROM lease
        """


def _columns(chunks: Sequence[Chunk]) -> dict[str, list[Any]]:
    """One array a column, for unnest: a single parameter however many rows."""
    return {
        "ids": [uuid7() for _ in chunks],
        "ordinals": [chunk.ordinal for chunk in chunks],
        "page_starts": [chunk.page_start for chunk in chunks],
        "page_ends": [chunk.page_end for chunk in chunks],
        "boxes": [orjson.dumps([(page, *box) for page, box in chunk.boxes]).decode() for chunk in chunks],
        "headings": [chunk.heading for chunk in chunks],
        "texts": [chunk.text for chunk in chunks],
        "tokens": [chunk.tokens for chunk in chunks],
        "hidden": [chunk.hidden_text for chunk in chunks],
        "heading_words": [_words(chunk.heading) for chunk in chunks],
        "words": [_words(chunk.text) for chunk in chunks],
    }


def _words(text: str | None) -> str | None:
    """The canonical form where it differs: plain text is sent once."""
    if text is None or (words := canonical(text)) == text:
        return None
    return words


_TEXT_SEARCH_VECTOR = chunk_vector(
    "CAST(CAST(:config AS text) AS regconfig)", "coalesce(heading_words, heading)", "coalesce(words, text)"
)


async def count_words(connection: AsyncConnection, lease: Lease, name: str) -> None:
    """Count the words of all stored chunks; `name` is the file's, in canonical form."""
    await _write(
        connection,
        lease,
        f"""
        WITH version AS (
            UPDATE ingestions SET lease_expires_at = {NEW_LEASE}, has_counted_words = true
            WHERE {IS_OURS} RETURNING {VERSION}
        ), counted AS ({INSERT_WORDS})
        SELECT version_id FROM version
        """,
        name=name,
    )


async def publish(
    connection: AsyncConnection,
    lease: Lease,
    space_id: int,
    *,
    pages_failed: Sequence[int],
    pages_without_text: Sequence[int],
    stage_seconds: dict[str, float],
) -> int:
    """Make the ingestion the document's live one and remove the one it replaces, all at once.

    The document's row is locked first, here and wherever both tables are written. Returns the chunks.
    """
    chunks: int = await _write(
        connection,
        lease,
        f"""
        WITH document AS (
            SELECT id, live_ingestion_id FROM documents WHERE latest_ingestion_id = :id FOR UPDATE
        ), published AS (
            UPDATE ingestions SET status = 'success', stage = 'publishing', finished_at = clock_timestamp(),
                password = NULL, lease_expires_at = NULL, revision = revision + 1,
                pages_done = coalesce(pages_total, pages_done),
                pages_failed = CAST(:pages_failed AS bigint[]), stage_seconds = CAST(:stage_seconds AS jsonb),
                pages_without_text = CAST(:pages_without_text AS bigint[])
            FROM document WHERE ingestions.{IS_OURS} RETURNING ingestions.id, chunks
        ), pointer AS (
            UPDATE documents SET live_ingestion_id = published.id, updated_at = clock_timestamp()
            FROM published WHERE latest_ingestion_id = published.id
        ), replaced AS (
            SELECT ingestions.id, storage_key FROM published, document
            JOIN ingestions ON ingestions.id = document.live_ingestion_id WHERE ingestions.id <> :id
        ), {without_chunks("replaced", space_id)},
        keyless AS (UPDATE ingestions SET storage_key = NULL FROM replaced WHERE ingestions.id = replaced.id),
        unneeded AS (
            INSERT INTO files_to_delete (storage_key)
            SELECT storage_key FROM replaced WHERE storage_key IS NOT NULL ON CONFLICT DO NOTHING
        )
        SELECT chunks FROM published
        """,
        pages_failed=list(pages_failed),
        pages_without_text=list(pages_without_text),
        stage_seconds=orjson.dumps(stage_seconds).decode(),
    )
    return chunks


async def fail(connection: AsyncConnection, lease: Lease, space_id: int, error: PDFIngestError) -> None:
    """The final verdict of a run that cannot succeed; its partial chunks and its password go."""
    await _write(
        connection,
        lease,
        f"""
        WITH ended AS (
            UPDATE ingestions SET {FAILED} WHERE {IS_OURS} RETURNING id
        ), {without_chunks("ended", space_id)}
        SELECT id FROM ended
        """,
        code=error.code,
        message=error.message,
    )


async def retry_later(
    connection: AsyncConnection, lease: Lease, error: PDFIngestError, delay_seconds: float
) -> None:
    """Give the lease back after a temporary failure; what is stored stays and is continued."""
    await _write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET status = 'retrying', stage = 'queued', lease_expires_at = NULL, worker = NULL,
            error_code = :code, error_message = :message, retries = retries + 1,
            next_attempt_at = clock_timestamp() + make_interval(secs => :delay_seconds), rung_at = NULL,
            rings = 0, revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        code=error.code,
        message=error.message,
        delay_seconds=delay_seconds,
    )


async def give_up_attempt(
    connection: AsyncConnection, lease: Lease, space_id: int, error: PDFIngestError
) -> float | None:
    """Try again later what died of a cause that may be its own; the pause in seconds.

    None when this was once too often: then the error is the verdict.
    """
    found = await connection.execute(
        text(f"""
        WITH lost AS (
            SELECT id, true AS is_counted, deaths AS deaths_before FROM ingestions WHERE {IS_OURS} FOR UPDATE
        ), {after_loss(space_id)}
        SELECT pause_seconds FROM requeued UNION ALL SELECT NULL FROM ended
        """),
        {"id": lease.ingestion_id, "epoch": lease.epoch, "code": error.code, "message": error.message},
    )
    row = found.one_or_none()
    if row is None:
        raise LeaseLost
    pause_seconds: float | None = row.pause_seconds
    return pause_seconds


def after_loss(space_id: int) -> str:
    """CTEs that end the runs of the CTE `lost` (id, is_counted, deaths_before) or queue them again."""
    is_over = f"is_counted AND deaths_before + 1 >= {MAX_DEATHS}"
    pauses = ", ".join(map(str, PAUSES_SECONDS))
    return f"""
        ended AS (
            UPDATE ingestions SET {FAILED} FROM lost WHERE ingestions.id = lost.id AND {is_over}
            RETURNING ingestions.id, document_id
        ), paused AS (
            SELECT id, CAST(is_counted AS int) AS death,
                CASE WHEN is_counted THEN (ARRAY[{pauses}])[deaths_before + 1] ELSE 0 END AS seconds
            FROM lost WHERE NOT ({is_over})
        ), requeued AS (
            UPDATE ingestions SET
                status = CASE WHEN seconds > 0 THEN 'retrying' ELSE 'queued' END, stage = 'queued',
                lease_expires_at = NULL, worker = NULL, losses = losses + 1, deaths = deaths + death,
                next_attempt_at = clock_timestamp() + make_interval(secs => seconds),
                rung_at = CASE WHEN seconds = 0 THEN clock_timestamp() END,
                rings = CASE WHEN seconds = 0 THEN 1 ELSE 0 END, revision = revision + 1
            FROM paused WHERE ingestions.id = paused.id
            RETURNING ingestions.id, document_id, seconds AS pause_seconds
        ), {without_chunks("ended", space_id)}
    """


async def release(
    connection: AsyncConnection, lease: Lease, *, is_slow: bool = False, is_counted: bool = True
) -> None:
    """Give the lease back unharmed, for example on shutdown; anybody may go on at once.

    What is slow can go on as soon as the slow lane is free. `is_counted`: the attempt was one.
    """
    await _write(
        connection,
        lease,
        f"""
        UPDATE ingestions SET status = 'queued', stage = 'queued', lease_expires_at = NULL, worker = NULL,
            rung_at = NULL, rings = 0, is_slow = is_slow OR :is_slow,
            slow_since = CASE WHEN :is_slow THEN coalesce(slow_since, clock_timestamp()) ELSE slow_since END,
            attempt = attempt - CAST(NOT :is_counted AS int), revision = revision + 1
        WHERE {IS_OURS} RETURNING id
        """,
        is_slow=is_slow,
        is_counted=is_counted,
    )


async def _write(connection: AsyncConnection, lease: Lease, statement: str, **parameters: Any) -> Any:
    """Run a fenced statement; the first column of its row. Raises LeaseLost when no row came back."""
    return (await _write_row(connection, lease, statement, **parameters))[0]


async def _write_row(
    connection: AsyncConnection, lease: Lease, statement: str, **parameters: Any
) -> Row[Any]:
    found = await connection.execute(
        text(statement), {"id": lease.ingestion_id, "epoch": lease.epoch, **parameters}
    )
    row = found.one_or_none()
    if row is None:
        raise LeaseLost
    return row


async def find(connection: AsyncConnection, ingestion_id: UUID) -> Row[Any] | None:
    """All columns of the ingestion."""
    found = await connection.execute(select(Ingestion.__table__).where(Ingestion.id == ingestion_id))
    return found.one_or_none()


async def end(connection: AsyncConnection, ingestion_id: UUID, space_id: int, error: PDFIngestError) -> None:
    """End an ingestion that is not final with a verdict, whoever holds it."""
    await connection.execute(
        text(f"""
        WITH ended AS (
            UPDATE ingestions SET {FAILED} WHERE id = :id AND finished_at IS NULL RETURNING id
        ), {without_chunks("ended", space_id)}
        SELECT id FROM ended
        """),
        {"id": ingestion_id, "code": error.code, "message": error.message},
    )
