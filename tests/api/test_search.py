import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from fpdf import FPDF
from uuid_utils.compat import uuid7

from app.api.search_schemas import SearchHit
from app.config import Settings
from app.local.embedded import free_port
from app.main import create_app
from app.reranking.over_http import HTTPReranker
from app.services.reranking import Reranking
from app.services.searching import Search
from app.storage.filters import SearchFilter
from app.storage.search import Hit

REPORTS = f"reports-{uuid7()}"
PAGES = {
    "rivers.pdf": ["The Danube flows through ten countries.", "Salmon return to the river to spawn."],
    "bread.pdf": ["Sourdough needs flour, water, salt and patience.", "Bake the loaf in a hot oven."],
}
NOVELS = f"novels-{uuid7()}"
CHAPTERS = {
    "keeper.pdf": [f"Night {n}. " + "The keeper of the lighthouse wrote a letter. " * 40 for n in range(6)],
    "island.pdf": [f"Day {n}. " + "The island has a lighthouse and some sheep. " * 40 for n in range(4)],
}
METADATA = {
    "rivers.pdf": {"about": "river", "tags": ["a", "b"]},
    "bread.pdf": {"about": "bread", "tags": ["a", "b"], "big": 2**70},
}


def make_pdf(path: Path, pages: list[str]) -> bytes:
    pdf = FPDF()
    pdf.set_font("helvetica", size=12)
    for text in pages:
        pdf.add_page()
        pdf.multi_cell(0, text=text)
    pdf.output(str(path))
    return path.read_bytes()


@pytest.fixture(scope="module")
async def documents(
    client: httpx.AsyncClient, served: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The ids of the short documents by their name."""
    return await ingest(client, served, tmp_path_factory.mktemp("pdfs"), REPORTS, PAGES)


@pytest.fixture(scope="module")
async def novels(
    client: httpx.AsyncClient, served: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The ids of documents with several chunks each."""
    return await ingest(client, served, tmp_path_factory.mktemp("pdfs"), NOVELS, CHAPTERS)


async def ingest(
    client: httpx.AsyncClient,
    served: Any,
    folder: Path,
    collection: str,
    documents: dict[str, list[str]],
    metadata: dict[str, Any] | None = None,
) -> dict[str, str]:
    """The ids of the documents by their name. They are ingested here since no worker listens."""
    ids = {}
    for name, pages in documents.items():
        uploaded = await client.post(
            "/documents",
            files={"file": (name, make_pdf(folder / name, pages))},
            data={"collection": collection, "metadata": json.dumps(metadata or METADATA.get(name, {}))},
        )
        assert uploaded.status_code == 202, uploaded.text
        await served.services.rag.ingest_pdf("", UUID(uploaded.json()["task_id"]))
        ids[name] = uploaded.json()["document_id"]
    return ids


def compared(**parts: Any) -> dict[str, Any]:
    return {"type": "eq", "key": "year", "value": 2025} | parts


def nested(levels: int) -> dict[str, Any]:
    wanted = compared()
    for _ in range(levels - 1):
        wanted = {"type": "and", "filters": [wanted]}
    return wanted


async def search(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/search", json={"collection": REPORTS} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_a_hit_says_where_it_is(
    client: httpx.AsyncClient, documents: dict[str, str], mode: str
) -> None:
    found = await search(client, query="sourdough flour and salt", mode=mode)
    assert set(found) == {"data", "mode", "took_ms", "degraded"}
    assert (found["mode"], found["degraded"]) == (mode, [])
    assert 0 < found["took_ms"] < 10_000
    hit = found["data"][0]
    assert set(hit) == {
        "chunk_id",
        "document_id",
        "filename",
        "title",
        "page_start",
        "page_end",
        "text",
        "score",
        "boxes",
        "heading",
        "ordinal",
        "matched",
    }
    assert (hit["document_id"], hit["filename"]) == (documents["bread.pdf"], "bread.pdf")
    assert "Sourdough" in hit["text"]
    assert (hit["page_start"], hit["ordinal"]) == (1, 0)
    page, left, top, right, bottom = hit["boxes"][0]
    assert page == 1
    assert 0 <= left < right <= 612
    assert 0 <= top < bottom <= 842
    assert [hit["score"] for hit in found["data"]] == sorted(
        (hit["score"] for hit in found["data"]), reverse=True
    )


async def test_a_hit_says_where_its_words_stand_if_asked(
    client: httpx.AsyncClient, documents: dict[str, str]
) -> None:
    for more in ({}, {"mode": "vector"}, {"mode": "text"}, {"group_by": "document"}):
        found = await search(client, query="the salted flours", highlight=True, **more)
        hit = found["data"][0]["hits"][0] if "group_by" in more else found["data"][0]
        marked = {hit["text"][start:end].lower() for start, end in hit["marks"]}
        assert {"salt", "flour"} <= marked <= {"salt", "flour", "salted"}, more
    nothing = await search(client, query="zzzyx", mode="text", highlight=True)
    assert nothing["data"] == []


async def test_hybrid_and_ten_are_what_one_gets_unasked(
    client: httpx.AsyncClient, documents: dict[str, str]
) -> None:
    assert (await search(client, query="river"))["mode"] == "hybrid"


async def test_filters_choose_the_documents(client: httpx.AsyncClient, documents: dict[str, str]) -> None:
    async def names(**body: Any) -> set[str]:
        found = await search(client, query="salmon in the river, flour in the oven", **body)
        return {hit["filename"] for hit in found["data"]}

    assert await names() == {"rivers.pdf", "bread.pdf"}
    assert await names(document_ids=[documents["bread.pdf"]]) == {"bread.pdf"}
    assert await names(filter={"about": "river"}) == {"rivers.pdf"}
    assert await names(filter={"tags": ["b"]}) == {"rivers.pdf", "bread.pdf"}
    assert await names(filter={"about": "oceans"}) == set()
    assert await names(filter={"big": 2**70}) == {"bread.pdf"}
    assert await names(filter={"big": 2**70 + 1}) == set()
    assert await names(collection="another") == set()
    assert await names(document_ids=[]) == set()


async def test_operators_choose_the_documents(client: httpx.AsyncClient, documents: dict[str, str]) -> None:
    async def names(wanted: dict[str, Any]) -> set[str]:
        found = await search(client, query="salmon in the river, flour in the oven", filter=wanted)
        return {hit["filename"] for hit in found["data"]}

    def where(operator: str, key: str, value: Any) -> dict[str, Any]:
        return {"type": operator, "key": key, "value": value}

    rivers, bread = {"rivers.pdf"}, {"bread.pdf"}
    assert await names(where("eq", "about", "river")) == rivers
    assert await names(where("ne", "about", "river")) == bread
    assert await names(where("eq", "tags", "b")) == rivers | bread
    assert await names(where("gt", "big", 2**70 - 1)) == bread
    assert await names(where("eq", "big", None)) == rivers
    assert await names(where("in", "filename", ["bread.pdf", "wine.pdf"])) == bread
    assert await names(where("eq", "metadata.filename", "bread.pdf")) == set()
    assert await names(where("gte", "pages", 2)) == rivers | bread
    assert await names(where("gt", "pages", 2)) == set()
    assert await names(where("gt", "created_at", "2020-01-01T00:00:00+01:00")) == rivers | bread
    assert await names(where("lt", "created_at", "2020-01-01T00:00:00+01:00")) == set()
    either = {"type": "or", "filters": [where("lt", "pages", 2), {"about": "bread"}]}
    assert await names(either) == bread
    assert await names({"type": "and", "filters": [either, where("eq", "about", "river")]}) == set()


async def test_created_at_is_the_time_that_the_document_shows(
    client: httpx.AsyncClient, documents: dict[str, str]
) -> None:
    shown = (await client.get(f"/documents/{documents['bread.pdf']}")).json()["created_at"]
    wanted = {"type": "eq", "key": "created_at", "value": shown}
    found = await search(client, query="flour", filter=wanted)
    assert {hit["filename"] for hit in found["data"]} == {"bread.pdf"}


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ({"type": "invoice"}, "type"),
        ({"type": "in"}, "type"),
        ({"type": "invoice", "key": "A-17"}, "key"),
        ({"filters": "blue"}, "filters"),
    ],
)
async def test_metadata_with_a_key_type_is_no_operator(
    client: httpx.AsyncClient, served: Any, tmp_path: Path, metadata: dict[str, Any], key: str
) -> None:
    uploaded = await ingest(
        client, served, tmp_path, f"typed-{uuid7()}", {"invoice.pdf": ["An invoice."]}, metadata
    )
    for wanted, hits in (
        (metadata, 1),
        (metadata | {key: "other"}, 0),
        ({"type": "eq", "key": key, "value": metadata[key]}, 1),
    ):
        asked = {"document_ids": list(uploaded.values()), "collection": None, "filter": wanted}
        assert len((await search(client, query="invoice", **asked))["data"]) == hits, wanted


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_documents_come_with_their_best_hits(
    client: httpx.AsyncClient, novels: dict[str, str], mode: str
) -> None:
    asked = {"query": "what the keeper of the lighthouse wrote", "mode": mode, "collection": NOVELS}
    hits = (await search(client, **asked, limit=100))["data"]
    grouped = await search(client, **asked, group_by="document", group_size=2)
    assert set(grouped) == {"data", "mode", "took_ms", "degraded"}
    assert [group["filename"] for group in grouped["data"]] == ["keeper.pdf", "island.pdf"]
    for group in grouped["data"]:
        own = [hit for hit in hits if hit["document_id"] == novels[group["filename"]]]
        assert len(own) > 3
        assert group == {name: own[0][name] for name in ("document_id", "filename", "title", "score")} | {
            "hits": own[:2]
        }
    one = (await search(client, **asked, group_by="document", limit=1))["data"]
    assert [(group["filename"], len(group["hits"])) for group in one] == [("keeper.pdf", 3)]


async def test_no_document_is_an_empty_list(client: httpx.AsyncClient, documents: dict[str, str]) -> None:
    assert (await search(client, query="zygote", mode="text", group_by="document"))["data"] == []


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_a_hit_comes_with_the_chunks_around_it_if_asked_for(
    client: httpx.AsyncClient, novels: dict[str, str], mode: str
) -> None:
    stored = {
        document_id: (await client.get(f"/documents/{document_id}/chunks")).json()["data"]
        for document_id in novels.values()
    }
    fields = ("ordinal", "page_start", "page_end", "heading", "text")
    asked = {"query": "the lighthouse keeper", "collection": NOVELS, "mode": mode}
    for distance in (1, 3):
        found = (await search(client, **asked, neighbours=distance))["data"]
        assert len(found) == 10
        for hit in found:
            near = [
                {name: chunk[name] for name in fields}
                for chunk in stored[hit["document_id"]]
                if 0 < abs(chunk["ordinal"] - hit["ordinal"]) <= distance
            ]
            assert hit["neighbours"] == near
            assert distance <= len(near) <= 2 * distance
    groups = (await search(client, **asked, neighbours=1, group_by="document"))["data"]
    assert all(hit["neighbours"] for group in groups for hit in group["hits"])
    assert all("neighbours" not in hit for hit in (await search(client, **asked))["data"])


async def test_limit_and_min_score_shorten_the_answer(
    client: httpx.AsyncClient, documents: dict[str, str]
) -> None:
    found = await search(client, query="salmon", mode="vector")
    assert len(found["data"]) >= 2
    assert len((await search(client, query="salmon", mode="vector", limit=1))["data"]) == 1
    best, second = found["data"][0]["score"], found["data"][1]["score"]
    above = await search(client, query="salmon", mode="vector", min_score=(best + second) / 2)
    assert len(above["data"]) == 1


async def test_finding_nothing_is_an_empty_list(client: httpx.AsyncClient, documents: dict[str, str]) -> None:
    assert (await search(client, query="zygote", mode="text"))["data"] == []


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
@pytest.mark.parametrize("query", ["?", "... !!", '"--"', "\N{THINKING FACE}"])
async def test_signs_alone_find_nothing(
    client: httpx.AsyncClient, documents: dict[str, str], query: str, mode: str
) -> None:
    assert (await search(client, query=query, mode=mode))["data"] == []


@pytest.mark.parametrize("query", ["7", "\N{CJK UNIFIED IDEOGRAPH-9BAD}", "\N{VULGAR FRACTION ONE HALF}"])
async def test_a_single_letter_or_digit_is_asked_for(
    client: httpx.AsyncClient, documents: dict[str, str], query: str
) -> None:
    assert (await search(client, query=query, mode="vector"))["data"]


@pytest.mark.parametrize("query", ["salmon\0", "sal\u00admon", "  salmon\n"])
async def test_invisible_characters_in_a_query_do_no_harm(
    client: httpx.AsyncClient, documents: dict[str, str], query: str
) -> None:
    assert (await search(client, query=query, mode="text"))["data"][0]["filename"] == "rivers.pdf"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"query": ""}, "body.query"),
        ({"query": " \n\0"}, "body.query"),
        ({"query": "x" * 2_001}, "body.query"),
        ({}, "body.query"),
        ({"query": "x", "limit": 0}, "body.limit"),
        ({"query": "x", "limit": 101}, "body.limit"),
        ({"query": "x", "mode": "magic"}, "body.mode"),
        ({"query": "x", "document_ids": ["seven"]}, "body.document_ids.0"),
        ({"query": "x", "document_ids": [str(uuid7())] * 1_001}, "body.document_ids"),
        ({"query": "x", "filter": ["a"]}, "body.filter"),
        ({"query": "x", "filter": {"a": "\0"}}, "body.filter"),
        ({"query": "x", "filter": {"a\0": 1}}, "body.filter"),
        ({"query": "x", "filter": {"a": "\ud800"}}, "body.filter"),
        ({"query": "x", "filter": {"a": float("nan")}}, "body.filter"),
        ({"query": "x", "filter": {"a": "x" * 10_000}}, "body.filter"),
        ({"query": "x", "filter": compared(type="equals")}, "body.filter.comparison.type"),
        ({"query": "x", "filter": {"type": "eq", "key": "year"}}, "body.filter.comparison.value"),
        ({"query": "x", "filter": compared(key="\0")}, "body.filter.comparison.key"),
        ({"query": "x", "filter": compared(value="\ud800")}, "body.filter.comparison.value"),
        ({"query": "x", "filter": compared(value=float("inf"))}, "body.filter.comparison.value"),
        ({"query": "x", "filter": compared(value={"a": 1})}, "body.filter.comparison"),
        ({"query": "x", "filter": compared(value=[1])}, "body.filter.comparison"),
        ({"query": "x", "filter": compared(type="in")}, "body.filter.comparison"),
        ({"query": "x", "filter": compared(type="gt", value=None)}, "body.filter.comparison"),
        ({"query": "x", "filter": compared(key="pages", value="12")}, "body.filter.comparison"),
        ({"query": "x", "filter": compared(key="created_at", value="today")}, "body.filter.comparison"),
        ({"query": "x", "filter": {"type": "and", "filters": []}}, "body.filter.compound.filters"),
        (
            {"query": "x", "filter": {"type": "or", "filters": [{"a": 1}, compared(type="gt", value=True)]}},
            "body.filter.compound.filters.1.comparison",
        ),
        ({"query": "x", "filter": nested(6)}, "body.filter"),
        ({"query": "x", "filter": nested(400)}, "body.filter"),
        ({"query": "x", "filter": {"type": "or", "filters": [{"a": 1}] * 30}}, "body.filter"),
        ({"query": "x", "filter": compared(type="in", value=[1] * 1_001)}, "body.filter"),
        ({"query": "x", "group_by": "page"}, "body.group_by"),
        ({"query": "x", "group_size": 0}, "body.group_size"),
        ({"query": "x", "group_size": 11}, "body.group_size"),
        ({"query": "x", "neighbours": 4}, "body.neighbours"),
        ({"query": "x", "neighbours": -1}, "body.neighbours"),
        ({"query": "x", "collection": "a\0b"}, "body.collection"),
        ({"query": "x", "collection": "\ud800"}, "body.collection"),
        ({"query": "x", "collection": ""}, "body.collection"),
        ({"query": "x", "colection": "typing error"}, "body.colection"),
    ],
)
async def test_what_cannot_be_searched_is_refused_with_its_place(
    client: httpx.AsyncClient, body: dict[str, Any], where: str
) -> None:
    content = json.dumps(body)
    answer = await client.post("/search", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
    assert answer.json()["errors"][0]["where"].startswith(where)


async def test_a_backslash_before_u0000_is_no_nul(
    client: httpx.AsyncClient, documents: dict[str, str]
) -> None:
    found = await search(client, query="river", filter={"path": "C:\\u0000"})
    assert found["data"] == []


def test_the_parts_of_a_score_are_shown_only_if_asked_for() -> None:
    hit = Hit(
        chunk_id=uuid7(),
        document_id=uuid7(),
        filename="rivers.pdf",
        title=None,
        page_start=1,
        page_end=1,
        text="The Danube flows.",
        score=0.9,
        boxes=(),
        heading=None,
        ordinal=0,
        matched=("danube",),
        explain={"words": 0.7, "vector": 0.2},
        places={"words": 1, "vector": 4},
    )
    asked = SearchHit.of(hit, [(0, 3)], explain=True).model_dump()
    assert (asked["matched"], asked["explain"]) == (["danube"], {"words": 0.7, "vector": 0.2})
    assert asked["places"] == {"words": 1, "vector": 4}
    assert asked["marks"] == [(0, 3)]
    plain = SearchHit.of(hit, None, explain=False).model_dump()
    assert plain.keys() == asked.keys() - {"explain", "places", "marks"}


async def test_a_reranker_gives_the_fifty_best_of_hybrid_search_its_own_order(
    served: Any, documents: dict[str, str]
) -> None:
    asked: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        passages = json.loads(request.content)["documents"]
        asked.append(passages)
        scores = [{"index": n, "relevance_score": text.count("oven")} for n, text in enumerate(passages)]
        return httpx.Response(200, json={"results": scores})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        reranker = HTTPReranker(http, base_url="http://reranker", api_key=None, model=None)
        searcher = replace(served.services.rag.searcher, reranking=Reranking(reranker, 5))
        wanted = Search(query="salmon", filter=SearchFilter(collection=REPORTS), limit=1)
        found = await searcher.search(wanted)
        assert ["oven" in hit.text for hit in found.hits] == [True]
        assert (found.hits[0].score, found.degraded) == (1, ())
        assert len(asked[0]) > 1
        assert "Salmon" in (await searcher.search(replace(wanted, mode="text"))).hits[0].text
        assert len(asked) == 1


async def test_a_search_goes_on_without_its_reranker_and_says_so(
    settings: Settings,
    serve: Callable[[FastAPI], AbstractAsyncContextManager[Any]],
    client: httpx.AsyncClient,
    documents: dict[str, str],
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    lonely = settings.model_copy(update={"rerank_provider": "http", "rerank_base_url": nobody})
    body = {"query": "salmon in the river", "collection": REPORTS}
    async with serve(create_app(lonely)) as other, httpx.AsyncClient(base_url=other.url) as second:
        found = (await second.post("/search", json=body)).json()
        assert found["degraded"] == ["reranker"]
        assert found["data"] == (await client.post("/search", json=body)).json()["data"]
        by_words = (await second.post("/search", json=body | {"mode": "text"})).json()
        assert by_words["degraded"] == []


async def test_a_title_set_by_hand_finds_the_document_at_once_and_in_its_next_versions(
    client: httpx.AsyncClient, served: Any, tmp_path: Path
) -> None:
    collection = f"c-{uuid7()}"
    pages = {f"{name}.pdf": [f"The loaf of {name} is baked in a hot oven."] for name in ("one", "two", "six")}
    ids = await ingest(client, served, tmp_path, collection, pages)
    path = f"/documents/{ids['six.pdf']}"

    async def first() -> dict[str, Any]:
        question = {"query": "zanzibar loaf", "collection": collection, "mode": "text", "explain": True}
        found: dict[str, Any] = (await client.post("/search", json=question)).json()["data"][0]
        return found

    unnamed = await first()
    assert unnamed["document_id"] != ids["six.pdf"]
    await client.patch(path, json={"title": "Bread of Zanzibar"})
    named = await first()
    assert (named["document_id"], named["title"]) == (ids["six.pdf"], "Bread of Zanzibar")

    newer = make_pdf(tmp_path / "newer.pdf", ["A loaf, baked for once in a cold oven."])
    accepted = (await client.put(path, files={"file": ("newer.pdf", newer)})).json()
    await served.services.rag.ingest_pdf(f"{accepted['task_id']}.pdf", UUID(accepted["task_id"]))
    replaced = await first()
    assert (replaced["document_id"], replaced["text"][:6]) == (ids["six.pdf"], "A loaf")

    await client.patch(path, json={"title": None})
    assert (await first())["document_id"] != ids["six.pdf"]
