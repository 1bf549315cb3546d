import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, Field

from app.api.problems import answer_errors_with_problems, problem_responses
from app.errors import (
    AlreadyInWork,
    Cancelled,
    DatabaseUnavailable,
    EmbeddingRefused,
    InvalidQuery,
    QueueFull,
    StorageFailed,
    TaskNotFound,
)

MEDIA_TYPE = "application/problem+json"


class Order(BaseModel):
    password: str = Field(max_length=5)
    copies: int = 1


def build_app() -> FastAPI:
    app = FastAPI()
    answer_errors_with_problems(app)

    @app.post("/orders")
    async def order(order: Order) -> Order:
        return order

    @app.get("/orders")
    async def list_orders(limit: int = Query(10, le=100)) -> int:
        return limit

    @app.get("/known/{code}")
    async def fail(code: str) -> None:
        raise next(
            error for error in (QueueFull, EmbeddingRefused, DatabaseUnavailable) if error.__name__ == code
        )

    @app.get("/unexpected")
    async def crash() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/foreign")
    async def refuse() -> None:
        raise HTTPException(413, "Too much.")

    return app


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_an_error_of_ours_says_its_code_its_sentence_and_whether_to_retry(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/known/QueueFull")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json() == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Too many documents are waiting already (MAX_QUEUED). Try again later.",
        "code": "queue_full",
        "retryable": True,
    }


async def test_only_where_waiting_helps_the_answer_says_how_long(client: httpx.AsyncClient) -> None:
    assert int((await client.get("/known/QueueFull")).headers["retry-after"]) > 0
    assert int((await client.get("/known/DatabaseUnavailable")).headers["retry-after"]) > 0
    assert "retry-after" not in (await client.get("/known/EmbeddingSpaceMismatch")).headers


async def test_an_invalid_request_learns_what_is_wrong_where(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json={"password": "hunter22", "copies": "two"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == MEDIA_TYPE
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    assert [fault["where"] for fault in problem["errors"]] == ["body.password", "body.copies"]
    assert "body.copies: Input should be a valid integer" in problem["detail"]
    assert "hunter22" not in answer.text

    problem = (await client.get("/orders?limit=1000")).json()
    assert [fault["where"] for fault in problem["errors"]] == ["query.limit"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"password": ',
        b'{"password": "\xff"}',
        b"",
        b"[" * 100_000,
        b'{"\\ud800": 1, "password": "\\ud800"}',
        b"null",
        b'{"copies": ' + b"9" * 5_000 + b"}",
    ],
)
async def test_no_body_however_broken_is_an_error_of_ours(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/orders", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["code"] == "invalid_request"


async def test_json_in_another_encoding_is_told_so(client: httpx.AsyncClient) -> None:
    latin = '{"password": "é"}'.encode("latin-1")
    answer = await client.post("/orders", content=latin, headers={"content-type": "application/json"})
    assert answer.json()["errors"] == [{"where": "body", "detail": "must be text in UTF-8"}]


async def test_the_place_of_a_syntax_error_in_json_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", content=b"{,}", headers={"content-type": "application/json"})
    assert answer.json()["errors"] == [{"where": "body", "detail": "Not valid JSON at character 1"}]


@pytest.mark.parametrize("headers", [{"content-type": "application/x-www-form-urlencoded"}, {}])
async def test_json_that_is_not_sent_as_such_is_told_so(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """What `curl --data` sends."""
    answer = await client.post("/orders", content=b'{"password": "abc"}', headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"where": "header.content-type", "detail": "must be application/json"}]


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/nowhere")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert unknown.headers["content-type"] == MEDIA_TYPE
    wrong = await client.delete("/unexpected")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"
    assert wrong.headers["content-type"] == MEDIA_TYPE
    assert (await client.put("/orders")).headers["allow"] == "GET, POST"
    foreign = await client.get("/foreign")
    assert (foreign.status_code, foreign.json()["code"]) == (413, "too_large")


async def test_an_unexpected_error_tells_the_client_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/unexpected")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.json()["code"] == "internal_error"
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text


async def test_the_log_has_the_traceback_of_an_unexpected_error(
    serve, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="uvicorn.error"):
        async with serve(build_app()) as served, httpx.AsyncClient() as client:
            assert (await client.get(f"{served.url}/unexpected")).status_code == 500
    assert "RuntimeError: the password is hunter2" in caplog.text


def test_every_error_a_client_can_meet_has_an_example() -> None:
    responses = problem_responses(TaskNotFound, AlreadyInWork, StorageFailed, InvalidQuery, QueueFull)
    assert set(responses) == {404, 409, 422, 429, 507}
    example = responses[422]["content"][MEDIA_TYPE]["examples"]["invalid_request"]["value"]
    assert example["errors"][0]["where"] == "query.limit"
    assert "Retry-After" in responses[429]["headers"]
    assert "headers" not in responses[404]


def test_two_errors_of_one_status_are_two_examples() -> None:
    response = problem_responses(AlreadyInWork, Cancelled)[409]
    assert set(response["content"][MEDIA_TYPE]["examples"]) == {"already_in_work", "cancelled"}
    assert response["description"] == "Conflict: `already_in_work`, `cancelled`"
