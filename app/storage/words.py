"""The words of a question: how Postgres cuts and stems them, and how common each is.

How common is asked of the data itself, with each question, so that it is true from the first document on:
of the table of words by document, and of a sample of the chunks; words that the sample has not are counted.
Postgres' own statistics are a minute late, and before there are any, every word would count as rare: they
are asked only for words that they know to be common. In a short list all is compared, and counted there.

Ranking every chunk that has any of the words finds best, but takes 0.1-0.4 s over 100,000 chunks, and
nearly all of them share one common word with the question and rank nowhere. So in a long list only those
with a rare word or a rare pair of words are ranked, besides those of the best documents.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.canonical import canonical
from app.storage.filters import SearchFilter
from app.storage.languages import CONFIGS_IN_USE, SIMPLE, phrase_query, question_words
from app.storage.visible import Visible, beginning, with_names

MAX_WORDS: Final = 32  # a longer question is searched by its rarest words

# Words in a candidate query, if there are pairs: the index weighs each of them for every row.
MAX_TERMS: Final = 16

# Chunks a candidate query should match. Words of one subject occur together, so that twice as many may.
CANDIDATE_CHUNKS: Final = 500

# Documents of one word that are counted, at 0.1 us each; of more, statistics are near enough.
COUNTED_DOCUMENTS: Final = 5_000

# Chunks of single words that the index may look through for pairs of them: 0.5 us each, in any library.
READ_CHUNKS: Final = 20_000

# Chunks that hold a word of which the sample expects no more: they are counted, 2 us each.
COUNTED_CHUNKS: Final = 300

# Pages of the table of chunks in which words are counted: a hundredth of all, within these bounds. Over a
# million chunks 1,200 find .94 of the true ten, 600 .92 for 3.5 ms less, 2,400 no more.
FEWEST_PAGES, MOST_PAGES = 200, 1_200

# The share of all chunks from which on words count alike: a word of all would count nothing, even if alone.
MOST_COMMON: Final = 0.999

_QUOTED: Final = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»')

_PAGES: Final = "(pg_relation_size('chunks') / 8192)"
_SAMPLED_PAGES: Final = f"least({MOST_PAGES}, greatest({FEWEST_PAGES}, {_PAGES} / 100))"

_FIND_WORDS: Final = f"""
    WITH word AS MATERIALIZED ({question_words("CAST(:question AS text)")}),
    quoted AS MATERIALIZED (
        SELECT DISTINCT lexeme,
            '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' AS tsquery FROM word
    ), lexeme AS MATERIALIZED (SELECT lexeme, tsquery, CAST(tsquery AS tsquery) AS query FROM quoted),
    told AS MATERIALIZED (
        SELECT lexeme, common, holding, sampled,
            sampled * greatest(1, CAST({_PAGES} AS float8) / {_SAMPLED_PAGES}) AS chunks_total
        FROM (
            SELECT array_agg(lexeme) AS lexemes, array_agg(query) AS queries, count(*) AS number FROM lexeme
        ) asked CROSS JOIN LATERAL shares_of_words(lexemes, queries, CAST({_SAMPLED_PAGES} AS int))
        WHERE number > {MAX_WORDS} OR NOT (SELECT is_short FROM visible)
    ), measured AS MATERIALIZED (
        SELECT lexeme, chunks_total, coalesce(common, CASE WHEN rare < {COUNTED_CHUNKS}
            THEN (rare + 0.5) / (chunks_total + 1) ELSE (holding + 0.5) / (sampled + 1)
        END) AS share
        FROM told JOIN lexeme USING (lexeme) CROSS JOIN LATERAL (
            SELECT CASE WHEN common IS NULL AND holding * chunks_total < {COUNTED_CHUNKS} * sampled THEN (
                SELECT count(*) FROM (
                    SELECT FROM chunk_words WHERE tsv @@ query LIMIT {COUNTED_CHUNKS}
                ) chunk
            ) ELSE {COUNTED_CHUNKS} END AS rare OFFSET 0
        ) rare
    ), counted AS MATERIALIZED (
        SELECT lexeme, tsquery, documents FROM lexeme
            JOIN documents_of_words(ARRAY(SELECT lexeme FROM lexeme), {COUNTED_DOCUMENTS}) USING (lexeme)
    ), phrase AS (
        SELECT number, string_agg('(' || CAST(query AS text) || ')', ' | ') AS tsquery
        FROM unnest(CAST(:phrases AS text[])) WITH ORDINALITY AS asked(phrase, number),
            ({CONFIGS_IN_USE}) AS used, LATERAL (SELECT {phrase_query("config", "phrase")} AS query) made
        WHERE numnode(query) > 0 GROUP BY number
    )
    SELECT position, asked.word, lexeme, tsquery, documents,
        coalesce(measured.share, 1) AS share, coalesce(chunks_total, 0) AS chunks_total,
        (SELECT tsquery FROM phrase WHERE number = 1) AS whole,
        (SELECT string_agg('(' || tsquery || ')', ' & ') FROM phrase WHERE number > 1) AS quoted
    FROM word JOIN counted USING (lexeme) LEFT JOIN measured USING (lexeme) LEFT JOIN (
        SELECT lexeme AS word, unnest(positions) AS position
        FROM unnest(to_tsvector('{SIMPLE}', CAST(:question AS text)))
    ) asked USING (position)
"""


@dataclass(frozen=True, slots=True)
class Lexeme:
    """What a word is looked up as, and the tsquery that does it."""

    text: str
    tsquery: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a question: as asked, its lexemes (more than one where languages stem it otherwise).

    `documents` are about how many have it in `document_words`, `share` is the part of all chunks that
    hold it; 1 if all that is visible will be counted.
    """

    text: str
    lexemes: tuple[Lexeme, ...]
    documents: float
    share: float

    @property
    def rarity(self) -> float:
        """The idf of BM25, of chunks; a word that is in nearly all of them still counts a little."""
        return -math.log(min(self.share, MOST_COMMON))


@dataclass(frozen=True, slots=True)
class Question:
    """The words of a question, rarest first, and tsqueries.

    `candidates` matches the chunks worth ranking in a long list, `phrase` those that have the question
    word for word, `quoted` those that have all that it puts in quotes. Each may be empty.
    """

    words: tuple[Word, ...] = ()
    candidates: str = ""
    phrase: str = ""
    quoted: str = ""


async def begin_question(
    connection: AsyncConnection, query: str, wanted: SearchFilter
) -> tuple[Question, Visible]:
    """The words of a query, and what `begin_search` does and tells: in one round trip.

    Words are as Postgres cuts and stems them: no syntax of the user's is obeyed but quotes.
    """
    wanted = await with_names(connection, wanted)
    conditions, parameters = wanted.sql()
    quoted = ["".join(groups) for groups in _QUOTED.findall(query)]
    plain = canonical(query)
    asked = {"question": plain, "phrases": [plain, *(canonical(phrase) for phrase in quoted)]}
    statement = _text(f"""
        WITH visible AS ({beginning(wanted, conditions)}), word AS ({_FIND_WORDS})
        SELECT * FROM visible LEFT JOIN word ON true ORDER BY position, lexeme
    """)
    rows = (await connection.execute(statement, parameters | asked)).all()
    return _question(rows), Visible.of(rows[0], conditions, parameters)


_text = lru_cache(maxsize=100)(sql)  # looking for its parameters takes 0.3 ms


def _question(rows: Sequence[Row[Any]]) -> Question:
    first = rows[0]
    if first.lexeme is None:
        return Question()
    words = [_word(group) for group in _grouped(rows)]
    rarest = sorted(words, key=lambda word: (word.share, word.documents, word.lexemes[0].text))[:MAX_WORDS]
    return Question(
        words=tuple(rarest),
        candidates=_candidates(rarest, float(first.chunks_total)),
        phrase=first.whole or "" if len(words) > 1 else "",
        quoted=first.quoted or "",
    )


def _grouped(rows: Iterable[Row[Any]]) -> list[list[Row[Any]]]:
    """The rows of each word: of one place in the question, and of other places with the same lexeme."""
    groups: list[list[Row[Any]]] = []
    by_position: dict[int, list[Row[Any]]] = {}
    by_lexeme: dict[str, list[Row[Any]]] = {}
    for row in rows:
        group = by_position.get(row.position) or by_lexeme.get(row.lexeme)
        if group is None:
            groups.append(group := [])
        if row.lexeme not in by_lexeme:
            group.append(row)
        by_position[row.position] = by_lexeme[row.lexeme] = group
    return groups


def _word(rows: Sequence[Row[Any]]) -> Word:
    return Word(
        text=rows[0].word,
        lexemes=tuple(Lexeme(row.lexeme, row.tsquery) for row in rows),
        documents=float(sum(row.documents for row in rows)),
        share=min(1.0, float(sum(row.share for row in rows))),
    )


def _candidates(words: Sequence[Word], chunks_total: float) -> str:
    """Rare words, rare pairs, and all words together."""
    shares = {_any(word.lexemes): word.share for word in words}
    return " | ".join([*rare_terms(shares, chunks_total), " & ".join(shares)])


def _any(lexemes: Sequence[Lexeme]) -> str:
    if len(lexemes) == 1:
        return lexemes[0].tsquery
    return f"({' | '.join(lexeme.tsquery for lexeme in lexemes)})"


def rare_terms(shares: dict[str, float], chunks_total: float) -> list[str]:
    """The rarest words and pairs of words, together expected in at most CANDIDATE_CHUNKS chunks.

    `shares` are the words' shares of all chunks, in ascending order. The index reads all chunks of the rarer
    word of each pair, in sum at most READ_CHUNKS. At least one term comes back; a pair of which one word came
    back too is left out. When all words are rare enough, they come back as given.
    """
    terms = [(share, (word,)) for word, share in shares.items()] + [
        (share * other_share, (word, other))
        for (word, share), (other, other_share) in combinations(shares.items(), 2)
    ]
    taken: list[tuple[str, ...]] = []
    read: dict[str, float] = {}
    expected = 0.0
    for share, term in sorted(terms, key=lambda one: (one[0], len(one[1]))):
        would_read = read | {term[0]: shares[term[0]] * chunks_total}
        if taken and sum(would_read.values()) > READ_CHUNKS:
            continue
        expected += share * chunks_total
        if taken and (expected > CANDIDATE_CHUNKS or (len(term) == 2 and len(taken) >= MAX_TERMS)):
            break
        taken.append(term)
        read = would_read
    single = {term[0] for term in taken if len(term) == 1}
    return [" & ".join(term) for term in taken if len(term) == 1 or single.isdisjoint(term)]
