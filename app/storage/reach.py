"""How far a caller reaches: the one condition, in Python and in SQL, on whatever belongs to a collection."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

_IS_NAMED: Final = "{name} LIKE ANY(CAST(:reach_collections AS text[]))"
MOST_NAMES: Final = 1_000
TENANT_ROLE: Final = "pdf_ingest_tenant"
_SPECIAL_IN_LIKE: Final = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


@dataclass(frozen=True, slots=True)
class Reach:
    """The collections a caller may touch, as names or patterns in which `*` stands for any characters, and
    the documents in them; None restricts nothing.

    Whatever lies outside is to the caller as if it were not there.
    """

    collections: tuple[str, ...] | None = None
    document_ids: frozenset[UUID] | None = None

    @property
    def is_bound(self) -> bool:
        return self.collections is not None or self.document_ids is not None

    def has_collection(self, collection: str | None) -> bool:
        """Whether documents of this name may be there; None: of a document that is there no more."""
        if self.collections is None:
            return True
        return collection is not None and any(_fits(collection, one) for one in self.collections)

    def has_all_of(self, collection: str | None) -> bool:
        """Whether the collection itself, and what it counts, is to be seen; None as in `has_collection`."""
        return self.document_ids is None and self.has_collection(collection)

    def has_document(self, collection: str | None, document_id: UUID) -> bool:
        is_named = self.document_ids is None or document_id in self.document_ids
        return is_named and self.has_collection(collection)

    def covers(self, patterns: Collection[str]) -> bool:
        """Whether each name that fits one of these patterns fits one of ours: their `*` fits only ours."""
        return all(self.has_collection(pattern) for pattern in patterns)

    def sql(self, documents: str) -> str:
        """What a row of `documents`, called so in the statement, fulfils; see `parameters`."""
        conditions = []
        if self.collections is not None:
            conditions.append(_IS_NAMED.format(name=f"{documents}.collection"))
        if self.document_ids is not None:
            conditions.append(f"{documents}.id = ANY(CAST(:reach_documents AS uuid[]))")
        return " AND ".join(conditions) or "true"

    def sql_of_collections(self, name: str) -> str:
        """What a collection of this name, a column, fulfils; documents that are named show none of it."""
        if self.document_ids is not None:
            return "false"
        return "true" if self.collections is None else _IS_NAMED.format(name=name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those that `sql` names, none of an unbound caller."""
        patterns, named = self.collections, self.document_ids
        return {
            **({} if patterns is None else {"reach_collections": [like(one) for one in patterns]}),
            **({} if named is None else {"reach_documents": list(named)}),
        }

    @property
    def settings(self) -> dict[str, str]:
        """Those of a transaction in which Postgres itself shows no other rows; none of an unbound caller.

        The policies read them (the migration "keep tenants apart"): without them the role sees nothing.
        """
        if not self.is_bound:
            return {}
        patterns = ["%"] if self.collections is None else [like(one) for one in self.collections]
        named = None if self.document_ids is None else [str(one) for one in self.document_ids]
        return {
            "pdf_ingest.collections": _array(patterns),
            "pdf_ingest.documents": "*" if named is None else _array(named),
            "role": TENANT_ROLE,
        }

    def clause(self, documents: str) -> TextClause:
        """The condition with its parameters, for statements that are not text."""
        return text(self.sql(documents)).bindparams(**self.parameters)


EVERYTHING: Final = Reach()


async def find_names(connection: AsyncConnection, reach: Reach) -> tuple[str, ...] | None:
    """The names of the collections in reach, for statements about many documents; None: too many, or all.

    Below a policy the planner may use no statistics of LIKE, but those of equal texts, and their index: the
    first 50 of 20,000 documents take 0.03 s by names and 9 s by patterns.
    """
    if reach.collections is None or reach.document_ids is not None:
        return None
    found = await connection.scalars(
        text(
            f"SELECT name FROM collections WHERE name IS NOT NULL AND {reach.sql_of_collections('name')}"
            f" LIMIT {MOST_NAMES + 1}"
        ),
        reach.parameters,
    )
    names = tuple(found)
    return None if len(names) > MOST_NAMES else names


def like(pattern: str) -> str:
    """The pattern as LIKE has it."""
    return like_name(pattern).replace("*", "%")


def like_name(name: str) -> str:
    """What LIKE finds nothing but this name with."""
    return name.translate(_SPECIAL_IN_LIKE)


def _array(texts: Collection[str]) -> str:
    """As Postgres writes an array of texts. Of none it is not empty, as a setting is that was never made."""
    quoted = (one.replace("\\", r"\\").replace('"', r"\"") for one in texts)
    return "{" + ",".join(f'"{one}"' for one in quoted) + "}"


def _fits(name: str, pattern: str) -> bool:
    """In one walk, however many `*` there are: each piece is taken where it comes first."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or len(name) < len(first) + len(last):
        return False
    place, end = len(first), len(name) - len(last)
    for piece in middle:
        if (found := name.find(piece, place, end)) < 0:
            return False
        place = found + len(piece)
    return name.endswith(last)
