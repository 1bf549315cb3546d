import json
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fpdf import FPDF
from uuid_utils.compat import uuid7

REPORTS = f"reports-{uuid7()}"
PAGES = {
    "rivers.pdf": ["The Danube flows through ten countries.", "Salmon return to the river to spawn."],
    "bread.pdf": ["Sourdough needs flour, water, salt and patience.", "Bake the loaf in a hot oven."],
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
    """The ids of the documents by their name, ingested here since no worker listens."""
    folder = tmp_path_factory.mktemp("pdfs")
    ids = {}
    for name, pages in PAGES.items():
        uploaded = await client.post(
            "/documents",
            files={"file": (name, make_pdf(folder / name, pages))},
            data={"collection": REPORTS, "metadata": json.dumps(METADATA[name])},
        )
        assert uploaded.status_code == 202, uploaded.text
        await served.services.rag.ingest_pdf("", UUID(uploaded.json()["task_id"]))
        ids[name] = uploaded.json()["document_id"]
    return ids


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
    }
    assert (hit["document_id"], hit["filename"]) == (documents["bread.pdf"], "bread.pdf")
    assert "Sourdough" in hit["text"]
    assert hit["page_start"] == 1
    page, left, top, right, bottom = hit["boxes"][0]
    assert page == 1
    assert 0 <= left < right <= 612
    assert 0 <= top < bottom <= 842
    assert [hit["score"] for hit in found["data"]] == sorted(
        (hit["score"] for hit in found["data"]), reverse=True
    )


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
        ({"query": "x", "min_score": 0.5}, "body"),
        ({"query": "x", "mode": "hybrid", "min_score": 0}, "body"),
        ({"query": "x", "document_ids": ["seven"]}, "body.document_ids.0"),
        ({"query": "x", "document_ids": [str(uuid7())] * 1_001}, "body.document_ids"),
        ({"query": "x", "filter": ["a"]}, "body.filter"),
        ({"query": "x", "filter": {"a": "\0"}}, "body.filter"),
        ({"query": "x", "filter": {"a\0": 1}}, "body.filter"),
        ({"query": "x", "filter": {"a": "\ud800"}}, "body.filter"),
        ({"query": "x", "filter": {"a": float("nan")}}, "body.filter"),
        ({"query": "x", "filter": {"a": "x" * 10_000}}, "body.filter"),
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
