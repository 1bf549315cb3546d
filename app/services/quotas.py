"""What a key may ask for: requests in a minute, and in a month documents, pages, bytes and tokens."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.errors import QueueFull, QuotaExceeded
from app.storage.database import Connection, beyond
from app.storage.reach import Reach
from app.storage.usage import count_waiting, lock_account, sum_month

WINDOW_SECONDS: Final = 60
MONTHLY: Final = ("documents", "pages", "bytes", "tokens")
# By name: `requests_per_minute`, `documents_per_month` and so on. What is not in it has no limit.
Limits = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of the requests of this minute, which ends in `reset_seconds`."""

    limit: int
    remaining: int
    reset_seconds: int
    is_used_up: bool = False


class RequestCounter:
    """Requests of this minute, by account: of all processes as they were noted last, and ours since then.

    Several processes can let through more than the limit: what comes to the others within two seconds.
    """

    def __init__(self) -> None:
        self.is_needed = False
        self._minute = 0
        self._noted: dict[str, int] = {}
        self._ours: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    def count(self, account: str, limit: int) -> Allowance:
        """When it is used up, the request does not count."""
        self.is_needed = True
        now = time.time()
        self._begin_minute(int(now // WINDOW_SECONDS))
        reset_seconds = WINDOW_SECONDS - int(now % WINDOW_SECONDS)
        left = limit - self._noted.get(account, 0) - self._taken[account] - self._ours[account]
        if left <= 0:
            return Allowance(limit, 0, reset_seconds, is_used_up=True)
        self._ours[account] += 1
        return Allowance(limit, left - 1, reset_seconds)

    def taken(self) -> Counter[str]:
        """What is to be added to the requests of all, which are to be noted after that."""
        self._taken, self._ours = self._taken + self._ours, Counter()
        return self._taken

    def note(self, requests: Mapping[tuple[str, int], int]) -> None:
        """Of all processes, by account and minute; those that were taken are among them."""
        self._noted = {
            account: count for (account, minute), count in requests.items() if minute == self._minute
        }
        self._taken = Counter()

    def _begin_minute(self, minute: int) -> None:
        if minute != self._minute:
            self._minute, self._noted = minute, {}
            self._ours, self._taken = Counter(), Counter()


@asynccontextmanager
async def within_quota(
    connection: Connection, reach: Reach, account: str, limits: Limits
) -> AsyncIterator[None]:
    """The runs that are asked for in the block stay if the account may ask for them all.

    Until the transaction ends nobody else asks for any on it. Raises QuotaExceeded and QueueFull.
    """
    if not _is_limited(limits):
        yield
        return
    await lock_quota(connection, reach, account, limits)
    async with connection.begin_nested():
        yield
        async with beyond(connection, reach):  # on the account is what was moved out of reach, too
            await _require_quota(connection, account, limits)


async def lock_quota(connection: Connection, reach: Reach, account: str, limits: Limits) -> None:
    """Before anything else is locked: two that wait for each other would wait for ever."""
    if _is_limited(limits):
        async with beyond(connection, reach):
            await lock_account(connection, account)


def _is_limited(limits: Limits) -> bool:
    return bool(limits.keys() - {"requests_per_minute"})


async def _require_quota(connection: Connection, account: str, limits: Limits) -> None:
    """Pages and tokens are known after a run: with less than the limit before, one more may begin."""
    most = limits.get("documents_waiting")
    if most is not None and await count_waiting(connection, account, most + 1) > most:
        raise QueueFull(f"This key may have {most:,} documents waiting. Try again when some are done.")
    used = await sum_month(connection, account)
    for name in MONTHLY:
        limit = limits.get(f"{name}_per_month")
        with_this = getattr(used, name) + (1 if name in {"pages", "tokens"} else 0)
        if limit is not None and with_this > limit:
            raise QuotaExceeded(
                f"This key may ask for {limit:,} {name} a month; with this it is {with_this:,}."
            )
