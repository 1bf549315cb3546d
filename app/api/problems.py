"""Errors on the wire: RFC 9457 `application/problem+json`, the same shape for every refusal."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app.errors import InternalError, InvalidQuery, PDFIngestError

MEDIA_TYPE = "application/problem+json"

# Seconds. A queue drains and a database comes back in seconds; a full disk needs somebody's hand.
_RETRY_AFTER_SECONDS = {429: 5, 503: 5, 507: 60}
_CODES = {400: "invalid_request", 413: "too_large", 422: "invalid_request", 500: "internal_error"}


class InvalidPart(BaseModel):
    """One part of a request that is not as it should be."""

    where: str = Field(description="Where it is, from `body`, `query`, `path` or `header` on.")
    detail: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """Why a request was refused (RFC 9457). Branch on `code`: it is stable, the sentences may change."""

    type: str = Field("about:blank", description="Always `about:blank`: `code` says more than a URI would.")
    title: str = Field(description="The meaning of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, in a sentence for people.")
    code: str = Field(description="Stable name of the error, for programs.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    errors: list[InvalidPart] | None = Field(
        None, description="The parts of the request that are not valid; only with code `invalid_request`."
    )


def problem_of(error: Exception) -> Problem:
    """The problem that tells a client about `error`; of an unexpected one it tells nothing but the code."""
    match error:
        case PDFIngestError():
            return _problem(error.status_code, error.message, error.code, is_retryable=error.retryable)
        case RequestValidationError():
            return _invalid_request(error.errors())
        case HTTPException():
            code = _CODES.get(error.status_code, HTTPStatus(error.status_code).name.lower())
            return _problem(error.status_code, _sentence(error), code)
        case _:
            return problem_of(InternalError())


def problem_response(error: Exception) -> JSONResponse:
    problem = problem_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if problem.retryable and problem.status in _RETRY_AFTER_SECONDS:
        headers["Retry-After"] = str(_RETRY_AFTER_SECONDS[problem.status])
    return JSONResponse(
        problem.model_dump(exclude_none=True), problem.status, headers=headers, media_type=MEDIA_TYPE
    )


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    """The one error handler. Starlette raises an unexpected error again, so the server logs its traceback."""
    return problem_response(error)


def answer_errors_with_problems(app: FastAPI) -> None:
    for kind in (PDFIngestError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)


def problem_responses(*error_classes: type[PDFIngestError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of an operation that may raise these errors, an example for each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error_class in error_classes:
        problem = problem_of(error_class())
        if issubclass(error_class, InvalidQuery):
            problem = _invalid_request([{"loc": ("query", "limit"), "msg": "Input should be greater than 0"}])
        example = {"summary": problem.code, "value": problem.model_dump(exclude_none=True)}
        response = responses.setdefault(
            problem.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        examples = response["content"][MEDIA_TYPE]["examples"]
        examples[problem.code] = example
        response["description"] = f"{problem.title}: " + ", ".join(f"`{code}`" for code in examples)
        if problem.retryable and problem.status in _RETRY_AFTER_SECONDS:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait before trying again.",
                    "schema": {"type": "integer"},
                }
            }
    return responses


def _problem(
    status: int,
    detail: str,
    code: str,
    *,
    is_retryable: bool = False,
    errors: list[InvalidPart] | None = None,
) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(
        title=title, status=status, detail=detail, code=code, retryable=is_retryable, errors=errors
    )


def _invalid_request(errors: Sequence[Any]) -> Problem:
    parts = [_invalid_part(error) for error in errors]
    detail = "The request is not valid: " + "; ".join(f"{part.where}: {part.detail}" for part in parts) + "."
    return _problem(422, detail, "invalid_request", errors=parts)


def _invalid_part(error: dict[str, Any]) -> InvalidPart:
    """Says where and what, never the value sent: it may be a password."""
    location = [str(step) for step in error["loc"]]
    if error.get("type") == "json_invalid":  # its location ends in a character's position
        return InvalidPart(where="body", detail=f"Not valid JSON at character {location[-1]}")
    return InvalidPart(where=".".join(location), detail=error["msg"].removeprefix("Value error, "))


def _sentence(error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return "There is nothing at this path."
        case 405:
            return f"This path does not answer this method; it answers {(error.headers or {}).get('Allow')}."
        case _:
            return str(error.detail)
