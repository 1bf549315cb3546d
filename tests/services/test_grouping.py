"""The best documents of a ranked list."""

from uuid import UUID

import pytest

from app.services.grouping import best_of_documents
from app.storage.search import Hit


def hits(documents: str) -> list[Hit]:
    """A hit for each letter, which names its document; the score falls by one from hit to hit."""
    return [
        Hit(
            chunk_id=UUID(int=place),
            document_id=UUID(int=ord(letter)),
            filename=letter,
            title=None,
            page_start=1,
            page_end=1,
            text="",
            score=100 - place,
            boxes=(),
            heading=None,
            ordinal=place,
        )
        for place, letter in enumerate(documents)
    ]


@pytest.mark.parametrize(
    ("ranked", "documents", "group_size", "expected"),
    [
        ("", 3, 3, []),
        ("abc", 2, 3, ["a0", "b1"]),
        ("abacba", 2, 3, ["a0", "a2", "a5", "b1", "b4"]),
        ("abacba", 9, 2, ["a0", "a2", "b1", "b4", "c3"]),
        ("aaab", 9, 1, ["a0", "b3"]),
    ],
)
def test_documents_come_by_their_best_hit_each_with_its_own_best(
    ranked: str, documents: int, group_size: int, expected: list[str]
) -> None:
    best = best_of_documents(hits(ranked), documents, group_size)
    assert [f"{hit.filename}{hit.ordinal}" for hit in best] == expected
