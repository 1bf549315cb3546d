"""Conditions on documents: what they mean, in Postgres, compared with the same written in Python."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.database import Database
from app.storage.doomed import stays
from app.storage.filters import (
    Comparison,
    Compound,
    Condition,
    Containment,
    SearchFilter,
    condition_sql,
)

KEYS = ["year", "filename", "tags", "a.b", "it's", ""]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**70, 0.5, -0.0, 1e300, 3.0]),
    st.sampled_from(
        ["", "a", "A", "aa", "ä", "\U0001f600", "\uffff", "3", "true", "null", ":filter_0", "$value"]
    ),
)
VALUES = st.recursive(
    SCALARS, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.just("x"), parts), max_leaves=4
)
METADATA = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)
ORDERED = SCALARS.filter(lambda value: value is not None and not isinstance(value, bool))
META_KEYS = st.sampled_from([f"metadata.{key}" for key in KEYS] + ["year", "tags", "a.b"])
COMPARISONS = st.one_of(
    st.builds(Comparison, st.sampled_from(["eq", "ne"]), META_KEYS, SCALARS),
    st.builds(Comparison, st.sampled_from(["gt", "gte", "lt", "lte"]), META_KEYS, ORDERED),
    st.builds(Comparison, st.sampled_from(["in", "nin"]), META_KEYS, st.lists(SCALARS, max_size=3)),
)

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda one, other: one > other,
    "gte": lambda one, other: one >= other,
    "lt": lambda one, other: one < other,
    "lte": lambda one, other: one <= other,
}


def ranked(value: Any) -> tuple[str, Any]:
    """The kind of a scalar, and its value in the order of its kind."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", Decimal(repr(value))
    return type(value).__name__, value


def holds(comparison: Comparison, metadata: dict[str, Any]) -> bool:
    """What the comparison means, in Python."""
    found = metadata.get(comparison.key.removeprefix("metadata."))
    scalars = [
        one for one in (found if isinstance(found, list) else [found]) if not isinstance(one, list | dict)
    ]
    match comparison.operator:
        case "eq" | "in":
            wanted = comparison.value if isinstance(comparison.value, list) else [comparison.value]
            return any(ranked(one) == ranked(other) for one in scalars for other in wanted)
        case "ne":
            return not holds(Comparison("eq", comparison.key, comparison.value), metadata)
        case "nin":
            return not holds(Comparison("in", comparison.key, comparison.value), metadata)
        case order:
            kind, value = ranked(comparison.value)
            return any(ranked(one)[0] == kind and ORDERS[order](ranked(one)[1], value) for one in scalars)


async def in_postgres(
    connection: AsyncConnection,
    condition: Condition,
    *,
    metadata: dict[str, Any] | None = None,
    filename: str = "report.pdf",
    pages: int | None = 12,
    language: str | None = "de",
    created_at: datetime = datetime(2026, 3, 1, 9, 30, 0, 250_000, UTC),
) -> bool | None:
    """What Postgres says of a document without asking its tables."""
    parameters: dict[str, Any] = {}
    asked = condition_sql(condition, parameters)
    result: bool | None = await connection.scalar(
        text(f"""
            WITH ingestions (id, filename) AS (SELECT 1, CAST(:filename AS text))
            SELECT {asked} FROM
                (SELECT CAST(:metadata AS jsonb), CAST(:created_at AS timestamptz)) d (metadata, created_at),
                (SELECT 1, CAST(:pages AS int), CAST(:language AS text)) i (id, pages_total, language)
        """),
        parameters
        | {
            "metadata": json.dumps(metadata or {}),
            "filename": filename,
            "pages": pages,
            "language": language,
            "created_at": created_at,
        },
    )
    return result


@pytest.fixture(scope="module")
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as opened:
        yield opened


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(comparison=COMPARISONS, metadata=METADATA)
@example(Comparison("eq", "tags", "a"), {"tags": [["a"]]})
@example(Comparison("in", "tags", ["a"]), {"tags": [["a"]]})
@example(Comparison("eq", "year", 1), {"year": True})
@example(Comparison("ne", "year", None), {"year": []})
async def test_a_comparison_holds_in_postgres_where_it_does_in_python(
    connection: AsyncConnection, comparison: Comparison, metadata: dict[str, Any]
) -> None:
    assert await in_postgres(connection, comparison, metadata=metadata) is holds(comparison, metadata)


@pytest.mark.parametrize(
    ("comparison", "metadata", "is_fit"),
    [
        (Comparison("eq", "year", 2024), {"year": 2024.0}, True),
        (Comparison("eq", "year", 2024), {"year": "2024"}, False),
        (Comparison("ne", "year", 2024), {"year": "2024"}, True),
        (Comparison("ne", "year", 2024), {}, True),
        (Comparison("nin", "year", [2024, 2025]), {}, True),
        (Comparison("gt", "year", 2024), {"year": 2**70}, True),
        (Comparison("gt", "year", 2024), {"year": "2025"}, False),
        (Comparison("lte", "year", 2024), {"year": "2023"}, False),
        (Comparison("gt", "year", 2024), {}, False),
        (Comparison("lt", "year", 2024), {"year": None}, False),
        (Comparison("gt", "name", "Z"), {"name": "a"}, True),
        (Comparison("eq", "year", None), {}, True),
        (Comparison("eq", "year", None), {"year": None}, True),
        (Comparison("eq", "year", None), {"year": 0}, False),
        (Comparison("ne", "year", None), {"year": 0}, True),
        (Comparison("eq", "public", True), {"public": True}, True),
        (Comparison("eq", "public", True), {"public": 1}, False),
        (Comparison("eq", "tags", "law"), {"tags": ["tax", "law"]}, True),
        (Comparison("ne", "tags", "law"), {"tags": ["tax", "law"]}, False),
        (Comparison("in", "tags", ["law", "art"]), {"tags": ["tax", "law"]}, True),
        (Comparison("gte", "years", 2025), {"years": [2020, 2025]}, True),
        (Comparison("in", "year", []), {"year": 1}, False),
        (Comparison("nin", "year", []), {"year": 1}, True),
        (Comparison("eq", "author.name", "Ann"), {"author.name": "Ann"}, True),
        (Comparison("eq", "author.name", "Ann"), {"author": {"name": "Ann"}}, False),
        (Containment({"author": {"name": "Ann"}}), {"author": {"name": "Ann", "born": 1950}}, True),
    ],
)
async def test_what_comparisons_mean(
    connection: AsyncConnection, comparison: Condition, metadata: dict[str, Any], is_fit: bool
) -> None:
    assert await in_postgres(connection, comparison, metadata=metadata) is is_fit


@pytest.mark.parametrize(
    ("comparison", "is_fit"),
    [
        (Comparison("eq", "filename", "report.pdf"), True),
        (Comparison("eq", "filename", "Report.pdf"), False),
        (Comparison("in", "filename", ["a.pdf", "report.pdf"]), True),
        (Comparison("nin", "filename", ["a.pdf", "report.pdf"]), False),
        (Comparison("lt", "filename", "s"), True),
        (Comparison("in", "language", ["fr", "de"]), True),
        (Comparison("eq", "language", None), False),
        (Comparison("gte", "pages", 12), True),
        (Comparison("gt", "pages", 12), False),
        (Comparison("gt", "pages", 11.5), True),
        (Comparison("lt", "pages", 2**70), True),
        (Comparison("eq", "pages", None), False),
        (Comparison("eq", "created_at", "2026-03-01T09:30:00.25Z"), True),
        (Comparison("eq", "created_at", "2026-03-01T10:30:00.250+01:00"), True),
        (Comparison("gt", "created_at", "2026-03-01T09:30:00.249999Z"), True),
        (Comparison("lt", "created_at", "2026-03-01T09:30:00.250000Z"), False),
        (Comparison("lt", "created_at", "9999-12-31T23:59:59-14:00"), True),
        (Comparison("gt", "created_at", "0001-01-01T00:00:00+14:00"), True),
    ],
)
async def test_a_document_is_asked_for_its_own_fields(
    connection: AsyncConnection, comparison: Comparison, is_fit: bool
) -> None:
    assert await in_postgres(connection, comparison) is is_fit


async def test_an_own_field_hides_a_key_of_the_metadata_unless_the_metadata_is_named(
    connection: AsyncConnection,
) -> None:
    metadata = {"filename": "other.pdf", "metadata.year": 1, "year": 2}
    for key, value in [
        ("filename", "report.pdf"),
        ("metadata.filename", "other.pdf"),
        ("metadata.year", 2),
        ("metadata.metadata.year", 1),
    ]:
        for operator, listed in (("eq", value), ("in", [value])):
            assert await in_postgres(connection, Comparison(operator, key, listed), metadata=metadata), key  # type: ignore[arg-type]


async def test_what_has_no_pages_yet_is_null(connection: AsyncConnection) -> None:
    assert await in_postgres(connection, Comparison("eq", "pages", None), pages=None)
    assert not await in_postgres(connection, Comparison("lt", "pages", 1), pages=None)


async def test_all_and_any_can_be_nested(connection: AsyncConnection) -> None:
    old, law, long = (
        Comparison("lt", "year", 2000),
        Containment({"about": "law"}),
        Comparison("gt", "pages", 9),
    )
    condition = Compound(
        "or", (Compound("and", (old, law)), Compound("and", (long, Comparison("ne", "year", 1))))
    )
    assert await in_postgres(connection, condition, metadata={"year": 1990, "about": "law"}, pages=1)
    assert await in_postgres(connection, condition, metadata={"year": 2010}, pages=10)
    assert not await in_postgres(connection, condition, metadata={"year": 1990}, pages=1)
    assert not await in_postgres(connection, condition, metadata={"year": 1, "about": "art"}, pages=10)


@pytest.mark.parametrize(
    ("operator", "key", "value", "reason"),
    [
        ("in", "year", 2024, "must be a list"),
        ("eq", "year", [2024], "must be a list"),
        ("gt", "year", None, "number or a text"),
        ("lt", "public", True, "number or a text"),
        ("eq", "pages", "12", "must be a number or null"),
        ("in", "pages", [1, True], "must be a number or null"),
        ("eq", "filename", 7, "must be a text or null"),
        ("gt", "created_at", "yesterday", "time with its offset"),
        ("gt", "created_at", "2026-03-01T09:30:00", "time with its offset"),
        ("gt", "created_at", 1_700_000_000, "time with its offset"),
    ],
)
def test_what_can_never_hold_is_refused(operator: Any, key: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Comparison(operator, key, value)


def test_nothing_from_outside_is_in_the_sql() -> None:
    hostile = "'; DROP TABLE documents; --"
    condition = Compound(
        "and",
        (
            Containment({hostile: hostile}),
            *(Comparison(operator, hostile, hostile) for operator in ("eq", "ne", "gt")),
            Comparison("in", hostile, [hostile]),
            Comparison("eq", "filename", hostile),
        ),
    )
    conditions, parameters = SearchFilter(hostile, (UUID(int=1),), condition).sql()
    assert "DROP" not in conditions
    assert set(parameters) == set(text(conditions).compile().params)


def test_a_filter_of_nothing_asks_for_what_is_published() -> None:
    assert SearchFilter().sql() == (f"d.live_ingestion_id IS NOT NULL AND {stays('d')}", {})


async def test_equality_in_the_metadata_is_found_by_its_index(connection: AsyncConnection) -> None:
    parameters: dict[str, Any] = {}
    condition = condition_sql(Comparison("eq", "year", 2024), parameters)
    async with connection.begin_nested():
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        rows = await connection.execute(
            text(f"EXPLAIN SELECT id FROM documents d WHERE {condition}"), parameters
        )
        plan = "\n".join(row[0] for row in rows)
    assert plan.count("ix_documents_metadata") == 2, plan
