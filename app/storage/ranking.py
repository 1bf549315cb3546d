"""How chunks are ranked for a question, as SQL: documents first, then chunks. docs/search.md explains it.

The statement is put together for each question, with one column for each of its words: that is quicker
than one row for each, since ts_rank of one word takes 0.13 us.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.storage.chunks import embeddings_table
from app.storage.visible import FEW_DOCUMENTS, LIVE, SHORT_LIST, Visible
from app.storage.words import Lexeme, Question

# The parts of a score are each between 0 and 1, and weigh this; words and vector share 1 between them.
STATIC_VECTOR: Final = 0.5  # a vector that is a sum of its words' vectors
CONTEXTUAL_VECTOR: Final = 0.6  # one of a transformer
DOCUMENT: Final = 1.0
COVERAGE: Final = 1.0
PHRASE: Final = 1.0

# Evidence that an answer is one: how many of the words a chunk holds, how near its vector is, from just any
# (0) to the same (1), and how much its document is about the words. Of 106 questions about reports, the best
# hit has 0.96 (median; 0.69 for one in 20), of 24 about other things 0.29 (0.37).
FULL_EVIDENCE: Final = 0.8  # with less in its best hit, all scores of an answer are less
FAIR_EVIDENCE: Final = 0.4  # with less in its best hit, only FEW_HITS are left and those that have
LEAST_EVIDENCE: Final = 0.25
FEW_HITS: Final = 3

# Words of a question by which a long list is ranked, its rarest: 0.5 us a chunk each. More find no more
# of 106 questions, ten one fewer. Within one document twelve find two of 166 fewer.
RANKED_WORDS: Final = 12

RANK_WEIGHTS: Final = "{0.1, 0.4, 0.4, 1.0}"  # of ts_rank: a word of the text .1, one of the heading (C) .4
FIRST_PAGE_WEIGHT: Final = 0.25  # of a word on the first page: it says what all of the document is about

# Documents of a long list that are looked at for one word, those with most of it first: now and then the best
# have a good deal of every word and most of none, and are not among 500.
LISTED_DOCUMENTS: Final = 1_000

# Documents of a long list that are weighed by all words, those with most of the best words first.
WEIGHED_DOCUMENTS: Final = 100

CHOSEN_DOCUMENTS: Final = 25  # documents of a long list all of whose chunks are compared, the best first ...

# ... until they have this many chunks: 6 us each with twelve words, all steps together.
CHOSEN_CHUNKS: Final = 2_500

NEAREST_CHUNKS: Final = 100  # chunks that the index of vectors brings

# Chunks that the index of words brings, those first that hold most of the question: 30 us each over a
# million, where most are alone in their documents.
LISTED_CHUNKS: Final = 200

# Chunks, the best by their words and documents, whose vectors are compared too: 2 us each.
COMPARED_CHUNKS: Final = 200

# Pages of the table of vectors that tell how near just any chunk is: 300 of 256 dimensions.
SAMPLE_PAGES: Final = 40


def listing(visible: Visible) -> str:
    """A CTE `visible(ingestion_id, chunks)`; where it is long, it stands where it is used."""
    how = "MATERIALIZED" if _is_listed(visible) else "NOT MATERIALIZED"
    return (
        f"visible AS {how} (SELECT i.id AS ingestion_id, i.chunks {LIVE.format(visible=visible.conditions)})"
    )


def nearest(visible: Visible, space_id: int) -> str:
    """CTEs that end in `nearest(chunk_id, ingestion_id, similarity)`: the :depth chunks nearest to :vector.

    An index gives candidates only. When the filter hides so many of them that fewer than :limit are left,
    a thorough part of the same statement runs, else it costs nothing.
    """
    vectors = embeddings_table(space_id)
    of_all = _NEAREST_OF_ALL.replace("{vectors}", vectors)
    if visible.is_narrow:
        return f"nearest AS MATERIALIZED ({of_all.replace('{is_needed}', 'true')})"
    by_index = _NEAREST_BY_INDEX.replace("{vectors}", vectors).replace("{is_visible}", _is_visible(visible))
    return f"""
        quick AS MATERIALIZED ({by_index}),
        thorough AS MATERIALIZED ({of_all.replace("{is_needed}", "(SELECT count(*) FROM quick) < :limit")}),
        nearest AS MATERIALIZED (
            SELECT * FROM quick UNION SELECT * FROM thorough ORDER BY similarity DESC, chunk_id LIMIT :depth
        )
    """


def _is_listed(visible: Visible) -> bool:
    return visible.is_short or visible.has_few_documents


def _is_visible(visible: Visible) -> str:
    """SQL for whether the ingestion of `entry` is: a look-up for each, which no planner makes a join."""
    if _is_listed(visible):
        return "(entry.ingestion_id IN (SELECT ingestion_id FROM visible)) IS TRUE"
    return f"""(
        SELECT true FROM documents d JOIN versions i ON i.id = d.live_ingestion_id
        WHERE d.live_ingestion_id = entry.ingestion_id AND {visible.conditions}
    )"""


class Ranking:
    """The statement that ranks the visible chunks for a question, by meaning too if there is a space."""

    def __init__(
        self, question: Question, visible: Visible, space_id: int | None, *, is_contextual: bool = False
    ) -> None:
        self._question = question
        self._visible = visible
        self._space_id = space_id
        self._vector_weight = CONTEXTUAL_VECTOR if is_contextual else STATIC_VECTOR
        ranked = len(question.words) if visible.is_short else RANKED_WORDS
        # words of more forms last: so there are fewer statements, of which the plans are kept
        self._order = sorted(
            range(len(question.words)), key=lambda n: (n >= ranked, len(question.words[n].lexemes))
        )
        self._words = [question.words[n] for n in self._order]
        self._numbers = range(min(ranked, len(self._words)))

    @property
    def parameters(self) -> dict[str, Any]:
        words = [self._words[n] for n in self._numbers]
        lexemes = [(n, lexeme) for n, word in enumerate(words) for lexeme in word.lexemes]
        return self._visible.parameters | {
            **{f"lexeme_{n}_{m}": lexeme.tsquery for n, m, lexeme in self._lexemes()},
            **{f"rarity_{n}": word.rarity for n, word in enumerate(words)},
            "vector_weight": self._vector_weight,
            "words_weight": 1 - self._vector_weight,
            "candidates": self._question.quoted or self._question.candidates,
            "phrase": self._question.phrase,
            "asked": sum(self._rarity(word.documents) for word in words) or 1.0,
            "lexemes": [lexeme.text for _, lexeme in lexemes],
            "numbers": [n for n, _ in lexemes],
            "rarities": [self._rarity(words[n].documents) for n, _ in lexemes],
        }

    def statement(self) -> str:
        """CTEs that end in `found(chunk_id, score, words, vector, document, …)`, best first."""
        parts = [listing(self._visible), self._listed(), _WORD]
        parts += [self._considered(), self._document(), self._chosen()]
        parts += [self._pool(), self._scored(), _PARTED, self._found()]
        return ", ".join(parts)

    def held_words(self) -> str:
        """SQL for the numbers of the words that a chunk `c` holds."""
        held = [
            f"CASE WHEN c.tsv @@ CAST(:lexeme_{n}_{m} AS tsquery) THEN {n} END" for n, m, _ in self._lexemes()
        ]
        return f"CAST(ARRAY[{', '.join(held)}] AS int[])"

    def matched(self, numbers: Sequence[int | None]) -> tuple[str, ...]:
        """The words of these numbers as they were asked, rarest first."""
        held = sorted(self._order[number] for number in numbers if number is not None)
        return tuple(dict.fromkeys(self._question.words[n].text for n in held))

    def _lexemes(self) -> Iterator[tuple[int, int, Lexeme]]:
        for n, word in enumerate(self._words):
            for m, lexeme in enumerate(word.lexemes):
                yield n, m, lexeme

    def _rarity(self, documents: float) -> float:
        """The idf of BM25 (Robertson and Zaragoza, 2009), of documents."""
        total = max(self._visible.documents_total, documents)
        return math.log(1 + (total - documents + 0.5) / (documents + 0.5))

    def _listed(self) -> str:
        """`listed(chunk_id, ingestion_id)`: chunks that indexes bring from anywhere, or that are quoted."""
        candidates = self._candidates()
        near = [] if self._space_id is None else [nearest(self._visible, self._space_id)]
        if self._question.quoted:
            sources = [candidates]
        else:
            sources = ["SELECT chunk_id, ingestion_id FROM nearest"] if near else []
            if self._question.words and not self._visible.is_short:
                sources.append(candidates)
        return ", ".join([*near, f"listed AS MATERIALIZED ({' UNION '.join(sources) or _NOTHING})"])

    def _candidates(self) -> str:
        """All that match are read; to look up which of them are visible, and their documents, costs more."""
        held = " + ".join(
            f"CASE WHEN {self._holds(n)} THEN CAST(:rarity_{n} AS float8) ELSE 0 END" for n in self._numbers
        )
        quoted = SHORT_LIST if self._visible.is_short else CHOSEN_CHUNKS
        most = quoted if self._question.quoted else LISTED_CHUNKS
        return (
            _CANDIDATES.replace("{held}", held or "0")
            .replace("{is_visible}", _is_visible(self._visible))
            .replace("{most}", str(most))
        )

    def _holds(self, n: int) -> str:
        queries = [f"tsv @@ CAST(:lexeme_{n}_{m} AS tsquery)" for m in range(len(self._words[n].lexemes))]
        return " OR ".join(queries)

    def _considered(self) -> str:
        """`considered(ingestion_id, chunks)`: documents to weigh."""
        considered = _FEW if self._visible.has_few_documents else _MANY
        return considered.replace("{is_visible}", _is_visible(self._visible))

    def _document(self) -> str:
        """`document(ingestion_id, chunks, about, weight_0, …)`: how much each is about the question."""
        weights = "".join(
            f", CASE WHEN bool_or(is_on_first_page) FILTER (WHERE word = {n})"
            f" THEN CAST({FIRST_PAGE_WEIGHT} AS float8) ELSE 1 END AS weight_{n}"
            for n in self._numbers
        )
        is_small = self._visible.documents_total <= FEW_DOCUMENTS
        counted = _COUNTED_BY_WORD if is_small else _COUNTED_BY_DOCUMENT
        return _DOCUMENT.replace("{weights}", weights).replace("{counted}", counted)

    def _chosen(self) -> str:
        """`chosen(ingestion_id, about, weight_0, …)`: documents all of whose chunks are compared.

        Those of a short list that were not weighed, without `about`: their chunks tell how rare words are.
        """
        if self._question.quoted:
            chosen = "SELECT * FROM document LIMIT 0"
        elif self._visible.is_short:
            weights = "".join(f", coalesce(weight_{n}, 1) AS weight_{n}" for n in self._numbers)
            chosen = (
                f"SELECT ingestion_id, about{weights} FROM visible LEFT JOIN document USING (ingestion_id)"
            )
        else:
            chosen = _CHOSEN
        return f"chosen AS MATERIALIZED ({chosen})"

    def _pool(self) -> str:
        """`pool(chunk_id, about, has_phrase, rank_0, …)`: the chunks that are compared."""
        weights = "".join(f", weight_{n}" for n in self._numbers)
        ranks = "".join(f", {self._rank(n)} * weight_{n} AS rank_{n}" for n in self._numbers)
        return _POOL.replace("{ranks}", ranks).replace("{weights}", weights)

    def _rank(self, n: int) -> str:
        ranks = [
            f"ts_rank('{RANK_WEIGHTS}', tsv, CAST(:lexeme_{n}_{m} AS tsquery))"
            for m in range(len(self._words[n].lexemes))
        ]
        return ranks[0] if len(ranks) == 1 else f"greatest({', '.join(ranks)})"

    def _scored(self) -> str:
        """`scored(chunk_id, about, has_phrase, words, coverage)`."""
        words = " + ".join(f"rarity_{n} * rank_{n}" for n in self._numbers) or "0"
        held = " + ".join(f"CASE WHEN rank_{n} > 0 THEN rarity_{n} ELSE 0 END" for n in self._numbers) or "0"
        return f"""
            {self._rarities()},
            scored AS MATERIALIZED (
                SELECT chunk_id, about, has_phrase, CAST({words} AS float8) AS words,
                    CAST(({held}) / rarity_of_all AS float8) AS coverage
                FROM pool, rarity WHERE about IS NOT NULL
            )
        """

    def _rarities(self) -> str:
        """`rarity(rarity_0, …)`: of each word among the visible chunks of a short list, which are counted.

        What is compared of a long list is about the question, and would call its words common: there the
        sample of all chunks tells.
        """
        of_all = " + ".join(f"rarity_{n}" for n in self._numbers) or "1"
        rarity = f"rarity AS MATERIALIZED (SELECT *, {of_all} AS rarity_of_all FROM rarities)"
        if not self._visible.is_short:
            rarities = [f"CAST(:rarity_{n} AS float8) AS rarity_{n}" for n in self._numbers]
            return f"rarities AS (SELECT {', '.join(rarities)}), {rarity}"
        counts = "".join(f", count(*) FILTER (WHERE rank_{n} > 0) AS chunks_{n}" for n in self._numbers)
        rarities = [
            f"ln(1 + (total - chunks_{n} + 0.5) / (chunks_{n} + 0.5)) AS rarity_{n}" for n in self._numbers
        ]
        return f"""
            counted AS MATERIALIZED (SELECT CAST(count(*) AS float8) AS total{counts} FROM pool),
            rarities AS (SELECT {", ".join(rarities)} FROM counted), {rarity}
        """

    def _found(self) -> str:
        if self._space_id is None:
            evident, most = _EVIDENT_BY_WORDS, _ALL_PARTS - self._vector_weight
        else:
            evident = _EVIDENT.replace("{vectors}", embeddings_table(self._space_id))
            evident, most = evident.replace("{space_id}", str(int(self._space_id))), _ALL_PARTS
        least = LEAST_EVIDENCE if self._question.words else 0
        return f"{evident}, {_FOUND.format(least=least, most=most)}"


_NOTHING: Final = "SELECT CAST(NULL AS uuid) AS chunk_id, CAST(NULL AS uuid) AS ingestion_id LIMIT 0"
_NEAREST_OF_ALL: Final = """
    SELECT chunk_id, ingestion_id, similarity FROM visible CROSS JOIN LATERAL (
        SELECT chunk_id, -(embedding <#> CAST(:vector AS halfvec)) AS similarity
        FROM {vectors} vector WHERE vector.ingestion_id = visible.ingestion_id OFFSET 0
    ) compared
    WHERE {is_needed} ORDER BY similarity DESC LIMIT :depth
"""
_NEAREST_BY_INDEX: Final = """
    SELECT chunk_id, ingestion_id, -(embedding <#> CAST(:vector AS halfvec)) AS similarity
    FROM {vectors} entry WHERE {is_visible} ORDER BY embedding <#> CAST(:vector AS halfvec) LIMIT :depth
"""
_CANDIDATES: Final = """
    SELECT * FROM (
        SELECT chunk_id, ingestion_id FROM (
            SELECT id AS chunk_id, ingestion_id, {held} AS held FROM chunk_words
            WHERE tsv @@ CAST(:candidates AS tsquery) ORDER BY held DESC, id OFFSET 0
        ) entry WHERE {is_visible} LIMIT {most}
    ) candidate
"""
_WORD: Final = """
    word AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:lexemes AS text[]), CAST(:numbers AS int[]), CAST(:rarities AS float8[]))
            AS asked(lexeme, word, rarity)
    )
"""
_FEW: Final = "considered AS NOT MATERIALIZED (SELECT * FROM visible)"
_MANY: Final = f"""
    holding AS (
        SELECT ingestion_id, word, max(rarity * sqrt(share)) AS about FROM word CROSS JOIN LATERAL (
            SELECT ingestion_id, share FROM word_shares WHERE word_shares.lexeme = word.lexeme
            ORDER BY share DESC LIMIT {LISTED_DOCUMENTS}
        ) document GROUP BY ingestion_id, word
    ), likely AS MATERIALIZED (
        SELECT ingestion_id, sum(about) AS about FROM holding GROUP BY ingestion_id
        ORDER BY about DESC LIMIT {LISTED_DOCUMENTS}
    ), considered AS MATERIALIZED (
        SELECT ingestion_id, chunks FROM (
            (
                SELECT ingestion_id FROM likely entry WHERE {{is_visible}}
                ORDER BY about DESC LIMIT {WEIGHED_DOCUMENTS}
            )
            UNION SELECT ingestion_id FROM listed
        ) likely CROSS JOIN LATERAL (SELECT chunks FROM versions WHERE id = ingestion_id OFFSET 0) ingestion
    )
"""
# In a library of few documents each word's are read at once, and those that are not visible left out.
_COUNTED_BY_WORD: Final = """
    SELECT ingestion_id, word, rarity, share, is_on_first_page FROM word CROSS JOIN LATERAL (
        SELECT ingestion_id, share, is_on_first_page FROM document_words
        WHERE document_words.lexeme = word.lexeme OFFSET 0
    ) counted WHERE (ingestion_id IN (SELECT ingestion_id FROM visible)) IS TRUE
"""
# In another, one look-up by key for each document, whatever the planner thinks of the tables' sizes.
_COUNTED_BY_DOCUMENT: Final = """
    SELECT ingestion_id, word, rarity, share, is_on_first_page FROM considered CROSS JOIN LATERAL (
        SELECT lexeme, share, is_on_first_page FROM document_words
        WHERE document_words.ingestion_id = considered.ingestion_id
            AND document_words.lexeme = ANY(CAST(:lexemes AS text[])) OFFSET 0
    ) counted JOIN word USING (lexeme)
"""
_DOCUMENT: Final = """
    held AS (
        SELECT ingestion_id, word, max(rarity * sqrt(share)) AS about,
            bool_or(is_on_first_page) AS is_on_first_page
        FROM ({counted}) counted GROUP BY ingestion_id, word
    ), document AS MATERIALIZED (
        SELECT ingestion_id, chunks, CAST(coalesce(sum(about), 0) AS float8) AS about{weights}
        FROM considered LEFT JOIN held USING (ingestion_id) GROUP BY ingestion_id, chunks
    )
"""
_CHOSEN: Final = f"""
    SELECT * FROM (
        SELECT document.*, sum(chunks) OVER best - chunks AS chunks_before, row_number() OVER best AS place
        FROM document WHERE about > 0
        WINDOW best AS (ORDER BY about DESC, ingestion_id ROWS UNBOUNDED PRECEDING)
    ) ranked WHERE place <= {CHOSEN_DOCUMENTS} AND chunks_before < {CHOSEN_CHUNKS}
"""
# Without OFFSET 0 each rank would be computed again wherever it is used.
_POOL: Final = """
    pool AS (
        SELECT chunk_id, about, tsv @@ CAST(:phrase AS tsquery) AS has_phrase{ranks} FROM (
            SELECT chunk.id AS chunk_id, about, tsv{weights} FROM chosen CROSS JOIN LATERAL (
                SELECT id, tsv FROM chunk_words words WHERE words.ingestion_id = chosen.ingestion_id OFFSET 0
            ) chunk
            UNION ALL
            SELECT chunk_id, about, tsv{weights} FROM listed JOIN document USING (ingestion_id)
                CROSS JOIN LATERAL (SELECT tsv FROM chunk_words WHERE id = chunk_id OFFSET 0) chunk
            WHERE (ingestion_id IN (SELECT ingestion_id FROM chosen)) IS NOT TRUE
        ) chunk OFFSET 0
    )
"""
_PARTED: Final = f"""
    most AS MATERIALIZED (
        SELECT nullif(max(words), 0) AS words, nullif(max(about), 0) AS about FROM scored
    ), parted AS NOT MATERIALIZED (
        SELECT parts.*, words + document + coverage + phrase AS by_words FROM (
            SELECT chunk_id, scored.coverage AS held, scored.about / CAST(:asked AS float8) AS subject,
                CAST(:words_weight AS float8) * coalesce(scored.words / most.words, 0) AS words,
                CAST({DOCUMENT} AS float8) * coalesce(scored.about / most.about, 0) AS document,
                CAST({COVERAGE} AS float8) * scored.coverage ^ 2 AS coverage,
                CASE WHEN has_phrase THEN CAST({PHRASE} AS float8) ELSE 0 END AS phrase
            FROM scored, most
        ) parts
    )
"""
_PARTS: Final = ("words", "vector", "document", "coverage", "phrase")
_ALL_PARTS: Final = 1 + DOCUMENT + COVERAGE + PHRASE
# Of `evident(chunk_id, evidence, words, …)`; with little evidence even in the best hit, scores are low.
_FOUND: Final = f"""
    found AS (
        SELECT chunk_id, sum * trust AS score, words_place, vector_place,
            {", ".join(f"{part} * trust AS {part}" for part in _PARTS)}
        FROM (
            SELECT *, rank() OVER (ORDER BY by_words DESC) AS words_place,
                CASE WHEN vector IS NOT NULL THEN rank() OVER (ORDER BY vector DESC) END AS vector_place,
                row_number() OVER (ORDER BY sum DESC, chunk_id) AS place,
                max(evidence) OVER () >= {FAIR_EVIDENCE} AS is_fair,
                least(1, max(evidence) OVER () / {FULL_EVIDENCE}) / {{most}} AS trust
            FROM (SELECT *, by_words + coalesce(vector, 0) AS sum FROM evident) summed
        ) trusted
        WHERE is_fair OR evidence >= {{least}} OR place <= {FEW_HITS} ORDER BY sum DESC, chunk_id LIMIT :limit
    )
"""
_EVIDENT_BY_WORDS: Final = """
    evident AS (
        SELECT *, CAST(NULL AS float8) AS vector, 1.5 * held + subject AS evidence FROM parted WHERE held > 0
    )
"""
_EVIDENT: Final = f"""
    best AS MATERIALIZED (
        (SELECT * FROM parted WHERE held > 0 ORDER BY by_words DESC, chunk_id LIMIT {COMPARED_CHUNKS})
        UNION SELECT * FROM parted WHERE (chunk_id IN (SELECT chunk_id FROM nearest)) IS TRUE
    ), compared AS MATERIALIZED (
        SELECT best.*, coalesce(similarity, (
            SELECT -(embedding <#> CAST(:vector AS halfvec)) FROM {{vectors}} v
            WHERE v.chunk_id = best.chunk_id
        )) AS similarity
        FROM best LEFT JOIN nearest USING (chunk_id)
    ), usual AS MATERIALIZED (
        SELECT usual_similarity({{space_id}}, CAST(:vector AS halfvec), {SAMPLE_PAGES}) AS similarity
    ), near AS (
        SELECT compared.*, greatest(0,
            (compared.similarity - usual.similarity) / nullif(1 - usual.similarity, 0)
        ) AS nearness FROM compared, usual
    ), evident AS (
        SELECT *, held + nearness + subject AS evidence,
            CAST(:vector_weight AS float8) * coalesce(nearness / nullif(max(nearness) OVER (), 0), 0)
                AS vector
        FROM near
    )
"""
