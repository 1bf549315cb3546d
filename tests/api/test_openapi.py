"""The API's own description: complete, and true where it can be compared."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from app import errors
from app.config import Settings
from app.main import create_app

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


@pytest.fixture(scope="module")
def operations(openapi: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    }


def models(parent: type[BaseModel] = BaseModel) -> Iterator[tuple[str, type[BaseModel]]]:
    for model in parent.__subclasses__():
        if model.__module__.startswith("app.api"):
            yield model.__name__, model
        yield from models(model)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_call_of_the_contract_is_there(operations: dict[str, dict[str, Any]]) -> None:
    assert set(operations) >= {
        "POST /documents",
        "GET /documents",
        "GET /documents/{document_id}",
        "PUT /documents/{document_id}",
        "DELETE /documents/{document_id}",
        "POST /documents/{document_id}/retry",
        "GET /documents/{document_id}/file",
        "GET /documents/{document_id}/chunks",
        "POST /collections",
        "GET /collections",
        "GET /collections/{name}",
        "PATCH /collections/{name}",
        "DELETE /collections/{name}",
        "GET /tasks/{task_id}",
        "GET /tasks/{task_id}/events",
        "POST /tasks/{task_id}/cancel",
        "POST /search",
        "GET /metadata",
        "GET /metadata/values",
        "GET /livez",
        "GET /readyz",
    }


def test_every_operation_says_what_it_does_and_where_it_belongs(
    openapi: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    tags = {tag["name"] for tag in openapi["tags"]}
    for name, operation in operations.items():
        assert operation.get("description"), name
        assert operation["tags"], name
        assert set(operation["tags"]) <= tags, name
        for status, response in operation["responses"].items():
            assert response["description"], f"{name} {status}"


def test_every_parameter_is_described(operations: dict[str, dict[str, Any]]) -> None:
    for name, operation in operations.items():
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), f"{name} {parameter['name']}"


def test_every_field_of_every_body_is_described(openapi: dict[str, Any]) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        for field, description in schema.get("properties", {}).items():
            assert description.get("description"), f"{name}.{field}"


def test_every_operation_lists_the_codes_of_its_errors(operations: dict[str, dict[str, Any]]) -> None:
    known = {error.code for _, error in vars(errors).items() if hasattr(error, "code")}
    for name, operation in operations.items():
        refusals = {status: it for status, it in operation["responses"].items() if status[0] in "45"}
        assert "500" in refusals, name
        if operation.get("parameters") or operation.get("requestBody"):
            assert "422" in refusals, name
        for status, response in refusals.items():
            codes = response["content"][PROBLEM]["examples"]
            assert codes, f"{name} {status}"
            assert set(codes) <= known, f"{name} {status}"
            assert set(response["content"]) == {PROBLEM}, f"{name} {status}"


def test_what_is_named_by_an_id_can_be_not_found(operations: dict[str, dict[str, Any]]) -> None:
    for name, operation in operations.items():
        if "{" in name:
            assert "404" in operation["responses"], name


def test_every_example_fits_its_schema(
    openapi: dict[str, Any], operations: dict[str, dict[str, Any]]
) -> None:
    known = dict(models())
    checked = set()
    for name, schema in openapi["components"]["schemas"].items():
        for example in schema.get("examples", []):
            known[name].model_validate(example)
            checked.add(name)
    assert checked >= {"Task", "SearchRequest", "SearchResults"}
    for name, operation in operations.items():
        for status, response in operation["responses"].items():
            for example in response.get("content", {}).get(PROBLEM, {}).get("examples", {}).values():
                problem = known["Problem"].model_validate(example["value"])
                assert str(problem.model_dump()["status"]) == status, name


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    for reference in references(openapi):
        part: Any = openapi
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
        assert isinstance(part, dict)


def test_nothing_of_the_framework_shows_through(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    assert "Problem" in schemas
    assert not [name for name in schemas if re.match("HTTPValidationError|ValidationError", name)]
