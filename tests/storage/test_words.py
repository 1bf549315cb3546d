"""Which words of a query choose the chunks that are worth ranking."""

from itertools import combinations

from sqlalchemy import text

from app.storage.database import Connection, Database
from app.storage.filters import SearchFilter
from app.storage.words import (
    CANDIDATE_CHUNKS,
    MAX_TERMS,
    MAX_WORDS,
    READ_CHUNKS,
    Question,
    begin_question,
    rare_terms,
)

TABLE = 100_000


def test_rare_words_are_taken_and_common_ones_only_in_rare_pairs() -> None:
    shares = {"'zyzzyva'": 0.001, "'tax'": 0.1, "'year'": 0.2, "'net'": 0.4}
    assert rare_terms(shares, TABLE / 6) == ["'zyzzyva'", "'tax' & 'year'"]
    assert rare_terms(shares, TABLE / 4) == ["'zyzzyva'"]


def test_words_that_are_all_rare_are_all_taken_and_nothing_else() -> None:
    shares = {"'a'": 0.001, "'b'": 0.002, "'c'": 0.003}
    assert rare_terms(shares, TABLE / 2) == ["'a'", "'b'", "'c'"]
    assert rare_terms(shares, 100) == ["'a'", "'b'", "'c'"]


def test_a_single_word_is_taken_however_common() -> None:
    assert rare_terms({"'company'": 0.9}, TABLE) == ["'company'"]


def test_what_is_expected_stays_within_the_bound() -> None:
    shares = {f"'w{n}'": 0.01 * n for n in range(1, 20)}
    terms = rare_terms(shares, TABLE)
    expected = 0.0
    for term in terms:
        share = 1.0
        for word in term.split(" & "):
            share *= shares[word]
        expected += share * TABLE
    assert len(terms) > 3
    assert expected <= CANDIDATE_CHUNKS


def test_a_table_without_statistics_takes_every_word_alone() -> None:
    shares = dict.fromkeys((f"'w{n}'" for n in range(MAX_WORDS)), 0.0)
    assert rare_terms(shares, 0) == list(shares)


def test_a_long_query_makes_a_bounded_number_of_terms() -> None:
    shares = {f"'w{n}'": 0.001 for n in range(MAX_WORDS)}
    assert len(list(combinations(shares, 2))) > MAX_TERMS
    assert len(rare_terms(shares, 1_000)) <= MAX_TERMS


def test_what_the_index_reads_for_pairs_stays_within_the_bound_in_any_library() -> None:
    shares = {f"'w{n}'": 0.001 * n for n in range(1, 20)}
    for chunks in (TABLE, 10 * TABLE, 100 * TABLE):
        terms = rare_terms(shares, chunks)
        read = {term.split(" & ")[0] for term in terms}
        assert len(terms) > 3
        assert sum(shares[word] * chunks for word in read) <= READ_CHUNKS


async def find_words(connection: Connection, query: str) -> Question:
    question, _ = await begin_question(connection, query, SearchFilter())
    return question


def lexemes(question: Question) -> list[str]:
    return sorted(lexeme.text for word in question.words for lexeme in word.lexemes)


async def test_words_are_stemmed_and_stop_words_are_left_out(database: Database) -> None:
    async with database.transaction() as connection:
        question = await find_words(connection, "What are the risks, and risky assets?")
    assert lexemes(question) == ["asset", "risk", "riski"]
    assert {word.text for word in question.words} == {"assets", "risks", "risky"}
    assert question.phrase == "('risk' <2> 'riski' <-> 'asset')"


async def test_operators_of_a_query_are_no_operators(database: Database) -> None:
    async with database.transaction() as connection:
        for query in ("cats & !dogs", "cats <-> dogs", "'cats' | (dogs:*", "cats\\ dogs'", "-cats dogs"):
            question = await find_words(connection, query)
            assert lexemes(question) == ["cat", "dog"], query
            assert question.quoted == ""


async def test_what_is_in_quotes_must_follow_one_another(database: Database) -> None:
    async with database.transaction() as connection:
        for query in ('the "net asset value" of “the fund”', "«net asset value» „the fund“"):
            question = await find_words(connection, query)
            assert question.quoted.replace(" ", "") == "(('net'<->'asset'<->'valu'))&(('fund'))"
        assert (await find_words(connection, 'he said "the"')).quoted == ""


async def test_quotes_and_backslashes_in_a_word_survive(database: Database) -> None:
    async with database.transaction() as connection:
        question = await find_words(connection, "/usr/o'brien\\'x http://a.b/c'd?e=f\\g")
        assert question.words
        tsqueries = [lexeme.tsquery for word in question.words for lexeme in word.lexemes]
        for query in (question.candidates, question.phrase, *tsqueries):
            assert await connection.scalar(
                text("SELECT numnode(CAST(:query AS tsquery)) > 0"), {"query": query}
            )


async def test_a_query_of_stop_words_has_no_words(database: Database) -> None:
    async with database.transaction() as connection:
        assert lexemes(await find_words(connection, "is this the one that was?")) == ["one"]
        assert await find_words(connection, "to be or not to be") == Question()


async def test_a_word_asked_for_twice_is_one_word(database: Database) -> None:
    async with database.transaction() as connection:
        question = await find_words(connection, "risk of risks, risking the FY18 and FY 2018")
    assert lexemes(question) == ["2018", "fy", "risk"]
    assert len(question.words) == 3


async def test_a_query_of_many_words_is_cut_to_a_bounded_number(database: Database) -> None:
    async with database.transaction() as connection:
        question = await find_words(connection, " ".join(f"word{n}" for n in range(5_000)))
    assert len(question.words) == MAX_WORDS
