"""What several bodies have in common: texts that can be stored, lists in pages, what is shown of a thing."""

import json
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, Self, TypeVar

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

MAX_COLLECTION_CHARACTERS = 200
MAX_JSON_BYTES = 10_000


def storable_text(value: str) -> str:
    """Raises ValueError for what Postgres does not take as text."""
    if "\0" in value:
        raise ValueError("must not contain the NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return value


def storable_json(value: JsonValue) -> JsonValue:
    """Raises ValueError for what Postgres does not take as jsonb."""
    encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
    storable_text(encoded.replace("\\\\", "").replace("\\u0000", "\0"))
    return value


def storable_metadata(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Raises ValueError for what Postgres does not take as jsonb, and for too much of it."""
    storable_json(value)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_JSON_BYTES:
        raise ValueError(f"must not be longer than {MAX_JSON_BYTES:,} bytes")
    return value


def storable_moment(value: datetime) -> datetime:
    """Raises ValueError for what lies, in UTC, before the year 1 or after 9999."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999, in UTC") from None


def addressable_name(value: str) -> str:
    """Raises ValueError for a name that no address leads to: nobody could delete the collection."""
    if {".", ".."} & set(value.split("/")) or any(unicodedata.category(one) == "Cc" for one in value):
        raise ValueError("must not contain control characters, nor `.` or `..` as a part between `/`")
    return value


CollectionName = Annotated[
    str,
    Field(min_length=1, max_length=MAX_COLLECTION_CHARACTERS),
    AfterValidator(storable_text),
    AfterValidator(addressable_name),
]
# `*` in them stands for any characters.
CollectionPatterns = Annotated[list[CollectionName], Field(min_length=1, max_length=100)]
Moment = Annotated[AwareDatetime, AfterValidator(storable_moment)]
TaskStatusName = Literal["queued", "processing", "retrying", "success", "error", "cancelled"]
ErrorCode = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-z_]+$")]
# Of what stays, as a time limit: neither "10" nor true, which may be meant otherwise.
Number = Annotated[int, Field(strict=True)]
Limit = Annotated[int, Query(ge=1, le=500, description="The most entries to return.")]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(storable_metadata)]
T = TypeVar("T")
E = TypeVar("E")


class Shown(BaseModel):
    """What is shown of a thing of ours: its attributes, by their names or aliases."""

    model_config = ConfigDict(validate_by_name=True)

    @classmethod
    def of(cls, thing: object) -> Self:
        return cls.model_validate(thing, from_attributes=True)


class Page(BaseModel, Generic[T]):
    """Part of a list."""

    data: list[T] = Field(description="The entries, at most `limit`.")
    next: str | None = Field(description="Give it as `after` for the next ones; `null` at the end.")

    @classmethod
    def of(
        cls, found: Sequence[E], limit: int, show: Callable[[E], T], cursor: Callable[[E], object]
    ) -> Self:
        """`found`: what was asked for and, if there is more, one entry beyond. `cursor` says where one is."""
        shown = found[:limit]
        more = str(cursor(shown[-1])) if len(found) > limit else None
        return cls(data=[show(one) for one in shown], next=more)
