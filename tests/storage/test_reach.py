"""What a pattern means is the same in Python and in Postgres."""

from itertools import product
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.storage.database import Database
from app.storage.reach import EVERYTHING, Reach, like, like_name

NAMES = [
    "",
    "a",
    "ab",
    "aab",
    "a-b",
    "reports",
    "reports-2026",
    "a%b",
    "a_b",
    "axb",
    "a\\b",
    "a\nb",
    "Aüß",
    "a*b",
]
PATTERNS = [
    *(
        "*",
        "**",
        "a*",
        "*b",
        "a*b",
        "a**b",
        "*a*b*",
        "reports*",
        "*-20*6",
        "a%b",
        "a_b",
        "a\\b",
        "a?b",
        "[a]b",
    ),
    *("Aü*", "ab*ab", "*aab", "aa*a*", "%", "_", ""),
]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_postgres_and_python_agree(database: Database, pattern: str) -> None:
    asked = {"names": NAMES, "pattern": like(pattern)}
    async with database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE name LIKE :pattern"), asked
        )
    assert set(rows.scalars()) == {name for name in NAMES if Reach((pattern,)).has_collection(name)}


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_fits_nothing_but_itself(database: Database, name: str) -> None:
    asked = {"names": NAMES, "pattern": like_name(name)}
    async with database.transaction() as connection:
        rows = await connection.execute(
            text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE name LIKE :pattern"), asked
        )
    assert rows.scalars().all() == [name]


def test_what_covers_a_pattern_has_all_that_fits_it() -> None:
    for ours, other in product(PATTERNS, PATTERNS):
        if Reach((ours,)).covers([other]):
            fitting = [name for name in NAMES if Reach((other,)).has_collection(name)]
            assert all(Reach((ours,)).has_collection(name) for name in fitting), (ours, other)
    assert Reach(("reports*",)).covers(["reports-20*", "reports"])
    assert not Reach(("reports*",)).covers(["*"])
    assert not Reach(("reports*",)).covers(["reports", "letters"])


def test_who_is_not_bound_adds_nothing_to_a_statement() -> None:
    assert (EVERYTHING.sql("d"), EVERYTHING.parameters, EVERYTHING.is_bound) == ("true", {}, False)


def test_documents_that_are_named_must_be_in_the_collections_too() -> None:
    document_id = uuid4()
    reach = Reach(("reports*",), frozenset({document_id}))
    assert reach.has_document("reports", document_id)
    assert not reach.has_document("letters", document_id)
    assert not reach.has_document("reports", uuid4())
    assert not reach.has_document(None, document_id)
