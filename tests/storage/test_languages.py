"""The tsvectors that texts and questions are made into, and which configs a question needs."""

from collections import defaultdict
from collections.abc import Iterable

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.storage.canonical import canonical
from app.storage.database import Database
from app.storage.languages import (
    CONFIGS,
    CONFIGS_IN_USE,
    TextLanguage,
    TextSearch,
    find_language,
    open_text_search,
    question_words,
    text_search_vector,
)


async def vector(database: Database, config: str, content: str) -> dict[str, list[int]]:
    """Positions by lexeme."""
    made = text_search_vector("CAST(:config AS regconfig)", "content")
    async with database.transaction() as connection:
        rows = await connection.execute(
            text(f"""
            SELECT word.lexeme, word.positions
            FROM (SELECT CAST(:content AS text) AS content) one, unnest({made}) AS word
            """),
            {"config": config, "content": canonical(content)},
        )
        return {row.lexeme: row.positions for row in rows}


async def add_ingestion(database: Database, config: str | None, language: str | None = None):
    ingestion_id = uuid7()
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO ingestions"
                " (id, document_id, filename, sha256, byte_size, language, text_search_config)"
                " VALUES (:id, :id, 'a.pdf', '', 1, :language, :config)"
            ),
            {"id": ingestion_id, "language": language, "config": config},
        )
    return ingestion_id


async def configs_in_use(database: Database) -> list[str]:
    async with database.transaction() as connection:
        found = await connection.execute(text(f"SELECT CAST(config AS text) FROM ({CONFIGS_IN_USE}) AS used"))
        return sorted(found.scalars())


@pytest.mark.parametrize(
    ("config", "forms"),
    [
        ("german", ("Vertrag", "Verträge", "Vertrage", "VERTRÄGEN")),
        ("german", ("Straße", "Strassen", "STRASSE")),
        ("french", ("société", "sociétés", "societes", "SOCIÉTÉ")),
        ("french", ("déclarer", "déclarées", "déclarait")),
        ("spanish", ("administración", "administraciones", "administracion")),
        ("portuguese", ("informação", "informações", "informacao")),
        ("swedish", ("åtgärd", "åtgärder", "atgard")),
        ("danish", ("økonomi", "økonomien", "okonomi")),
        ("turkish", ("çalışma", "çalışmalar", "calisma")),
        ("russian", ("отчёт", "отчета", "отчёты")),
        ("simple", ("Zürich", "zurich", "ZÜRICH")),
    ],
)
async def test_forms_of_a_word_share_a_lexeme(
    module_database: Database, config: str, forms: Iterable[str]
) -> None:
    first, *others = [await vector(module_database, config, form) for form in forms]
    for form, other in zip(list(forms)[1:], others, strict=True):
        assert first.keys() & other.keys(), form


async def test_a_letter_that_only_looks_like_one_with_an_accent_stays(module_database: Database) -> None:
    assert (await vector(module_database, "simple", "российский")).keys() == {"российский"}
    assert (await vector(module_database, "simple", "ガス データ")).keys() == {"ガス", "デー", "ータ"}
    assert (await vector(module_database, "simple", "각하")).keys() == {"각하"}


async def test_a_word_of_two_lexemes_has_one_position(module_database: Database) -> None:
    assert await vector(module_database, "french", "rente déclarée ailleurs") == {
        "rent": [1], "declar": [2], "declare": [2], "ailleur": [3],
    }  # fmt: skip


async def test_plain_english_comes_out_as_postgres_makes_it(module_database: Database) -> None:
    content = "The well-known risks of co-operation, to be or not to be: 3.5 percent."
    async with module_database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT lexeme, positions FROM unnest(to_tsvector('english', :content))"),
            {"content": content},
        )
        assert await vector(module_database, "english", content) == {
            row.lexeme: row.positions for row in rows
        }


@pytest.mark.parametrize(
    "content",
    [
        "'\\'' \\\\ é'é\\é:1A,2B é",
        "e\u0301\u0301 \u0301 \u0340\u0344",
        "é" * 3000,
        "ø \x7f\x01 é\n\té",
        "é:* & | ! <-> (é",
    ],
)
async def test_what_looks_like_syntax_is_none(module_database: Database, content: str) -> None:
    for lexeme, positions in (await vector(module_database, "german", content)).items():
        assert lexeme
        assert positions


async def test_positions_are_the_same_in_every_config(module_database: Database) -> None:
    question = canonical(
        "Was ist die well-known été of the co-operation? e-mail a@b.co, FY18 10-K, 契約書 für 3.5 %"
    )
    used = [*dict.fromkeys((await open_text_search(module_database)).configs.values()), "simple"]
    assert len(used) >= 29
    all_words: dict[int, str] = {
        position: lexeme
        for lexeme, positions in (await vector(module_database, "simple", question)).items()
        for position in positions
    }
    stems = defaultdict(set)
    for config in used:
        for lexeme, positions in (await vector(module_database, config, question)).items():
            for position in positions:
                stems[position].add(lexeme)
    assert stems.keys() == all_words.keys()
    for position, lexemes in stems.items():
        assert {lexeme[0] for lexeme in lexemes} == {all_words[position][0]}, lexemes


async def test_configs_of_this_server_are_used_and_no_others(module_database: Database) -> None:
    text_search = await open_text_search(module_database)
    assert text_search.configs.items() <= CONFIGS.items()
    assert text_search.language("de") == TextLanguage("de", "german")
    assert text_search.language("nn") == TextLanguage("nn", "norwegian")
    assert text_search.language("ja") == TextLanguage("ja", "simple")
    assert text_search.language(None) == TextLanguage(None, "english")
    assert TextSearch({}, "simple").language("et") == TextLanguage("et", "simple")


async def test_only_languages_that_are_listed_are_stemmed(module_database: Database) -> None:
    text_search = await open_text_search(module_database, ["fr", "de"])
    assert text_search.language("de").config == "german"
    assert text_search.language("en").config == "simple"
    assert text_search.language(None).config == "french"
    assert (await open_text_search(module_database, ["ja", "en"])).language(None).config == "simple"


async def test_the_configs_in_use_are_found_and_that_of_old_documents(own_database: Database) -> None:
    assert await configs_in_use(own_database) == ["english"]
    for config in ("german", "simple", None, "german", "french", "no_such_config"):
        await add_ingestion(own_database, config)
    assert await configs_in_use(own_database) == ["english", "french", "german", "simple"]


async def words_of(database: Database, question: str) -> dict[int, set[str]]:
    found = defaultdict(set)
    async with database.transaction() as connection:
        rows = await connection.execute(
            text(question_words("CAST(:question AS text)")), {"question": canonical(question)}
        )
        for row in rows:
            found[row.position].add(row.lexeme)
    return dict(found)


async def test_a_question_is_looked_up_in_all_configs_in_use(own_database: Database) -> None:
    assert await words_of(own_database, "the declared risks") == {2: {"declar"}, 3: {"risk"}}
    assert await words_of(own_database, "to be or not to be") == {}
    for config in ("german", "french"):
        await add_ingestion(own_database, config)
    assert await words_of(own_database, "the declared risks") == {2: {"declar", "declared"}, 3: {"risk"}}
    assert await words_of(own_database, "was ist mit den Verträgen") == {5: {"vertragen", "vertrag"}}
    assert await words_of(own_database, "how did they die of it") == {4: {"die", "di"}}
    assert await words_of(own_database, "die") == {1: {"die", "di"}}
    assert await words_of(own_database, "") == {}


async def test_an_ingestion_knows_its_language(module_database: Database) -> None:
    new, old = (
        await add_ingestion(module_database, "german", "de"),
        await add_ingestion(module_database, None),
    )
    async with module_database.transaction() as connection:
        assert await find_language(connection, new) == TextLanguage("de", "german")
        assert await find_language(connection, old) == TextLanguage(None, "english")


async def test_the_configs_in_use_are_found_by_steps_of_an_index(module_database: Database) -> None:
    async with module_database.transaction() as connection:
        await connection.execute(
            text("""
            INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, text_search_config)
            SELECT gen_random_uuid(), gen_random_uuid(), 'a.pdf', '', 1,
                (ARRAY['german', 'italian'])[n % 2 + 1]
            FROM generate_series(1, 20000) AS n
            """)
        )
        await connection.execute(text("ANALYZE ingestions"))
        found = text("SELECT prosrc FROM pg_proc WHERE proname = 'text_search_configs'")
        plan = await connection.execute(text(f"EXPLAIN ANALYZE {await connection.scalar(found)}"))
        lines = plan.scalars().all()
    assert any("Index Only Scan using ix_ingestions_text_search_config" in line for line in lines)
    assert not any("Seq Scan on ingestions" in line for line in lines)
    (took,) = [float(line.split()[-2]) for line in lines if line.startswith("Execution Time")]
    assert took < 20  # measured 0.3 ms
