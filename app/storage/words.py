"""The words of a search, and which chunks are worth ranking for them.

Ranking every chunk that has any of the words finds best, but takes 0.1-0.4 s over 100,000 chunks, and
nearly all of them share one common word with the query and rank nowhere. So in a long list only chunks
with a rare word or a rare pair of words are ranked. Over 1,706 chunks of four reports and a book, with
400 queries made of half a sentence and two words from elsewhere, ranking 2 % of the chunks in this way
kept a mean reciprocal rank of 0.828 (all chunks with any word: 0.834; rare single words only: 0.754;
chunks with all words: 0.168). Over 100,000 chunks 97 % of the first ten are the same.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Final

from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.chunks import TEXT_SEARCH_CONFIG

MAX_WORDS: Final = 32
"""A longer query is searched by its rarest words."""

MAX_TERMS: Final = 64
"""Words and pairs in a candidate query: the index weighs each of them for every row."""

CANDIDATE_CHUNKS: Final = 3_000
"""Chunks a candidate query should match. Words of one subject occur together, so that twice as many may."""

_FIND_WORDS: Final = sql(f"""
    WITH common AS MATERIALIZED (
        SELECT lexeme, share FROM pg_stats,
            unnest(CAST(CAST(most_common_elems AS text) AS text[]), most_common_elem_freqs)
                AS element(lexeme, share)
        WHERE schemaname = current_schema() AND tablename = 'chunks' AND attname = 'tsv'
            AND lexeme IS NOT NULL
    )
    SELECT lexeme, coalesce(share, (SELECT min(share) / 2 FROM common), 0) AS share,
        (SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'chunks'::regclass) AS chunks_total
    FROM unnest(to_tsvector('{TEXT_SEARCH_CONFIG}', :query)) LEFT JOIN common USING (lexeme)
    ORDER BY share, lexeme LIMIT {MAX_WORDS}
""")


@dataclass(frozen=True, slots=True)
class Words:
    """The lexemes of a query, rarest first, as tsquery text.

    `any_word` matches chunks that have at least one of them, `candidates` those worth ranking in a long
    list. Both are empty for a query of stop words and punctuation.
    """

    any_word: str
    candidates: str


async def find_words(connection: AsyncConnection, query: str) -> Words:
    """The words of a query, as Postgres cuts and stems them: no syntax of the user's is obeyed.

    How common they are is read from the table's statistics, which keep the 1,000 most common lexemes.
    Any other is taken to be half as common as the last of them; before the first ANALYZE all are rare.
    """
    found = (await connection.execute(_FIND_WORDS, {"query": query})).all()
    shares = {_quoted(row.lexeme): float(row.share) for row in found}
    chunks_total = float(found[0].chunks_total) if found else 0.0
    return Words(any_word=" | ".join(shares), candidates=" | ".join(rare_terms(shares, chunks_total)))


def rare_terms(shares: dict[str, float], chunks_total: float) -> list[str]:
    """The rarest words and pairs of words, together expected in at most CANDIDATE_CHUNKS chunks.

    `shares` are the words' shares of all chunks, in ascending order. At least one term comes back; a pair
    of which one word came back too is left out. When all words are rare enough, they come back as given.
    """
    terms = [(share, (word,)) for word, share in shares.items()] + [
        (share * other_share, (word, other))
        for (word, share), (other, other_share) in combinations(shares.items(), 2)
    ]
    taken: list[tuple[str, ...]] = []
    expected = 0.0
    for share, term in sorted(terms, key=lambda one: (one[0], len(one[1]))):
        expected += share * chunks_total
        if taken and (expected > CANDIDATE_CHUNKS or len(taken) == MAX_TERMS):
            break
        taken.append(term)
    single = {term[0] for term in taken if len(term) == 1}
    return [" & ".join(term) for term in taken if len(term) == 1 or single.isdisjoint(term)]


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
