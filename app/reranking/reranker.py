"""What a reranker is."""

from collections.abc import Sequence
from typing import Protocol


class RerankFailed(Exception):  # noqa: N818 - never an error of a caller's: the order stays as it was
    """There are no scores; the message says why, for the log."""


class Reranker(Protocol):
    """Scores passages by how well they answer a query."""

    async def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """One score for each passage, in their order, higher is better; comparable within one answer.

        Never blocks the event loop, and may be cancelled. Raises RerankFailed.
        """
        ...
