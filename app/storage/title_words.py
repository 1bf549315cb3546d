"""Words of the title that a person gave a document: they count as words of its file name do.

They stand among the words of its versions (document_words.py). `text_share` is what `share` was before: so a
title comes and goes without a look at the chunks, however many there are. 0: the row is the title's alone;
NULL: the title has no part in it.
"""

from typing import Final
from uuid import UUID

from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.canonical import canonical
from app.storage.languages import CONFIG_OF_OLD, text_search_vector
from app.storage.runs.conditions import IS_OPEN

# A condition on `documents d` and `ingestions i`, for backfill.find_lacking.
LACKS_TITLE: Final = "d.title IS NOT NULL AND i.has_counted_words AND NOT i.has_counted_title"


async def count_title(connection: AsyncConnection, ingestion_id: UUID) -> None:
    """Give the words of a version, once they are counted, those of its document's title.

    Waits for who is changing the title; who changes it after this does the same for the version.
    """
    found = await connection.execute(
        sql("""
        SELECT id, title FROM documents WHERE :id IN (live_ingestion_id, latest_ingestion_id) FOR KEY SHARE
        """),
        {"id": ingestion_id},
    )
    row = found.one_or_none()
    if row is not None and row.title is not None:
        await store_title(connection, row.id, row.title)


async def store_title(connection: AsyncConnection, document_id: UUID, title: str | None) -> None:
    """Exchange the title's words in the served version and the one in work, if it is still the title."""
    await connection.execute(
        _STORE_TITLE, {"document_id": document_id, "title": title, "words": canonical(title or "")}
    )


_IS_GONE: Final = """old.ingestion_id = version_id AND NOT EXISTS (
    SELECT FROM word WHERE word.version_id = old.ingestion_id AND word.lexeme = old.lexeme
)"""
# The version's row is held: a run that ends meanwhile would delete its words without seeing ours.
_STORE_TITLE: Final = sql(f"""
    WITH document AS MATERIALIZED (
        SELECT live_ingestion_id, latest_ingestion_id FROM documents
        WHERE id = :document_id AND title IS NOT DISTINCT FROM CAST(:title AS text) FOR KEY SHARE
    ), version AS (
        UPDATE ingestions SET has_counted_title = true FROM document
        WHERE id = ANY (ARRAY[live_ingestion_id, latest_ingestion_id])
            AND (id = live_ingestion_id OR {IS_OPEN}) AND has_counted_words
        RETURNING id AS version_id, rows_collection_id AS collection_id,
            CAST(coalesce(text_search_config, '{CONFIG_OF_OLD}') AS regconfig) AS config
    ), word AS MATERIALIZED (
        SELECT version_id, collection_id, lexeme
        FROM version, unnest({text_search_vector("config", "CAST(:words AS text)")})
    ), gone AS (
        DELETE FROM document_words old USING version WHERE text_share = 0 AND {_IS_GONE}
    ), restored AS (
        UPDATE document_words old SET share = text_share, text_share = NULL
        FROM version WHERE text_share > 0 AND {_IS_GONE}
    )
    INSERT INTO document_words (ingestion_id, collection_id, lexeme, share, is_on_first_page, text_share)
    SELECT version_id, collection_id, lexeme, 1, false, 0 FROM word
    ON CONFLICT (ingestion_id, lexeme) DO UPDATE
        SET share = 1, text_share = coalesce(document_words.text_share, document_words.share)
""")
