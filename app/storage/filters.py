"""Which documents are searched, as a condition in SQL over `documents d` and their live `versions i`.

A comparison looks at one field of a document as a JSON value: a field of the document's own (FIELDS), or
a key of its metadata. `metadata.pages` is the key `pages` of the metadata, which its own `pages` hides.

- A key that is missing and one that is null are the same: equal to null, and to nothing else.
- A list fits when one of its values does.
- Values of two kinds (a number and a text) are neither equal nor in an order, and that is no error.
- Numbers are compared by value (1 = 1.0), texts by their code points, whatever the database's locale.
- `ne` and `nin` hold exactly where `eq` and `in` do not, for a document without the key as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from app.storage.database import jsonb
from app.storage.doomed import stays
from app.storage.reach import EVERYTHING, Reach

Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the document's own: SQL for its value as jsonb, and the kind of values it has."""

    sql: str
    kind: Literal["text", "number", "time"]


FIELDS: Final = {
    "filename": Field("(SELECT to_jsonb(filename) FROM ingestions WHERE ingestions.id = i.id)", "text"),
    "pages": Field("to_jsonb(i.pages_total)", "number"),
    "language": Field("to_jsonb(i.language)", "text"),
    "created_at": Field("to_jsonb(extract(epoch FROM d.created_at) * 1000000)", "time"),
}
METADATA_PREFIX: Final = "metadata."

_ORDERS: Final = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OPPOSITES: Final = {"ne", "nin"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def key_of(name: str) -> str:
    """The key of the metadata that a condition names, which is none of FIELDS."""
    return name.removeprefix(METADATA_PREFIX)


def name_of(key: str) -> str:
    """What a condition names a key of the metadata by: some would be taken for something else."""
    return METADATA_PREFIX + key if key in FIELDS or key.startswith(METADATA_PREFIX) else key


@dataclass(frozen=True, slots=True)
class Containment:
    """The document's metadata contains all of this, as jsonb's `@>` has it."""

    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field compared with a value, by `in` and `nin` with a list. Raises ValueError for what never fits."""

    operator: Operator
    key: str
    value: Scalar | list[Scalar]

    def __post_init__(self) -> None:
        if (self.operator in {"in", "nin"}) != isinstance(self.value, list):
            raise ValueError("value must be a list with in and nin, and a single value with all others")
        if self.operator in _ORDERS and (self.value is None or isinstance(self.value, bool)):
            raise ValueError(f"value must be a number or a text with {self.operator}")
        _ = self.operand

    @property
    def operand(self) -> Scalar | list[Scalar]:
        """The value as it is compared: a time as microseconds since 1970."""
        if self.key not in FIELDS:
            return self.value
        kind = FIELDS[self.key].kind
        if isinstance(self.value, list):
            return [_of_kind(kind, value) for value in self.value]
        return _of_kind(kind, self.value)


@dataclass(frozen=True, slots=True)
class Compound:
    """All of the conditions (`and`), or at least one of them (`or`)."""

    operator: Literal["and", "or"]
    conditions: tuple["Condition", ...]


Condition = Containment | Comparison | Compound


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which documents are searched; None restricts nothing."""

    collection: str | None = None
    document_ids: tuple[UUID, ...] | None = None
    condition: Condition | None = None
    reach: Reach = EVERYTHING
    names: tuple[str, ...] | None = None
    """Of the collections in reach, once they are known (`visible.with_names`)."""

    def sql(self) -> tuple[str, dict[str, Any]]:
        """What visible documents fulfil, over `documents d` and `versions i`, and its parameters.

        All that comes from outside is in the parameters.
        """
        conditions, parameters = ["d.live_ingestion_id IS NOT NULL", stays("d")], dict[str, Any]()
        if self.collection is not None:
            conditions.append("d.collection = :collection")
            parameters["collection"] = self.collection
        if self.document_ids is not None:
            conditions.append("d.id = ANY(CAST(:document_ids AS uuid[]))")
            parameters["document_ids"] = list(self.document_ids)
        if self.names is not None:
            conditions.append("d.collection = ANY(CAST(:names AS text[]))")
            parameters["names"] = list(self.names)
        elif self.reach.is_bound:
            conditions.append(self.reach.sql("d"))
            parameters |= self.reach.parameters
        if self.condition is not None:
            condition = condition_sql(self.condition, parameters)
            conditions.append(_expected_of_all(condition) if self.reach.is_bound else condition)
        return " AND ".join(conditions), parameters


def _expected_of_all(condition: str) -> str:
    """A condition that the planner expects nearly all rows to fulfil.

    Below a policy it may not use statistics of what is not leakproof, as `@>`, and would expect one row in
    1,000: then it compares vectors one by one, and looks through the index of words once a document.
    """
    return f"CASE WHEN {condition} THEN true END IS NOT NULL"


def condition_sql(condition: Condition, parameters: dict[str, Any]) -> str:
    """SQL that is true or false, never null; what it is asked with is added to the parameters."""
    match condition:
        case Containment(metadata):
            return f"d.metadata @> {_bind_json(metadata, parameters)}"
        case Compound(operator, conditions):
            parts = (condition_sql(part, parameters) for part in conditions)
            return f"({f' {operator.upper()} '.join(parts)})"
        case Comparison():
            sql = _comparison_sql(condition, parameters)
            return f"NOT {sql}" if condition.operator in _OPPOSITES else sql


def _comparison_sql(comparison: Comparison, parameters: dict[str, Any]) -> str:
    """The comparison, or what it is the opposite of."""
    key, value = comparison.key, comparison.operand
    if key in FIELDS:
        field = FIELDS[key].sql
    else:
        key = key_of(key)
        if comparison.operator in {"eq", "ne"} and value is not None:  # as the index of metadata finds it
            is_value, is_listed = (_bind_json({key: one}, parameters) for one in (value, [value]))
            return f"(d.metadata @> {is_value} OR d.metadata @> {is_listed})"
        field = f"d.metadata -> {_bind(key, 'text', parameters)}"
    field = f"coalesce({field}, 'null')"
    if comparison.operator in _ORDERS:
        return _path_sql(field, _ORDERS[comparison.operator], value, parameters)
    # a list of values is hashed: 1,000 of them take 2.5 s over 100,000 documents if all go through the path
    values = [jsonb(one) for one in (value if isinstance(value, list) else [value])]
    in_list = _path_sql(field, "==", value, parameters)
    is_value = f"{field} = ANY({_bind(values, 'jsonb[]', parameters)})"
    return f"({is_value} OR jsonb_typeof({field}) = 'array' AND {in_list})"


def _path_sql(field: str, test: str, value: object, parameters: dict[str, Any]) -> str:
    """Whether the field, or a value in its list, passes the test; a list in a list is not looked into."""
    asked = _bind_json({"value": value}, parameters)
    return f"""jsonb_path_exists({field}, '$ ? (@.type() != "array" && @ {test} $value)', {asked})"""


def _of_kind(kind: Literal["text", "number", "time"], value: Scalar) -> Scalar:
    """The value as a field of this kind is compared with it. Raises ValueError for one of another kind."""
    if value is None:
        return None
    if kind == "time":
        return _microseconds(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number if kind == "number" else isinstance(value, str)):
        raise ValueError(f"value must be a {kind} or null with this key")
    return value


def _microseconds(value: Scalar) -> int:
    """RFC 3339 → microseconds since 1970: an instant, whatever the offset it was written with."""
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError("value must be a time with its offset with this key, as 2026-01-31T09:00:00Z")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _bind_json(value: object, parameters: dict[str, Any]) -> str:
    return _bind(jsonb(value), "jsonb", parameters)


def _bind(value: object, kind: Literal["text", "jsonb", "jsonb[]"], parameters: dict[str, Any]) -> str:
    name = f"filter_{len(parameters)}"
    parameters[name] = value
    return f"CAST(:{name} AS {kind})"
