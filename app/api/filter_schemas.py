"""The filter of a search on the wire: operators, or what a document's metadata must contain."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    WithJsonSchema,
    model_validator,
)

from app.api.schemas import Metadata, storable_json, storable_text
from app.storage.filters import FIELDS, Comparison, Compound, Condition, Containment, Operator, Scalar

MAX_KEY_CHARACTERS = 200
MAX_FILTER_DEPTH = 5
MAX_CONDITIONS = 30  # each takes up to 0.9 us a document
MAX_LISTED_VALUES = 1_000

_SCALAR = {"type": ["string", "number", "boolean", "null"]}


FilterKey = Annotated[str, Field(max_length=MAX_KEY_CHARACTERS), AfterValidator(storable_text)]


class ComparisonFilter(BaseModel):
    """A field of the document compared with a value.

    A list in the metadata fits when one of its values does. Values of two kinds (a number and a text) are
    neither equal nor in an order. A key that is missing is the same as `null`, which is equal to `null` only.
    `ne` and `nin` hold exactly where `eq` and `in` do not: for documents without the key, too.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"type": "gte", "key": "year", "value": 2024},
                {"type": "in", "key": "department", "value": ["finance", "sales"]},
                {"type": "lt", "key": "created_at", "value": "2026-01-31T09:00:00Z"},
                {"type": "ne", "key": "metadata.filename", "value": None},
            ]
        },
    )

    type: Operator = Field(
        description="Equal, not equal, greater, greater or equal, less, less or equal; one of a list, none."
    )
    key: FilterKey = Field(
        description=f"A field of the document's own ({', '.join(f'`{name}`' for name in FIELDS)}); any other "
        "is a key of its metadata, on the first level. `metadata.pages` is the key `pages` of the metadata.",
    )
    value: Annotated[
        JsonValue,
        AfterValidator(storable_json),
        WithJsonSchema({"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}),
    ] = Field(
        description="A text, a number, `true`, `false` or `null`; with `in` and `nin` a list of them. Orders "
        "are of numbers and of texts (by code point). A time is RFC 3339 with its offset.",
    )

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        self.condition()
        return self

    def condition(self) -> Comparison:
        """Raises ValueError for a value that the key or the operator never fits."""
        return Comparison(self.type, self.key, _value(self.value))


class CompoundFilter(BaseModel):
    """Filters of any kind, of which all must hold (`and`), or at least one (`or`)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "type": "or",
                    "filters": [{"department": "finance"}, {"type": "gt", "key": "pages", "value": 50}],
                }
            ]
        },
    )

    type: Literal["and", "or"] = Field(description="Whether all must hold, or one.")
    filters: list["AnyFilter"] = Field(min_length=1, description="Filters of any kind.")

    def condition(self) -> Compound:
        return Compound(self.type, tuple(condition_of(part) for part in self.filters))


def _kind(value: Any) -> str:
    """Metadata may have a key `type`, too: the rule is told to users in DESCRIPTION."""
    if not isinstance(value, dict) or "type" not in value:
        return "containment"
    names = set(value)
    is_named = not names.isdisjoint({"key", "value", "filters"})
    if names == {"type", "filters"} or (is_named and value["type"] in ("and", "or")):
        return "compound"
    if names == {"type", "key", "value"} or (is_named and value["type"] in get_args(Operator)):
        return "comparison"
    return "containment"


def _fits_any(schema: dict[str, Any]) -> None:
    """What JSON Schema sees: an operator is an object, and so is metadata."""
    schema["anyOf"] = schema.pop("oneOf")


AnyFilter = Annotated[
    Annotated[ComparisonFilter, Tag("comparison")]
    | Annotated[CompoundFilter, Tag("compound")]
    | Annotated[Metadata, Tag("containment")],
    Discriminator(_kind),
    Field(json_schema_extra=_fits_any),
]


def _bounded(value: Any) -> Any:
    """Raises ValueError for a filter that is too deep or too large, level by level, before it is parsed."""
    level, depth, conditions, values = [value], 0, 0, 0
    while level:
        depth, conditions = depth + 1, conditions + len(level)
        values += sum(_length(one, "value") for one in level)
        if depth > MAX_FILTER_DEPTH:
            raise ValueError(f"must not be nested deeper than {MAX_FILTER_DEPTH} levels")
        if conditions > MAX_CONDITIONS:
            raise ValueError(f"must not have more than {MAX_CONDITIONS} conditions")
        if values > MAX_LISTED_VALUES:
            raise ValueError(f"must not list more than {MAX_LISTED_VALUES:,} values")
        level = [part for one in level if _length(one, "filters") for part in one["filters"]]
    return value


def _length(value: Any, name: str) -> int:
    """How many parts an operator has under this name."""
    is_operator = _kind(value) != "containment"
    return len(value[name]) if is_operator and isinstance(value.get(name), list) else 0


def _value(value: JsonValue) -> Scalar | list[Scalar]:
    if isinstance(value, list):
        return [_scalar(one) for one in value]
    return _scalar(value)


def _scalar(value: JsonValue) -> Scalar:
    if isinstance(value, dict | list):
        raise ValueError("value must be a text, a number, true, false or null, or a list of them")
    return value


def condition_of(wanted: ComparisonFilter | CompoundFilter | dict[str, Any]) -> Condition:
    return Containment(wanted) if isinstance(wanted, dict) else wanted.condition()


DESCRIPTION = (
    "Search only documents that this fits. An operator (`ComparisonFilter`, `CompoundFilter`), or an object "
    'that the document\'s metadata must contain (JSON containment), for example `{"year": 2025}`. An object '
    "is an operator if it has exactly an operator's fields, or if its `type` is the name of an operator and "
    '`key`, `value` or `filters` stands beside it; so `{"type": "invoice"}` is metadata. At most '
    f"{MAX_FILTER_DEPTH} levels, {MAX_CONDITIONS} conditions and {MAX_LISTED_VALUES:,} values in lists."
)
Filter = Annotated[AnyFilter, BeforeValidator(_bounded)]
