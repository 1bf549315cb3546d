"""`Idempotency-Key`: a request that is repeated gets the answer of the first time, for 24 hours."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from app.errors import DatabaseUnavailable, IdempotencyKeyInWork, IdempotencyKeyReused
from app.storage import idempotency
from app.storage.database import Connection, Database

_TOUCH_SECONDS = idempotency.CLAIM_SECONDS / 3

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told: an HTTP status and a JSON object."""

    status: int
    body: dict[str, Any]


@dataclass(slots=True)
class Claim:
    """A key this request holds or, with a `first_answer`, one that was answered before.

    `is_answered` is set after the commit: before it, the answer may still be lost.
    """

    key: str
    caller: str
    token: bytes
    first_fingerprint: bytes = b""
    first_answer: Answer | None = None
    is_answered: bool = False

    def replay(self, fingerprint: bytes) -> Answer | None:
        """The first answer, if there was one. Raises IdempotencyKeyReused when the content is another."""
        if self.first_answer and self.first_fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return self.first_answer

    async def keep(self, connection: Connection, fingerprint: bytes, answer: Answer) -> None:
        """Store the answer in the transaction it answers for. Raises IdempotencyKeyInWork: claim lost."""
        is_kept = await idempotency.answer_key(
            connection,
            self.key,
            self.caller,
            self.token,
            fingerprint=fingerprint,
            status=answer.status,
            body=answer.body,
        )
        if not is_kept:
            raise IdempotencyKeyInWork


@asynccontextmanager
async def claiming(database: Database, key: str | None, caller: str = "") -> AsyncIterator[Claim | None]:
    """Hold the key during the block; at its end it is free again unless an answer was kept.

    Raises IdempotencyKeyInWork while another request holds it.
    """
    if key is None:
        yield None
        return
    token = secrets.token_bytes(16)
    async with database.transaction() as connection:
        row = await idempotency.claim_key(connection, key, caller, token)
    if row is None or (not row.is_ours and row.status is None):
        raise IdempotencyKeyInWork
    if row.status is not None:
        yield Claim(key, caller, token, row.fingerprint, Answer(row.status, row.body or {}))
        return
    claim = Claim(key, caller, token)
    touching = asyncio.create_task(_touch(database, claim))
    try:
        yield claim
    finally:
        touching.cancel()
        await asyncio.wait([touching])
        if not claim.is_answered:
            await _release(database, claim)


async def _release(database: Database, claim: Claim) -> None:
    try:
        async with database.transaction() as connection:
            await idempotency.release_key(connection, claim.key, claim.caller, claim.token)
    except DatabaseUnavailable:  # the claim ends by itself, CLAIM_SECONDS later
        log.warning("idempotency_key_not_released")


async def _touch(database: Database, claim: Claim) -> None:
    """Keep the claim alive while a slow upload streams in."""
    while True:
        await asyncio.sleep(_TOUCH_SECONDS)
        try:
            async with database.transaction() as connection:
                await idempotency.touch_key(connection, claim.key, claim.caller, claim.token)
        except DatabaseUnavailable:  # the next sign of life may still come in time
            log.warning("idempotency_key_not_touched")
