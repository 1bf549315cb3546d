"""What versions of documents lack that were published before there was such a thing, and how it is added.

Each function is one short statement; repeated, it does the same again. The document's row is held
while its chunks change, as everywhere: nobody replaces or deletes it in the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text as sql

from app.storage.canonical import RECIPE, canonical
from app.storage.database import Connection
from app.storage.languages import ACCENTED, CONFIG_OF_OLD, TextLanguage, chunk_vector

LACKS_FORM: Final = f"right(i.recipe, {len(RECIPE)}) IS DISTINCT FROM '{RECIPE}'"
LACKS_WORDS: Final = "NOT i.has_counted_words"  # conditions on `ingestions i`, for find_lacking


async def find_lacking(connection: Connection, lacks: str, after: UUID, limit: int) -> Sequence[UUID]:
    """The next published ingestions that lack something, in the order of their ids."""
    found = await connection.execute(
        sql(f"""
        SELECT i.id FROM documents d JOIN ingestions i ON i.id = d.live_ingestion_id
        WHERE d.live_ingestion_id > :after AND {lacks} ORDER BY d.live_ingestion_id LIMIT :limit
        """),
        {"after": after, "limit": limit},
    )
    return found.scalars().all()


@dataclass(frozen=True, slots=True)
class OldChunk:
    """What the words of a chunk are made of."""

    ordinal: int
    heading: str | None
    text: str

    def changes_in(self, language: TextLanguage) -> bool:
        """Whether its words come out otherwise than they did: plain English ones do not."""
        texts = [self.text, self.heading or ""]
        return language.config != CONFIG_OF_OLD or any(
            ACCENTED.search(text) or canonical(text) != text for text in texts
        )


async def list_texts(
    connection: Connection, ingestion_id: UUID, after_ordinal: int, limit: int
) -> list[OldChunk]:
    """The next `limit` chunks after `after_ordinal` (-1: from the first), in order."""
    found = await connection.execute(
        sql("""
        SELECT ordinal, heading, text FROM chunks
        WHERE ingestion_id = :id AND ordinal > :after ORDER BY ordinal LIMIT :limit
        """),
        {"id": ingestion_id, "after": after_ordinal, "limit": limit},
    )
    return [OldChunk(row.ordinal, row.heading, row.text) for row in found]


async def store_words(
    connection: Connection, ingestion_id: UUID, language: TextLanguage, chunks: Sequence[OldChunk]
) -> None:
    """Make the words of these chunks anew, in this language."""
    await connection.execute(
        _STORE_WORDS,
        {
            "id": ingestion_id,
            "config": language.config,
            "ordinals": [chunk.ordinal for chunk in chunks],
            "headings": [canonical(chunk.heading or "") for chunk in chunks],
            "texts": [canonical(chunk.text) for chunk in chunks],
        },
    )


async def find_filename(connection: Connection, ingestion_id: UUID) -> str:
    found = await connection.execute(
        sql("SELECT filename FROM ingestions WHERE id = :id"), {"id": ingestion_id}
    )
    return str(found.scalar_one())


async def find_known_language(connection: Connection, ingestion_id: UUID) -> TextLanguage | None:
    """That of an ingestion's words; None if they were made before there was a choice."""
    found = await connection.execute(
        sql("SELECT language, text_search_config FROM ingestions WHERE id = :id"), {"id": ingestion_id}
    )
    row = found.one()
    return TextLanguage(row.language, row.text_search_config) if row.text_search_config else None


async def store_language(connection: Connection, ingestion_id: UUID, language: TextLanguage) -> None:
    """The words of all chunks are in this language now."""
    await connection.execute(
        sql("UPDATE ingestions SET language = :language, text_search_config = :config WHERE id = :id"),
        {"id": ingestion_id, "language": language.code, "config": language.config},
    )


async def note_form(connection: Connection, ingestion_id: UUID) -> None:
    """All words of the document are in today's form."""
    recipe = f"coalesce(regexp_replace(recipe, ' words \\d+$', ''), '') || '{RECIPE}'"
    await connection.execute(
        sql(f"UPDATE ingestions SET recipe = {recipe} WHERE id = :id"), {"id": ingestion_id}
    )


_VECTOR: Final = chunk_vector("CAST(CAST(:config AS text) AS regconfig)", "old.heading", "old.text")
_STORE_WORDS: Final = sql(f"""
    WITH document AS MATERIALIZED (SELECT FROM documents WHERE live_ingestion_id = :id FOR KEY SHARE)
    UPDATE chunks SET tsv = {_VECTOR}
    FROM document, unnest(CAST(:ordinals AS int[]), CAST(:headings AS text[]), CAST(:texts AS text[]))
        AS old(ordinal, heading, text)
    WHERE chunks.ingestion_id = :id AND chunks.ordinal = old.ordinal
""")
