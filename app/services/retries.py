"""How often, and after which pauses, what failed for somebody else's sake is tried again."""

import math
import random

from app.errors import DiskFull, EmbeddingRefused, StoreFull, Temporary

MAX_RETRIES = 12  # with the pauses below: given up after about 25 minutes
MAX_REFUSALS = 3  # of what the embedder takes from others: one may come just before its key is mended
MAX_PAUSE_SECONDS = 300.0


def most_retries(error: Temporary) -> float:
    """A full disk or store is waited for: a probe may find room there that is not enough for a file."""
    if isinstance(error, DiskFull | StoreFull):
        return math.inf
    return MAX_REFUSALS if isinstance(error, EmbeddingRefused) else MAX_RETRIES


def pause_seconds(retries: int) -> float:
    """After so many retries; by chance, so that what failed together is not tried together."""
    return min(MAX_PAUSE_SECONDS, 2.0 ** min(retries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
