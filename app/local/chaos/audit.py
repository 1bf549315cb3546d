"""Counting afterwards: what is stored against what an undisturbed run has stored."""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from app.local.chaos.watcher import Watcher

# A document's chunks in order: ordinal, hash of the text, hash of its vectors (all of them).
Content = tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Remains:
    """What is stored and belongs to nothing."""

    chunks: int
    vectors: int
    files: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.chunks or self.vectors or self.files)


async def embeddings_table(watcher: Watcher) -> str:
    (space,) = await watcher.query("SELECT id FROM embedding_spaces WHERE is_live")
    return f"embeddings_{space['id']}"


async def contents(watcher: Watcher, documents: Iterable[UUID]) -> dict[UUID, Content]:
    """What is served of each document; one that is not there, or not ready, has no chunks."""
    table = await embeddings_table(watcher)
    asked = list(documents)
    rows = await watcher.query(
        f"""
        SELECT d.id, c.ordinal, md5(c.text) AS text, (
            SELECT md5(string_agg(e.embedding::text, ' ')) FROM {table} e WHERE e.chunk_id = c.id
        ) AS vectors
        FROM documents d JOIN chunks c ON c.ingestion_id = d.live_ingestion_id
        WHERE d.id = ANY($1) ORDER BY d.id, c.ordinal
        """,  # noqa: S608 - the table's name has a number of ours in it
        asked,
    )
    found: dict[UUID, list[tuple[int, str, str]]] = {document_id: [] for document_id in asked}
    for row in rows:
        found[row["id"]].append((row["ordinal"], row["text"], row["vectors"] or "none"))
    return {document_id: tuple(chunks) for document_id, chunks in found.items()}


def count_doubled(content: Content, truth: Content) -> int:
    """Chunks whose text is there more often than it should be."""
    surplus = Counter(text for _, text, _ in content) - Counter(text for _, text, _ in truth)
    return sum(count for text, count in surplus.items() if any(text == known for _, known, _ in truth))


async def count_remains(watcher: Watcher, folder: Path) -> Remains:
    """Chunks, words and vectors that no served or unfinished ingestion owns; files that no row names."""
    table = await embeddings_table(watcher)
    owned = """
        SELECT live_ingestion_id FROM documents WHERE live_ingestion_id IS NOT NULL
        UNION SELECT id FROM ingestions WHERE finished_at IS NULL
    """
    (row,) = await watcher.query(
        f"""
        WITH owned(id) AS ({owned})
        SELECT (SELECT count(*) FROM chunks WHERE ingestion_id NOT IN (SELECT id FROM owned)) + (
                SELECT count(*) FROM document_words WHERE ingestion_id NOT IN (SELECT id FROM owned)
            ) AS chunks,
            (SELECT count(*) FROM {table} e
                WHERE NOT EXISTS (SELECT FROM chunks c WHERE c.id = e.chunk_id)
                OR e.ingestion_id NOT IN (SELECT id FROM owned)) AS vectors
        """  # noqa: S608 - see above
    )
    keys = await watcher.query("SELECT storage_key FROM ingestions WHERE storage_key IS NOT NULL")
    named = {key["storage_key"] for key in keys}
    files = await asyncio.to_thread(_file_names, folder)
    return Remains(row["chunks"], row["vectors"], frozenset(files - named))


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
