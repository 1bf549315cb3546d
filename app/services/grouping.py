"""Documents instead of chunks: the best of them, each with its best hits."""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from app.storage.search import Hit

GROUPED_HITS: Final = 100  # hits that are grouped: as many as one may ask for ungrouped


def best_of_documents(hits: Iterable[Hit], documents: int, group_size: int) -> list[Hit]:
    """The `group_size` best hits of each of the `documents` best documents, one document after another.

    The hits come ranked; a document is as good as its best hit.
    """
    groups: dict[UUID, list[Hit]] = {}
    for hit in hits:
        if hit.document_id in groups or len(groups) < documents:
            groups.setdefault(hit.document_id, []).append(hit)
    return [hit for group in groups.values() for hit in group[:group_size]]
