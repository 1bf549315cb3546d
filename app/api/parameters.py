"""Parameters of addresses: whoever mistypes `dry_run` means anything but to delete."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel


async def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of every route: one without parameters, as most are asked, costs nothing to look at."""
    if not request.scope["query_string"]:
        return
    known = set(_names(request.scope["route"].dependant.query_params))
    if unknown := sorted(set(request.query_params) - known):
        reason = f"is not known here; known: {', '.join(sorted(known)) or 'none'}"
        raise RequestValidationError([{"loc": ("query", name), "msg": reason} for name in unknown])


def _names(parameters: list[Any]) -> Iterator[str]:
    """Those of a model are its fields."""
    for parameter in parameters:
        kind = parameter.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield parameter.alias
