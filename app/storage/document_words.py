"""Which words a document is about: for each published version, the words that many of its chunks hold.

A library is searched documents first, and this table tells which: `share` is the part of the version's
chunks that hold the word; 1 for a word of its file name, at least FIRST_PAGE_SHARE for one on its first
page. Other words that stand in one chunk only, or in less than 2 % of them, have no row: of 560 to 700
rows a quarterly report of 200 chunks has, of all its words there would be 2,500. Titles that people give
add theirs (title_words.py).
"""

from typing import Final
from uuid import UUID

from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.languages import CONFIG_OF_OLD, text_search_vector

LEAST_SHARE: Final = 0.02
FIRST_PAGE_SHARE: Final = 0.1
FIRST_PAGE_CHARACTERS: Final = 2_000  # chunks that begin within so many are the first page, at most 20
FIRST_PAGE_CHUNKS: Final = 20

# What `ingestions.rows_collection_id` becomes where it is needed. Of what is being moved at this moment the
# run's row tells: that is read again when it is free.
NUMBER: Final = """coalesce(rows_collection_id, (
    SELECT collection_id FROM documents WHERE documents.id = document_id
))"""

# What to return of `ingestions` as the CTE `version`; :name is that of the file, in canonical form.
VERSION: Final = f"""
    ingestions.id AS version_id, rows_collection_id AS collection_id, chunks, CAST(:name AS text) AS name,
    CAST(coalesce(text_search_config, '{CONFIG_OF_OLD}') AS regconfig) AS config
"""

_WORDS: Final = f"""
    SELECT version_id, collection_id, lexeme, max(share), bool_or(is_on_first_page) FROM version JOIN (
        SELECT version_id, lexeme, count(*)::real / chunks AS share, false AS is_on_first_page
        FROM version JOIN chunks chunk ON ingestion_id = version_id, unnest(tsv)
        GROUP BY version_id, chunks, lexeme HAVING count(*) >= greatest(2, {LEAST_SHARE} * chunks)
        UNION ALL
        SELECT version_id, lexeme, {FIRST_PAGE_SHARE}, true FROM version, LATERAL (
            SELECT tsv, sum(length(text)) OVER (ORDER BY ordinal) - length(text) AS characters_before
            FROM chunks WHERE ingestion_id = version_id AND ordinal < {FIRST_PAGE_CHUNKS}
        ) chunk, unnest(tsv) WHERE characters_before < {FIRST_PAGE_CHARACTERS}
        UNION ALL
        SELECT version_id, lexeme, 1, false
        FROM version, unnest({text_search_vector("config", "name")})
    ) word USING (version_id)
    GROUP BY version_id, collection_id, lexeme
"""
_INSERT: Final = "INSERT INTO document_words (ingestion_id, collection_id, lexeme, share, is_on_first_page)"
INSERT_WORDS: Final = f"{_INSERT} {_WORDS} ON CONFLICT DO NOTHING"


async def count_words(connection: AsyncConnection, ingestion_id: UUID, name: str) -> None:
    """Count the words of a published version, for the first time or anew, if it still is; not its title's.

    The document's row is held, as everywhere: nobody replaces or deletes it in the middle.
    """
    await connection.execute(
        sql(f"""
            WITH document AS MATERIALIZED (
                SELECT FROM documents WHERE live_ingestion_id = :id FOR KEY SHARE
            ), version AS (
                UPDATE ingestions SET has_counted_words = true, rows_collection_id = {NUMBER}
                FROM document WHERE ingestions.id = :id RETURNING {VERSION}
            ), word (version_id, collection_id, lexeme, share, is_on_first_page) AS MATERIALIZED (
                {_WORDS}
            ), gone AS (
                DELETE FROM document_words old USING version WHERE ingestion_id = version_id
                    AND NOT EXISTS (SELECT FROM word WHERE word.lexeme = old.lexeme)
            )
            {_INSERT} SELECT * FROM word ON CONFLICT (ingestion_id, lexeme) DO UPDATE
                SET share = excluded.share, is_on_first_page = excluded.is_on_first_page, text_share = NULL,
                    collection_id = excluded.collection_id
        """),
        {"id": ingestion_id, "name": name},
    )
