"""Search on lists long enough for the index, short ones, and while documents are being replaced."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sqlalchemy import text

from app.embedded import EmbeddedPostgres
from app.embeddings.base import EmbeddingIdentity
from app.storage.chunks import embeddings_table
from app.storage.database import Database, halfvecs
from app.storage.filters import Comparison, Compound, Containment, SearchFilter
from app.storage.search import Hit, search_hybrid, search_text, search_vector
from app.storage.spaces import open_space
from tests.databases import migrated
from tests.storage.library import SUBJECTS, Library, Shelf

FAR = 39
SHELVES = [
    *(
        Shelf("reports", 6, 300, {"year": year, "public": True}, phrase="annual")
        for year in range(2021, 2025)
    ),
    Shelf("letters", 10, 30, {"year": 2021}),
    Shelf("tales", 24, 250, subject=FAR, phrase="dragon"),
]
REPORT = replace(SHELVES[0], documents=1)
EVERYTHING = SearchFilter()
LETTERS = Comparison("eq", "filename", "letters.pdf")


@pytest.fixture(scope="module")
async def library(postgres: EmbeddedPostgres) -> AsyncIterator[Library]:
    """13,500 visible chunks: two long lists, a short one, and versions that nothing points at."""
    database = Database(await migrated(postgres, "search"))
    space_id = await open_space(database, EmbeddingIdentity("test", "clusters", 64))
    library = Library(database, space_id, 64)
    await library.fill(SHELVES)
    await library.add_ingestion(UUID(int=1), replace(REPORT, subject=0))
    yield library
    await database.close()


@pytest.fixture(scope="module")
async def filters(library: Library) -> dict[str, SearchFilter]:
    return await make_filters(library)


async def make_filters(library: Library) -> dict[str, SearchFilter]:
    reports = await documents_of(library, "reports")
    letters = await documents_of(library, "letters")
    return {
        "everything": EVERYTHING,
        "a long collection": SearchFilter(collection="reports"),
        "a long collection far from the query": SearchFilter(collection="tales"),
        "a short collection": SearchFilter(collection="letters"),
        "one document": SearchFilter(document_ids=(reports[3],)),
        "one small document": SearchFilter(document_ids=(letters[0],)),
        "many documents": SearchFilter(document_ids=tuple(reports[:20])),
        "metadata": SearchFilter(condition=Containment({"year": 2023})),
        "metadata of a long list": SearchFilter(condition=Containment({"public": True})),
        "own fields": SearchFilter(condition=Compound("or", (LETTERS, Comparison("gt", "year", 2022)))),
        "all three": SearchFilter("reports", tuple(reports[:4]), Containment({"year": 2021})),
    }


@pytest.fixture
async def one_connection(postgres: EmbeddedPostgres, library: Library) -> AsyncIterator[Database]:
    """The library's database, where each transaction comes on the same connection."""
    database = Database(postgres.url("search"), pool_size=1)
    yield database
    await database.close()


async def documents_of(library: Library, collection: str) -> list[UUID]:
    async with library.database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT id FROM documents WHERE collection = :collection ORDER BY id"),
            {"collection": collection},
        )
        return [row.id for row in rows]


async def nearest(
    library: Library, vector: NDArray[np.float32], wanted: SearchFilter, limit: int = 10
) -> list[Hit]:
    async with library.database.transaction() as connection:
        return await search_vector(connection, library.space_id, vector, wanted, limit)


async def matching(library: Library, query: str, wanted: SearchFilter, limit: int = 10) -> list[Hit]:
    async with library.database.transaction() as connection:
        return await search_text(connection, query, wanted, limit)


async def fused(
    library: Library, vector: NDArray[np.float32], query: str, wanted: SearchFilter, limit: int = 10
) -> list[Hit]:
    async with library.database.transaction() as connection:
        return await search_hybrid(connection, library.space_id, vector, query, wanted, limit)


async def truly_nearest(
    library: Library, vector: NDArray[np.float32], collection: str, limit: int
) -> list[UUID]:
    """By comparing everything, without any index."""
    async with library.database.transaction() as connection:
        await connection.execute(text("SET LOCAL enable_indexscan = off"))
        rows = await connection.execute(
            text(f"""
                SELECT chunk_id FROM {embeddings_table(library.space_id)} e
                JOIN documents d ON d.live_ingestion_id = e.ingestion_id WHERE d.collection = :collection
                ORDER BY embedding <#> (CAST(:vectors AS halfvec[]))[1] LIMIT :limit
            """),
            {"vectors": halfvecs(vector[np.newaxis]), "collection": collection, "limit": limit},
        )
        return [row.chunk_id for row in rows]


async def recall(library: Library, collection: str, queries: int) -> float:
    """The share of the true ten nearest that search finds."""
    found = 0
    for number in range(queries):
        vector = a_vector(library, number % SUBJECTS)
        hits = await nearest(library, vector, SearchFilter(collection=collection))
        found += len(
            {hit.chunk_id for hit in hits} & set(await truly_nearest(library, vector, collection, 10))
        )
    return found / (10 * queries)


def a_vector(library: Library, subject: int) -> NDArray[np.float32]:
    return library.vectors(1, subject)[0]


def some_words(library: Library, subject: int, count: int = 8) -> str:
    return " ".join(library.texts(1, subject)[0].split()[-count:])


async def ten_of_ten(library: Library, filters: dict[str, SearchFilter], rounds: int) -> None:
    """All three searches under every filter. Every chunk has the word heading, so all visible ones match."""
    for number in range(rounds):
        subject = number % SUBJECTS
        vector, words = a_vector(library, subject), f"{some_words(library, subject)} heading"
        for name, wanted in filters.items():
            found = {
                "vector": await nearest(library, vector, wanted),
                "text": await matching(library, words, wanted),
                "hybrid": await fused(library, vector, words, wanted),
            }
            for mode, hits in found.items():
                assert len(hits) == 10, f"{mode} search in {name}, round {number}: {len(hits)} rows"
                assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_every_filter_gives_ten_rows(library: Library, filters: dict[str, SearchFilter]) -> None:
    await ten_of_ten(library, filters, rounds=3)


async def test_the_hundredth_execution_gives_ten_rows_as_the_first(
    library: Library, filters: dict[str, SearchFilter], one_connection: Database
) -> None:
    """Postgres may take a generic plan from the sixth execution of a statement on a connection."""
    few = {name: filters[name] for name in ("everything", "one document")}
    await ten_of_ten(Library(one_connection, library.space_id, library.dimensions), few, rounds=100)
    async with one_connection.transaction() as connection:
        searches = "SELECT * FROM pg_prepared_statements WHERE statement ~ 'found J[O]IN'"
        plans = (await connection.execute(text(searches))).all()
    assert len(plans) == 6
    assert {row.generic_plans for row in plans} == {0}
    assert {row.custom_plans for row in plans} == {100}


async def test_settings_of_a_search_end_with_its_transaction(
    library: Library, one_connection: Database
) -> None:
    """A connection shared through PgBouncer goes to somebody else next."""
    show = text(
        "SELECT current_setting('plan_cache_mode'), current_setting('hnsw.iterative_scan', true),"
        " current_setting('hnsw.ef_search', true)"
    )
    async with one_connection.transaction() as connection:
        await search_vector(connection, library.space_id, a_vector(library, 0), EVERYTHING, 10)
        assert tuple((await connection.execute(show)).one()) == ("force_custom_plan", "relaxed_order", "200")
    async with one_connection.transaction() as connection:
        assert tuple((await connection.execute(show)).one()) == ("auto", "off", "40")


async def test_rows_are_ten_while_documents_are_replaced(
    library: Library, filters: dict[str, SearchFilter]
) -> None:
    replaced = 0

    async def replace_documents() -> None:
        nonlocal replaced
        for document_id in (await documents_of(library, "reports"))[:8]:
            await library.replace(document_id, replace(REPORT, subject=replaced % 3))
            replaced += 1

    replacing = asyncio.create_task(replace_documents())
    while not replacing.done():
        await ten_of_ten(library, filters, rounds=1)
    await replacing
    assert replaced == 8


async def test_a_replaced_document_is_found_in_its_old_version_or_its_new_one_never_in_both(
    library: Library,
) -> None:
    document_id = (await documents_of(library, "reports"))[-1]
    wanted, versions = SearchFilter(document_ids=(document_id,)), set()

    async def replace_document() -> None:
        for subject in (5, 6, 7, 8):
            await library.replace(document_id, replace(REPORT, subject=subject))

    replacing = asyncio.create_task(replace_document())
    while not replacing.done():
        hits = await nearest(library, a_vector(library, 5), wanted, limit=100)
        titles = {hit.title for hit in hits}
        assert len(hits) == 100
        assert len(titles) == 1
        versions |= titles
    await replacing
    assert len(versions) >= 3


async def test_an_index_finds_nearly_what_comparing_everything_finds(library: Library) -> None:
    assert await recall(library, "reports", queries=30) >= 0.9  # 0.96 to 1, from graph to graph


async def test_a_short_list_is_compared_entirely(library: Library) -> None:
    for number in range(10):
        vector = a_vector(library, number)
        hits = await nearest(library, vector, SearchFilter(collection="letters"), limit=100)
        assert [hit.chunk_id for hit in hits] == await truly_nearest(library, vector, "letters", 100)


async def test_a_list_that_the_index_does_not_reach_is_compared_entirely(library: Library) -> None:
    """The index may give up before it comes to a subject at the other end of the space."""
    vector, tales = -a_vector(library, FAR), SearchFilter(collection="tales")
    async with library.database.transaction() as connection:
        await connection.execute(text("SET LOCAL hnsw.max_scan_tuples = 1"))
        await connection.execute(text("SET LOCAL enable_sort = off"))  # by the index, whatever it costs
        hits = await search_vector(connection, library.space_id, vector, tales, limit=10)
        by_index = await connection.execute(
            text(f"""
                SELECT chunk_id FROM {embeddings_table(library.space_id)} e
                JOIN documents d ON d.live_ingestion_id = e.ingestion_id WHERE d.collection = 'tales'
                ORDER BY embedding <#> (CAST(:vectors AS halfvec[]))[1] LIMIT 10
            """),
            {"vectors": halfvecs(vector[np.newaxis])},
        )
        assert len(by_index.all()) < 10
    assert [hit.chunk_id for hit in hits] == await truly_nearest(library, vector, "tales", 10)


async def test_a_vector_score_is_the_cosine_and_min_score_is_its_threshold(library: Library) -> None:
    vector, wanted = a_vector(library, FAR), SearchFilter(collection="tales")
    hits = await nearest(library, vector, wanted, limit=50)
    async with library.database.transaction() as connection:
        cosines = await connection.execute(
            text(f"""
                SELECT chunk_id, 1 - (embedding <=> (CAST(:vectors AS halfvec[]))[1]) AS cosine
                FROM {embeddings_table(library.space_id)} WHERE chunk_id = ANY(:ids)
            """),
            {"vectors": halfvecs(vector[np.newaxis]), "ids": [hit.chunk_id for hit in hits]},
        )
        cosine = {row.chunk_id: row.cosine for row in cosines}
        best = await search_vector(
            connection, library.space_id, vector, wanted, limit=50, min_score=hits[19].score
        )
    assert [hit.score for hit in hits] == pytest.approx([cosine[hit.chunk_id] for hit in hits], abs=1e-3)
    assert [hit.chunk_id for hit in best] == [hit.chunk_id for hit in hits[:20]]


async def test_a_list_shorter_than_the_limit_comes_back_whole(library: Library) -> None:
    letter = (await documents_of(library, "letters"))[0]
    hits = await nearest(library, a_vector(library, 0), SearchFilter(document_ids=(letter,)), limit=100)
    assert len(hits) == 30
    assert {hit.document_id for hit in hits} == {letter}


@pytest.mark.parametrize(
    "nothing",
    [
        SearchFilter(collection="a collection nobody made"),
        SearchFilter(document_ids=()),
        SearchFilter(document_ids=(UUID(int=1),)),
        SearchFilter(condition=Containment({"year": "2021"})),
        SearchFilter(collection="letters", condition=Containment({"public": True})),
    ],
)
async def test_no_document_is_an_empty_list(library: Library, nothing: SearchFilter) -> None:
    vector = a_vector(library, 0)
    assert await nearest(library, vector, nothing) == []
    assert await matching(library, "heading", nothing) == []
    assert await fused(library, vector, "heading", nothing) == []


async def test_a_version_that_is_not_published_is_not_found(library: Library) -> None:
    visible = await nearest(library, a_vector(library, 0), EVERYTHING, limit=100)
    assert len(visible) == 100
    assert UUID(int=1) not in {hit.document_id for hit in visible}


async def test_a_hit_says_where_it_is(library: Library) -> None:
    letter = (await documents_of(library, "letters"))[0]
    hits = await nearest(library, a_vector(library, 0), SearchFilter(document_ids=(letter,)), limit=100)
    assert {hit.filename for hit in hits} == {"letters.pdf"}
    assert {hit.page_start for hit in hits} == set(range(1, 11))
    assert hits[0].boxes == ((1, (72, 100, 540, 112.5)),)
    assert {hit.heading for hit in hits} == {"A heading"}
    assert sorted(hit.ordinal for hit in hits) == list(range(30))
    assert hits[0].title is not None
    assert hits[0].title.startswith("Subject")


async def test_conditions_choose_the_documents_in_every_mode(library: Library) -> None:
    wanted = SearchFilter("letters", condition=LETTERS), SearchFilter("reports", condition=LETTERS)
    for one, names in zip(wanted, ({"letters.pdf"}, set()), strict=True):
        vector = a_vector(library, 0)
        assert {hit.filename for hit in await nearest(library, vector, one)} == names
        assert {hit.filename for hit in await matching(library, "heading", one)} == names
        assert {hit.filename for hit in await fused(library, vector, "heading", one)} == names


async def test_text_finds_chunks_with_any_of_the_words(library: Library) -> None:
    hits = await matching(library, "Dragons, unicorns!", EVERYTHING)
    assert {hit.filename for hit in hits} == {"tales.pdf"}
    assert all("dragon" in hit.text for hit in hits)
    assert all(0 < hit.score < 1 for hit in hits)


async def test_a_rare_word_is_found_among_common_ones(library: Library) -> None:
    """annual is in 7,200 chunks and dragon in 6,000, zyzzyva in one."""
    await library.add_document(Shelf("notes", 1, 1, phrase="annual zyzzyva zyzzyva"))
    hits = await matching(library, "the annual zyzzyva of a dragon", EVERYTHING)
    assert hits[0].filename == "notes.pdf"
    assert len(hits) == 10


async def test_common_words_that_never_meet_are_found_apart(library: Library) -> None:
    hits = await matching(library, "annual dragon", EVERYTHING, limit=100)
    assert len(hits) == 100
    assert all("annual" in hit.text or "dragon" in hit.text for hit in hits)


async def test_text_on_a_long_list_finds_what_ranking_every_match_finds(library: Library) -> None:
    found = 0
    for number in range(20):
        query = some_words(library, number)
        hits = await matching(library, query, EVERYTHING)
        async with library.database.transaction() as connection:
            best = await connection.execute(
                text("""
                    SELECT c.id FROM chunks c JOIN documents d ON d.live_ingestion_id = c.ingestion_id, (
                        SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery AS query
                        FROM unnest(to_tsvector('english', :query))
                    ) words
                    WHERE tsv @@ words.query ORDER BY ts_rank(tsv, words.query) DESC, c.id LIMIT 10
                """),
                {"query": query},
            )
            found += len({hit.chunk_id for hit in hits} & {row.id for row in best})
    assert found / 200 >= 0.95


async def test_min_score_of_text_is_a_threshold_of_rank(library: Library) -> None:
    hits = await matching(library, "dragon babado", EVERYTHING, limit=50)
    middle = (hits[0].score + hits[-1].score) / 2
    async with library.database.transaction() as connection:
        best = await search_text(connection, "dragon babado", EVERYTHING, limit=50, min_score=middle)
    assert best == [hit for hit in hits if hit.score >= middle]
    assert 0 < len(best) < 50


@pytest.mark.parametrize("query", ["", "  ", "the of and", "?!", "'", "\\", "&|!<->:*()"])
async def test_a_query_without_words_finds_nothing_by_text_and_by_meaning_alone_in_hybrid(
    library: Library, query: str
) -> None:
    vector, letters = a_vector(library, 3), SearchFilter(collection="letters")
    assert await matching(library, query, EVERYTHING) == []
    hits = await fused(library, vector, query, letters)
    assert [hit.chunk_id for hit in hits] == [hit.chunk_id for hit in await nearest(library, vector, letters)]
    assert [hit.score for hit in hits] == pytest.approx([1 / (61 + place) for place in range(10)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60))
async def test_no_query_breaks_the_search_for_words(library: Library, query: str) -> None:
    hits = await matching(library, f"{query} heading's \\", SearchFilter(collection="letters"))
    assert len(hits) == 10


async def test_who_quotes_a_sentence_finds_its_place_before_chunks_with_the_same_words(
    library: Library,
) -> None:
    quoted = "the keeper of the lighthouse sold his brass lamp"
    await library.add_document(Shelf("shuffled", 5, 3, phrase="brass keeper lamp lighthouse sold brass lamp"))
    place = await library.add_document(Shelf("quoted", 1, 1, phrase=f"{quoted} and moved to the city"))
    hits = await fused(library, a_vector(library, 0), quoted, EVERYTHING)
    assert hits[0].document_id == place


@pytest.mark.parametrize("name", ["a short collection", "one document", "all three"])
async def test_hybrid_is_the_fusion_of_both_lists(
    library: Library, filters: dict[str, SearchFilter], name: str
) -> None:
    vector, words = a_vector(library, 2), some_words(library, 2)
    expected: dict[UUID, float] = {}
    for hits in (
        await nearest(library, vector, filters[name], limit=100),
        await matching(library, words, filters[name], limit=100),
    ):
        for place, hit in enumerate(hits, start=1):
            expected[hit.chunk_id] = expected.get(hit.chunk_id, 0) + 1 / (60 + place)
    hits = await fused(library, vector, words, filters[name])
    best = sorted(expected.items(), key=lambda one: (-one[1], one[0]))[:10]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in best])
    assert {hit.chunk_id: pytest.approx(hit.score) for hit in hits} == dict(best)


@pytest.mark.heavy
async def test_sixty_thousand_chunks_while_a_third_of_the_reports_is_replaced(
    postgres: EmbeddedPostgres,
) -> None:
    """Ten of ten under every filter, meanwhile and after, and nearly all of what comparing finds."""
    database = Database(await migrated(postgres, "search_heavy"))
    space_id = await open_space(database, EmbeddingIdentity("test", "clusters", 256))
    library = Library(database, space_id, 256, words=150)
    await library.fill([replace(shelf, documents=5 * shelf.documents) for shelf in SHELVES])
    filters = await make_filters(library)
    await ten_of_ten(library, filters, rounds=10)

    async def replace_documents() -> None:
        for document_id in (await documents_of(library, "reports"))[::3]:
            await library.replace(document_id, REPORT)

    replacing = asyncio.create_task(replace_documents())
    while not replacing.done():
        await ten_of_ten(library, filters, rounds=1)
    await replacing
    await ten_of_ten(library, filters, rounds=10)
    assert await recall(library, "reports", queries=40) >= 0.9
    await database.close()
