"""Which of Postgres' dictionaries stems a document's words, and the tsvector that comes of it.

What a text holds and what a question asks for is made by one expression, `text_search_vector`, over text in
canonical form (canonical.py). A question is put through it once for each config in use; all of Postgres'
configs cut text with the same parser, which numbers the words before a dictionary sees them. So a word of
the question has the same position in every config, whether it is a stop word in one of them or not, and the
parts of a hyphenated word have positions of their own after that of the whole: `well-known` 1, `well` 2,
`known` 3. Lexemes of one position, of all configs, are forms of one word.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import Database

# The config that leaves words as they are: for languages without a stemmer, and those cut into pairs.
SIMPLE: Final = "simple"

# What made the words of ingestions that have no config of their own: before there was a choice.
CONFIG_OF_OLD: Final = "english"

# A Latin letter that may have an accent, in words that Python and Postgres both understand.
ACCENTED: Final = re.compile(r"[\u00c0-\u024f\u1e00-\u1eff]")

# ISO 639-1 codes and the names of configs; which of them a server has depends on its version.
CONFIGS: Final = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish",
    "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian",
    "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip

# SQL: the configs a question must be put through, one a row, in constant time: one step of an index each, in
# a function of the database's, which need not step over what is out of a caller's reach.
# There may be some that only documents had which are deleted by now. What another server made that this one
# has no config for is found by its other words only.
CONFIGS_IN_USE: Final = f"""
    SELECT CAST(pg_ts_config.oid AS regconfig) AS config FROM (
        SELECT name FROM text_search_configs() AS name UNION SELECT '{CONFIG_OF_OLD}'
    ) used JOIN pg_ts_config ON cfgname = used.name AND cfgnamespace = CAST('pg_catalog' AS regnamespace)
"""


@dataclass(frozen=True, slots=True)
class TextLanguage:
    """The language of a document (ISO 639-1, None: unknown) and the config that stems its words."""

    code: str | None
    config: str


@dataclass(frozen=True, slots=True)
class TextSearch:
    """Which config stems which language, on one server and with one setting of TEXT_SEARCH_LANGUAGES."""

    configs: dict[str, str]
    unknown: str

    def language(self, code: str | None) -> TextLanguage:
        """Of a known language that may not be used, or has no stemmer, the words stay as they are.

        Text whose language cannot be told is mostly short or made of numbers. It is taken for the first of
        the languages that may be used: its few words are then found in all their forms if that is right,
        and if not, only their own form finds them, as it would without.
        """
        return TextLanguage(code, self.unknown if code is None else self.configs.get(code, SIMPLE))


async def open_text_search(database: Database, languages: Sequence[str] = ()) -> TextSearch:
    """The configs of this server that `languages` (ISO 639-1 codes; none: all) allow."""
    async with database.transaction() as connection:
        found = await connection.execute(
            sql("SELECT cfgname FROM pg_ts_config WHERE cfgnamespace = CAST('pg_catalog' AS regnamespace)")
        )
        there = set(found.scalars())
    configs = {
        code: config
        for code, config in CONFIGS.items()
        if config in there and (not languages or code in languages)
    }
    return TextSearch(configs, configs.get(languages[0], SIMPLE) if languages else CONFIG_OF_OLD)


async def find_language(connection: AsyncConnection, ingestion_id: UUID) -> TextLanguage:
    """What the stored chunks of an ingestion were made with."""
    found = await connection.execute(
        sql("SELECT language, text_search_config FROM ingestions WHERE id = :id"), {"id": ingestion_id}
    )
    row = found.one()
    return TextLanguage(row.language, row.text_search_config or CONFIG_OF_OLD)


def text_search_vector(config: str, text: str) -> str:
    """SQL: the tsvector of a canonical text; both arguments are SQL, a regconfig and a text.

    A word with accents gives its stem without them and the stem of what it is without them, at the same
    position: so it is found in all its forms, and by those who write it without accents, in those that
    share a stem without them. Only Latin letters lose theirs: й is no accented и.
    """
    return f"""CASE WHEN {text} ~ '{ACCENTED.pattern}' THEN CAST(
        {_without_accents(f"CAST(to_tsvector({config}, {text}) AS text)")} || ' '
        || CAST(to_tsvector({config}, {_without_accents(text)}) AS text) AS tsvector
    ) ELSE to_tsvector({config}, {text}) END"""


def question_words(question: str) -> str:
    """SQL: (position, lexeme) of a canonical question, which is SQL of type text; one row a lexeme.

    Lexemes of one position are forms of one word, in any of the configs in use. Which words are too common
    to look up is said by one config alone, the one that knows most of them and so is likely the question's
    language: else `the` would be a rare and telling word in a library with a few French documents, and `die`
    none in an English question. When nothing else is left, they are looked up all the same.
    """
    return f"""
        WITH used AS MATERIALIZED ({CONFIGS_IN_USE}), forms AS MATERIALIZED (
            SELECT config, position, lexeme
            FROM (SELECT {question} AS words) asked, used,
                unnest({text_search_vector("used.config", "asked.words")}) AS form,
                unnest(positions) AS position
        ), common AS (
            SELECT array_agg(word_position) AS positions
            FROM unnest(to_tsvector('{SIMPLE}', {question})) AS word, unnest(positions) AS word_position, used
            WHERE NOT EXISTS (
                SELECT FROM forms WHERE forms.config = used.config AND forms.position = word_position
            )
            GROUP BY config ORDER BY count(*) DESC, config LIMIT 1
        )
        SELECT DISTINCT position, lexeme FROM forms
        WHERE position <> ALL (coalesce((SELECT positions FROM common), '{{}}'))
            OR NOT EXISTS (
                SELECT FROM forms, common WHERE position <> ALL (common.positions)
            )
    """


def phrase_query(config: str, text: str) -> str:
    """SQL: the tsquery of the words of a canonical text one after another; both arguments are SQL."""
    return f"""phraseto_tsquery({config}, CASE WHEN {text} ~ '{ACCENTED.pattern}'
        THEN {_without_accents(text)} ELSE {text} END)"""


def chunk_vector(config: str, heading: str, text: str) -> str:
    """SQL for `chunks.tsv`: a word of the heading counts double."""
    of_heading = text_search_vector(config, f"coalesce({heading}, '')")
    return f"(setweight({of_heading}, 'C') || {text_search_vector(config, text)})"


def _without_accents(text: str) -> str:
    plain = f"regexp_replace(normalize({text}, NFD), '([A-Za-z])[\\u0300-\\u036f]+', '\\1', 'g')"
    return f"normalize(translate({plain}, 'øØłŁđĐħĦŧŦı', 'oOlLdDhHtTi'), NFC)"
