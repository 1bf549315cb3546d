"""The description of the API, where FastAPI's own leaves something out or puts a shape that is not ours."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from app.api.problems import MEDIA_TYPE, Problem, problem_responses
from app.api.security import ALIVE, LINKED, PROBES, scope_for
from app.errors import (
    BodyTooLarge,
    ForeignHost,
    ForeignOrigin,
    InvalidQuery,
    KeyMissing,
    RateLimited,
    ScopeMissing,
    UploadTooSlow,
)

_REFUSALS = (KeyMissing, ScopeMissing, RateLimited, ForeignHost, ForeignOrigin)
_REFERENCE = "#/components/schemas/{model}"


class DescribedAPI(FastAPI):
    """A FastAPI whose OpenAPI document has our problems and whole examples, and asks for keys.

    Without API_KEYS it does so from the first key of the database on.
    """

    def __init__(self, *, wants_keys: bool, **options: Any) -> None:
        super().__init__(**options)
        self._wants_keys = wants_keys

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            openapi = super().openapi()
            _describe_problems(openapi)
            _restore_examples(openapi)
            _describe_limits(openapi)
            _refuse_foreign_pages(openapi)
            _ask_for_keys(openapi, is_optional=not self._wants_keys)
        return super().openapi()


def _describe_problems(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template=_REFERENCE, mode="serialization")
    schemas |= problem.pop("$defs") | {"Problem": problem}
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    invalid = problem_responses(InvalidQuery)[422]
    for operations in openapi["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                operation["responses"]["422"] = invalid


def _describe_limits(openapi: dict[str, Any]) -> None:
    """Of bodies (`bodies`); uploads list theirs themselves."""
    refusals = {str(status): it for status, it in problem_responses(UploadTooSlow, BodyTooLarge).items()}
    for operations in openapi["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                operation["responses"] = refusals | operation["responses"]


def _refuse_foreign_pages(openapi: dict[str, Any]) -> None:
    refusals = {str(status): it for status, it in problem_responses(ForeignHost, ForeignOrigin).items()}
    for path, operations in openapi["paths"].items():
        for operation in operations.values() if path != ALIVE else ():
            operation["responses"] |= refusals


def _ask_for_keys(openapi: dict[str, Any], *, is_optional: bool) -> None:
    """The scheme makes the button Authorize on /docs."""
    schemes = openapi["components"].setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "A key, or one of API_KEYS."}
    schemes["token"] = {"type": "apiKey", "in": "query", "name": "token", "description": "A token."}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items() if path not in PROBES else ():
            ways = ["key", "token"] if LINKED.fullmatch(path) else ["key"]
            operation["security"] = [{way: []} for way in ways] + ([{}] if is_optional else [])
            _add_refusals(operation["responses"])
            if scope := scope_for(method.upper(), path):
                operation["description"] += f"\n\nScope: `{scope}`."


def _add_refusals(responses: dict[str, Any]) -> None:
    """Beside what the operation refuses with the same status itself."""
    for status, refusal in problem_responses(*_REFUSALS).items():
        examples = refusal["content"][MEDIA_TYPE]["examples"]
        own = responses.get(str(status), {"content": {MEDIA_TYPE: {"examples": {}}}})
        examples |= own["content"][MEDIA_TYPE]["examples"]
        title = refusal["description"].partition(":")[0]
        responses[str(status)] = refusal | {
            "description": f"{title}: {', '.join(f'`{it}`' for it in examples)}"
        }


def _restore_examples(openapi: dict[str, Any]) -> None:
    """FastAPI drops what is null, in examples too."""
    schemas = openapi["components"]["schemas"]
    for model in _our_models(BaseModel):
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in schemas and isinstance(extra, dict):
            schemas[model.__name__] |= extra


def _our_models(parent: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in parent.__subclasses__():
        if model.__module__.startswith(__package__):
            yield model
        yield from _our_models(model)
