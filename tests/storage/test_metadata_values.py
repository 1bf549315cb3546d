"""Keys and values of the metadata with their counts: those that conditions find."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from uuid_utils.compat import uuid7

from app.storage.collections import begin_deletion
from app.storage.database import Database
from app.storage.filters import Comparison, SearchFilter
from app.storage.metadata_values import MOST_CHARACTERS, count_keys, count_values
from app.storage.reach import Reach

METADATA: list[dict[str, Any]] = [
    {"year": 2024, "tags": ["law", "tax"], "filename": "a.pdf", "": 1},
    {"year": 2024.0, "tags": ["law", "law", ["art"], {"a": 1}, None], "metadata.year": "x"},
    {"year": "2024", "tags": "law", "it's": True, "nothing": None},
    {"year": [2024, 2025], "author": {"name": "Ann"}, "note": "n" * (MOST_CHARACTERS + 1)},
    {"year": None, "tags": [], "note": "n" * MOST_CHARACTERS},
]


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as opened:
        yield opened
        await opened.rollback()


async def add(
    connection: AsyncConnection, collection: str, metadata: dict[str, Any], *, is_published: bool = True
) -> None:
    await connection.execute(
        text("""
        WITH run AS (
            INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, status)
            VALUES (:run_id, :id, 'a.pdf', '', 1, 'success') RETURNING id
        )
        INSERT INTO documents (id, collection, metadata, live_ingestion_id, latest_ingestion_id)
        SELECT :id, :collection, CAST(:metadata AS jsonb), CASE WHEN :is_published THEN id END, id FROM run
        """),
        {
            "run_id": uuid7(),
            "id": uuid7(),
            "collection": collection,
            "metadata": json.dumps(metadata),
            "is_published": is_published,
        },
    )


@pytest.fixture
async def shelf(connection: AsyncConnection) -> SearchFilter:
    """A collection of documents with METADATA."""
    wanted = SearchFilter(f"c-{uuid4()}")
    for metadata in METADATA:
        await add(connection, wanted.collection or "", metadata)
    return wanted


async def test_keys_are_named_as_conditions_name_them(
    connection: AsyncConnection, shelf: SearchFilter
) -> None:
    counted = {one.key: one.documents for one in await count_keys(connection, shelf, 50)}
    assert counted == {
        "year": 4,
        "tags": 4,
        "note": 2,
        "metadata.filename": 1,
        "": 1,
        "metadata.metadata.year": 1,
        "it's": 1,
        "author": 1,
    }


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("year", [(2024, 3), ("2024", 1), (2025, 1)]),
        ("metadata.year", [(2024, 3), ("2024", 1), (2025, 1)]),
        ("tags", [("law", 3), ("tax", 1)]),
        ("metadata.filename", [("a.pdf", 1)]),
        ("metadata.metadata.year", [("x", 1)]),
        ("it's", [(True, 1)]),
        ("", [(1, 1)]),
        ("author", []),
        ("nothing", []),
        ("unheard of", []),
        ("note", [("n" * MOST_CHARACTERS, 1)]),
        ("filename", [("a.pdf", 5)]),
        ("language", []),
    ],
)
async def test_values_are_counted_as_conditions_find_them(
    connection: AsyncConnection, shelf: SearchFilter, key: str, counts: list[tuple[Any, int]]
) -> None:
    counted = await count_values(connection, shelf, key, 50)
    assert [(one.value, one.documents) for one in counted] == counts
    for one in counted:
        condition = Comparison("eq", key, one.value)
        conditions, parameters = SearchFilter(shelf.collection, condition=condition).sql()
        found = await connection.scalar(
            text(
                "SELECT count(*) FROM documents d JOIN ingestions i ON i.id = d.live_ingestion_id "
                f"WHERE {conditions}"
            ),
            parameters,
        )
        assert found == one.documents


async def test_the_most_frequent_come_first_and_no_more_than_asked_for(connection: AsyncConnection) -> None:
    wanted = SearchFilter(f"c-{uuid4()}")
    for number in range(12):
        await add(connection, wanted.collection or "", {"year": 2000 + number % 5 // 2, f"k{number}": 1})
    assert [one.key for one in await count_keys(connection, wanted, 3)] == ["year", "k0", "k1"]
    values = await count_values(connection, wanted, "year", 2)
    assert [(one.value, one.documents) for one in values] == [(2000, 6), (2001, 4)]


async def test_only_what_a_search_finds_and_the_caller_reaches_is_counted(
    connection: AsyncConnection,
) -> None:
    names = [f"{uuid4()}-{kind}" for kind in ("own", "foreign", "doomed")]
    for name in names:
        await add(connection, name, {"year": 1})
        await add(connection, name, {"year": 1, "secret": "s"}, is_published=False)
    await begin_deletion(connection, uuid7(), names[2])
    for wanted, years in (
        (SearchFilter(names[0]), 1),
        (SearchFilter(names[2]), 0),
        (SearchFilter(reach=Reach((names[0], names[2]))), 1),
        (SearchFilter(names[1], reach=Reach((names[0],))), 0),
        (SearchFilter(names[0], reach=Reach(document_ids=frozenset())), 0),
    ):
        keys = await count_keys(connection, wanted, 50)
        assert [(one.key, one.documents) for one in keys] == [("year", years)][: len(keys)]
        assert len(keys) == (years > 0)
        assert sum(one.documents for one in await count_values(connection, wanted, "year", 50)) == years
