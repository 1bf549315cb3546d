"""How often, and after which pauses, what failed for somebody else's sake is tried again."""

import random

MAX_RETRIES = 12  # with the pauses below: given up after about 25 minutes
MAX_PAUSE_SECONDS = 300.0


def pause_seconds(retries: int) -> float:
    """After so many retries; by chance, so that what failed together is not tried together."""
    return min(MAX_PAUSE_SECONDS, 2.0**retries) * random.uniform(0.5, 1.0)  # noqa: S311
