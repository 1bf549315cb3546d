"""Errors on the wire: RFC 9457 `application/problem+json`, the same shape for every refusal."""

import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import InternalError, InvalidQuery, PDFIngestError

MEDIA_TYPE = "application/problem+json"

# Seconds. A queue drains and a database comes back in seconds; a full disk needs somebody's hand.
_RETRY_AFTER_SECONDS = {429: 5, 503: 5, 507: 60}
_MAX_FAULTS = 20
_MAX_WHERE_CHARACTERS = 200
_CODES = {408: "upload_timed_out", 413: "too_large", 422: "invalid_request", 500: "internal_error"}


class Fault(BaseModel):
    """One thing that is not as it should be."""

    where: str = Field(description="The part of the request, for example `body.limit`, or of the service.")
    detail: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """Why a request was refused (RFC 9457). Branch on `code`: it is stable, the sentences may change."""

    type: str = Field("about:blank", description="Always `about:blank`: `code` says more than a URI would.")
    title: str = Field(description="The meaning of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, in a sentence for people.")
    code: str = Field(description="Stable name of the error, for programs.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    errors: list[Fault] | None = Field(
        None, description="What is wrong where; with the codes `invalid_request` and `not_ready`."
    )


def problem_of(error: Exception) -> Problem:
    """The problem that tells a client about `error`; of an unexpected one it tells nothing but the code."""
    match error:
        case PDFIngestError():
            return _problem(error.status_code, error.message, error.code, is_retryable=error.retryable)
        case RequestValidationError():
            return _invalid_request(error.errors())
        case HTTPException(status_code=400):  # FastAPI's, of a body it cannot even parse
            return _invalid_request([{"loc": ("body",), "msg": _why_no_json(error.__cause__)}])
        case HTTPException():
            code = _CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
            return _problem(error.status_code, _sentence(error), code)
        case _:
            return problem_of(InternalError())


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    retry_after = _retry_after_seconds(problem)
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        problem.status,
        {**({"Retry-After": str(retry_after)} if retry_after else {}), **(headers or {})},
        MEDIA_TYPE,
    )


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The one error handler. Starlette raises an unexpected error again, so the server logs its traceback."""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if "Allow" in headers:
        headers["Allow"] = _allowed_methods(request)
    return problem_response(problem_of(error), headers)


def answer_errors_with_problems(app: FastAPI) -> None:
    for kind in (PDFIngestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)


def problem_responses(*error_classes: type[PDFIngestError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an operation that may raise these errors, with an example for each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error_class in error_classes:
        problem = _example(error_class)
        response = responses.setdefault(problem.status, _response(problem))
        examples = response["content"][MEDIA_TYPE]["examples"]
        examples[problem.code] = {"summary": problem.detail, "value": problem.model_dump(exclude_none=True)}
        response["description"] = f"{problem.title}: " + ", ".join(f"`{code}`" for code in examples)
    return responses


def _example(error_class: type[PDFIngestError]) -> Problem:
    if issubclass(error_class, InvalidQuery):
        return _invalid_request([{"loc": ("query", "limit"), "msg": "Input should be greater than 0"}])
    return problem_of(error_class())


def _response(problem: Problem) -> dict[str, Any]:
    response: dict[str, Any] = {
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}}
    }
    if _retry_after_seconds(problem):
        response["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait before trying again.",
                "schema": {"type": "integer"},
            }
        }
    return response


def _allowed_methods(request: Request) -> str:
    """Those of all routes of the path; Starlette knows those of the first alone."""
    routes = request.app.router.routes
    return ", ".join(
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    )


def _retry_after_seconds(problem: Problem) -> int | None:
    return _RETRY_AFTER_SECONDS.get(problem.status) if problem.retryable else None


def _problem(
    status: int,
    detail: str,
    code: str,
    *,
    is_retryable: bool = False,
    errors: list[Fault] | None = None,
) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(
        title=title, status=status, detail=detail, code=code, retryable=is_retryable, errors=errors
    )


def _invalid_request(errors: Sequence[Any]) -> Problem:
    faults = [_fault(error) for error in errors[:_MAX_FAULTS]]
    reasons = "; ".join(f"{fault.where}: {fault.detail}" for fault in faults)
    return _problem(422, f"The request is not valid: {reasons}.", "invalid_request", errors=faults)


def _fault(error: dict[str, Any]) -> Fault:
    """Says where and what, never the value sent: it may be a password."""
    location = [str(step) for step in error["loc"]]
    if error.get("type") == "json_invalid":  # its location ends in a character's position
        return Fault(where="body", detail=f"Not valid JSON at character {location[-1]}")
    if location == ["body"] and isinstance(error.get("input"), bytes):  # FastAPI reads JSON only when told
        return Fault(where="header.content-type", detail="must be application/json")
    where = ".".join(location).encode(errors="replace").decode()  # names of fields may be anything
    return Fault(where=where[:_MAX_WHERE_CHARACTERS], detail=error["msg"].removeprefix("Value error, "))


def _why_no_json(cause: BaseException | None) -> str:
    is_encoding = isinstance(cause, UnicodeDecodeError)
    return "must be text in UTF-8" if is_encoding else "is nothing that can be read as JSON"


def _sentence(error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return "There is nothing at this path."
        case 405:
            return "This path does not answer this method; the header Allow says which it does."
        case _:
            return str(error.detail)


class StartsInWords:
    """Has the server's log say in a sentence why the service does not start, as far as there is one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_words(message: Message) -> None:
            error = sys.exc_info()[1]
            if message["type"] == "lifespan.startup.failed" and isinstance(error, PDFIngestError):
                message["message"] = error.message
            await send(message)

        await self._app(scope, receive, send_in_words if scope["type"] == "lifespan" else send)
