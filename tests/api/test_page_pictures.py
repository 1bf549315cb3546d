"""Pages as pictures, of a document that a real service has ingested."""

from io import BytesIO
from uuid import UUID, uuid4

import httpx
import pytest
from PIL import Image

from tests.api.conftest import Served
from tests.pdfs.hostile import PASSWORD, encrypted
from tests.processes import PROJECT

SAMPLE = PROJECT / "samples" / "salt-marsh-article.pdf"


@pytest.fixture(scope="module")
async def document_id(served: Served, client: httpx.AsyncClient) -> str:
    found, _ = await _ingested(client, served, "marsh.pdf", SAMPLE.read_bytes())
    return found


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return Image.open(BytesIO(answer.content)).convert("RGB")


async def test_a_page_comes_as_a_picture_of_the_width_asked_for(
    client: httpx.AsyncClient, document_id: str
) -> None:
    drawn = picture(await client.get(f"/documents/{document_id}/pages/2.png", params={"width": 400}))
    assert drawn.width == 400


async def test_the_lines_of_a_hit_are_marked(client: httpx.AsyncClient, document_id: str) -> None:
    query = {"query": "cordgrass halves small waves", "document_ids": [document_id], "limit": 1}
    (hit,) = (await client.post("/search", json=query)).json()["data"]
    url = f"/documents/{document_id}/pages/{hit['page_start']}.png"
    plain = picture(await client.get(url, params={"width": 420}))
    marked = picture(await client.get(url, params={"width": 420, "highlight": hit["chunk_id"]}))
    _, left, top, right, bottom = hit["boxes"][0]
    middle = (round((left + right) / 2), round((top + bottom) / 2))
    around = [(middle[0] + x, middle[1] + y) for x in range(-8, 9) for y in (-3, 0, 3)]
    assert any(plain.getpixel(point) != marked.getpixel(point) for point in around)


async def test_an_unchanged_picture_is_not_sent_again(client: httpx.AsyncClient, document_id: str) -> None:
    url = f"/documents/{document_id}/pages/1.png"
    first = await client.get(url)
    again = await client.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_an_unchanged_picture_is_not_drawn_again_even_where_its_file_is_gone(
    client: httpx.AsyncClient, served: Served
) -> None:
    document_id, storage_key = await _ingested(client, served, "gone.pdf", SAMPLE.read_bytes() + b"\n")
    url = f"/documents/{document_id}/pages/1.png"
    tag = (await client.get(url, params={"width": 333})).headers["etag"]
    await served.services.files.delete(storage_key)
    url = f"{url}?width=334"
    known = await client.get(url, headers={"If-None-Match": tag.replace("333", "334")})
    assert known.status_code == 304
    assert (await client.get(url)).json()["code"] == "file_not_found"


async def test_the_pages_of_an_encrypted_pdf_cannot_be_drawn_once_its_password_is_erased(
    client: httpx.AsyncClient, served: Served
) -> None:
    content = encrypted("AES-256", PASSWORD, "owner")
    document_id, _ = await _ingested(client, served, "locked.pdf", content, password=PASSWORD)
    answer = await client.get(f"/documents/{document_id}/pages/1.png")
    assert (answer.status_code, answer.json()["code"]) == (409, "password_gone")


async def test_who_has_an_encrypted_pdf_but_no_password_is_not_shown_what_was_drawn_for_another(
    client: httpx.AsyncClient,
) -> None:
    content = encrypted("AES-256", PASSWORD, "owner") + b"\n\n"
    pages = {}
    for collection, known in (("pages", {"password": PASSWORD}), ("pages of others", {})):
        answer = await client.post(
            "/documents", files={"file": ("locked.pdf", content)}, data={"collection": collection} | known
        )
        pages[collection] = f"/documents/{answer.json()['document_id']}/pages/1.png"
    assert (await client.get(pages["pages"], params={"width": 304})).status_code == 200
    answer = await client.get(pages["pages of others"], params={"width": 304})
    assert (answer.status_code, answer.json()["code"]) == (409, "password_gone")


async def test_the_pages_of_an_encrypted_pdf_are_drawn_while_its_password_is_known(
    client: httpx.AsyncClient, served: Served
) -> None:
    content = encrypted("AES-256", PASSWORD, "owner") + b"\n"
    answer = await client.post(
        "/documents",
        files={"file": ("waits.pdf", content)},
        data={"collection": "pages", "password": PASSWORD},
    )
    url = f"{answer.json()['links']['document']}/pages/1.png"
    assert picture(await client.get(url, params={"width": 301})).width == 301

    task_id = UUID(answer.json()["task_id"])
    await served.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
    assert (await client.get(url, params={"width": 302})).json()["code"] == "password_gone"
    retry = answer.json()["links"]["document"] + "/retry"
    assert (await client.post(retry, json={"password": "a wrong one"})).status_code == 202
    assert (await client.get(url, params={"width": 303})).json()["code"] == "password_gone"
    assert (await client.post(f"/tasks/{task_id}/cancel")).status_code == 202


async def _ingested(
    client: httpx.AsyncClient, served: Served, name: str, content: bytes, **fields: str
) -> tuple[str, str]:
    """The document's id and its file's name in the store."""
    answer = await client.post(
        "/documents", files={"file": (name, content)}, data={"collection": "pages", **fields}
    )
    accepted = answer.json()
    task_id = UUID(accepted["task_id"])
    await served.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
    return str(accepted["document_id"]), f"{task_id}.pdf"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("{document}/pages/99.png", 404, "page_not_found"),
        ("{nobody}/pages/1.png", 404, "document_not_found"),
        ("{document}/pages/1.png?highlight={nobody}", 404, "chunk_not_found"),
        ("{document}/pages/0.png", 422, "invalid_request"),
        ("{document}/pages/1.png?width=100000", 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_drawn_is_a_problem(
    client: httpx.AsyncClient, document_id: str, path: str, status: int, code: str
) -> None:
    answer = await client.get("/documents/" + path.format(document=document_id, nobody=uuid4()))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
