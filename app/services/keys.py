"""Keys, of the environment and of the database: who holds which, and what it opens."""

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Collection
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal
from uuid import UUID

import structlog
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from app.errors import (
    AdminKeyFirst,
    CollectionNotFound,
    DatabaseUnavailable,
    KeyMissing,
    KeyNameTaken,
    KeyNotFound,
    KeyUnknown,
    ScopeMissing,
    TokensNeedSecret,
    TokenTooLong,
)
from app.services.audit import audit
from app.services.fresh import look_at_error
from app.services.quotas import Allowance, Limits, RequestCounter
from app.services.tokens import MOST_CHARACTERS, PREFIX, Claims, Signer
from app.storage import keys
from app.storage.database import Database
from app.storage.keys import KeyRow
from app.storage.reach import EVERYTHING, Reach
from app.storage.usage import UsageOf, add_requests, list_requests, list_usage

Scope = Literal["read", "write", "admin"]
ALL_SCOPES: Final = frozenset[Scope]({"read", "write", "admin"})

MOST_OF_A_NAME: Final = 2  # keys in use at a time: the one that clients have, and the one that they change to
FRESH_SECONDS: Final = 1.0  # then valid keys are read again; those that were read last are used meanwhile ...
STALE_SECONDS: Final = 1.8  # ... until then: what is revoked opens nothing 2 s later
ANEW_SECONDS: Final = 0.2  # between two looks for a key that another process may have made just now
READING_SECONDS: Final = 5.0
USES_APART_SECONDS: Final = 60.0

_HASHED = "sha256="
_PREFIX = re.compile(rb"(pdfi_[0-9a-f]{12})_")
_NOBODYS = bytes(32)
TOKEN_BEGINNING = PREFIX.encode()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks: a key's holder, or anybody where no key is needed.

    `account` is what counts are kept under; it is never that of another key of the same name. `expires_at` is
    a token's end, in seconds since 1970; a key's own is looked at when the keys are read.
    """

    name: str = ""
    account: str = ""
    key_id: str = ""
    scopes: frozenset[str] = ALL_SCOPES
    reach: Reach = EVERYTHING
    limits: Limits = field(default_factory=dict)
    expires_at: int | None = None

    @property
    def is_token(self) -> bool:
        return self.expires_at is not None

    @property
    def tenant(self) -> str:
        """What answers are kept under: tokens for other collections are given to others."""
        if not self.is_token:
            return self.account
        return f"{self.account} {sha256(repr(self.reach.collections).encode()).hexdigest()}"

    def has_scope(self, scope: str) -> bool:
        """Who may make keys could make any, so admin has all."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names of callers with the SHA-256 of their keys; a name may have several, to change one for another."""

    keys: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def parse(cls, api_keys: SecretStr | None) -> "KeyRing":
        """From `name:key,name:sha256=<64 hex digits>`, which the settings have checked."""
        if api_keys is None:
            return cls()
        entries = api_keys.get_secret_value().rstrip(", ").split(",")
        return cls(tuple(_parsed(entry.strip()) for entry in entries))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def has_name(self, name: str) -> bool:
        return any(name == known for known, _ in self.keys)

    def caller(self, key: bytes) -> Caller | None:
        """The key's holder. Takes as long for a wrong key as for a right one."""
        digest = sha256(key).digest()
        found = None
        for name, known in self.keys:
            if hmac.compare_digest(digest, known):
                found = Caller(name, name, _id_of(known))
        return found

    def holder(self, key_id: str) -> Caller | None:
        """Of the key that a token was made with."""
        return next(
            (Caller(name, name, key_id) for name, known in self.keys if _id_of(known) == key_id), None
        )


def _id_of(digest: bytes) -> str:
    return f"env-{digest[:8].hex()}"


def _parsed(entry: str) -> tuple[str, bytes]:
    name, _, key = entry.partition(":")
    if key.startswith(_HASHED):
        return name, bytes.fromhex(key.removeprefix(_HASHED))
    return name, sha256(key.encode()).digest()


class Keys:
    """All keys of a service. Those of the database are read once a second at most, for all who ask.

    A service without any key is open; from the first one on it wants keys for ever, also when all of them
    are revoked or have run out.
    """

    def __init__(self, database: Database, environment: KeyRing, secret_key: SecretStr | None = None) -> None:
        self._database = database
        self._environment = environment
        self._signer = Signer(secret_key) if secret_key else None
        self._valid: dict[bytes, KeyRow] = {}
        self._by_id: dict[str, KeyRow] = {}
        self._read_at = self._changed_at = -STALE_SECONDS
        self._monotonic_zero = time.time() - time.monotonic()
        self._reading: asyncio.Task[None] | None = None
        self._uses: dict[UUID, float] = {}
        self._unnoted: set[UUID] = set()
        self._requests = RequestCounter()
        self._counting: asyncio.TimerHandle | None = None
        self.are_wanted = bool(environment)
        """As far as is known: what was read last may be older than the first key."""

    @property
    def _now(self) -> float:
        """Seconds since 1970, by the clock of the database once that was read: it is the same for all."""
        return self._monotonic_zero + time.monotonic()

    async def close(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def caller(self, key: bytes) -> Caller | None:
        """The holder of a key or a token; None where none is wanted.

        Keys of the environment, and tokens made with them, need no database. Raises KeyUnknown and
        DatabaseUnavailable.
        """
        if (caller := self._environment.caller(key)) is not None:
            return caller
        if key.startswith(TOKEN_BEGINNING):
            return await self.bearer_of(key.decode("latin-1"))
        await self.refresh()
        prefix = _PREFIX.match(key)
        if prefix and prefix[1] not in self._valid:
            await self._read_anew()
        if not self.are_wanted:
            return None
        return self._holder(key)

    async def bearer_of(self, token: str) -> Caller:
        """Raises KeyUnknown, also when its key is in use no more, and DatabaseUnavailable."""
        claims = self._signer.claims(token) if self._signer and token.startswith(PREFIX) else None
        if claims is None:
            raise KeyUnknown
        holder = await self._holder_of(claims.key_id)
        if holder is None or claims.expires_at <= self._now:
            raise KeyUnknown
        named = claims.document_ids
        return replace(
            holder,
            scopes=frozenset(scope for scope in claims.scopes if holder.has_scope(scope)),
            reach=Reach(claims.collections, None if named is None else frozenset(named)),
            expires_at=claims.expires_at,
        )

    async def is_open_to(self, caller: Caller) -> bool:
        """Whether what let the caller in still would. Raises DatabaseUnavailable."""
        if caller.key_id and await self._holder_of(caller.key_id) is None:
            return False
        return caller.expires_at is None or caller.expires_at > self._now

    def token(
        self,
        caller: Caller,
        scopes: Collection[Scope],
        collections: Collection[str] | None,
        document_ids: Collection[UUID] | None,
        seconds: int,
    ) -> tuple[str, int]:
        """A token that opens part of what the caller's key does, and its end in seconds since 1970.

        Raises KeyMissing, ScopeMissing, CollectionNotFound, TokensNeedSecret and TokenTooLong.
        """
        if not caller.key_id:
            raise KeyMissing("A token is made with a key, and stands for part of it.")
        if caller.is_token:
            raise ScopeMissing("A token makes no tokens.")
        if not all(map(caller.has_scope, scopes)):
            raise ScopeMissing
        if collections is not None and not caller.reach.covers(collections):
            raise CollectionNotFound
        if self._signer is None:
            raise TokensNeedSecret
        claims = Claims(
            caller.key_id,
            int(self._now) + seconds,
            tuple(sorted(scopes)),
            caller.reach.collections if collections is None else tuple(collections),
            None if document_ids is None else tuple(document_ids),
        )
        if len(token := self._signer.token(claims)) > MOST_CHARACTERS:
            raise TokenTooLong
        audit("token.create", seconds=seconds)
        return token, claims.expires_at

    async def refresh(self) -> None:
        """Know the keys as they were 2 s ago or later, and after changes of ours.

        Raises DatabaseUnavailable.
        """
        asked_at = time.monotonic()
        self._read_if_old()
        while self._read_at < max(asked_at - STALE_SECONDS, self._changed_at):
            await asyncio.shield(self._begin_reading())

    def _read_if_old(self) -> None:
        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._begin_reading()

    async def _read_anew(self) -> None:
        """Know the keys as they are now. Those who ask with wrong ones share a look each ANEW_SECONDS."""
        asked_at = time.monotonic()
        while self._read_at < asked_at:
            await asyncio.sleep(self._read_at + ANEW_SECONDS - time.monotonic())
            await asyncio.shield(self._begin_reading())

    async def create(
        self,
        name: str,
        scopes: Collection[Scope],
        collections: Collection[str] | None = None,
        limits: Limits | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[KeyRow, str]:
        """A new key and its secret, which is kept nowhere. Raises KeyNameTaken and AdminKeyFirst."""
        prefix = f"pdfi_{secrets.token_hex(6)}"
        secret = f"{prefix}_{secrets.token_urlsafe(32)}"
        async with self._database.transaction() as connection:
            await keys.lock_keys(connection)
            valid = await keys.list_valid_keys(connection)
            if self._environment.has_name(name) or sum(key.name == name for key in valid) >= MOST_OF_A_NAME:
                raise KeyNameTaken
            has_admin = self._environment or any("admin" in key.scopes for key in valid)
            if not has_admin and "admin" not in scopes:
                raise AdminKeyFirst
            key = await keys.insert_key(
                connection,
                key_id=uuid7(),
                name=name,
                prefix=prefix,
                digest=sha256(secret.encode()).digest(),
                scopes=sorted(scopes),
                collections=collections,
                limits=limits or {},
                expires_at=expires_at,
            )
        self._changed_at = time.monotonic()
        audit("key.create", made_key=key.id, made_for=name)
        return key, secret

    async def list_keys(self, after: UUID | None, limit: int) -> list[KeyRow]:
        """The newest first, those that are revoked or have run out too."""
        async with self._database.transaction() as connection:
            return await keys.list_keys(connection, after, limit)

    async def usage(self, caller: Caller, begin: datetime, end: datetime) -> list[UsageOf]:
        """What was asked for between two times: on the caller's account or, for administrators, on all.

        A key is told of all on its account, but of no names out of its reach; a token, of its part alone.
        """
        account = None if caller.has_scope("admin") else caller.account
        async with self._database.transaction() as connection:
            rows = await list_usage(connection, begin, end, account)
        seen = [row for row in rows if caller.reach.has_all_of(row.collection)]
        if caller.is_token:
            return seen
        return [row if row in seen else replace(row, collection=None) for row in rows]

    async def revoke(self, key_id: UUID) -> None:
        """The key opens nothing any more: here at once, in all processes 2 s later. Raises KeyNotFound."""
        async with self._database.transaction() as connection:
            if await keys.revoke_key(connection, key_id) is None:
                raise KeyNotFound
        self._changed_at = time.monotonic()
        audit("key.revoke", revoked_key=key_id)

    def _holder(self, key: bytes) -> Caller:
        """Takes as long for a wrong secret as for a right one. Raises KeyUnknown."""
        prefix = _PREFIX.match(key)
        row = self._valid.get(prefix[1]) if prefix else None
        is_right = hmac.compare_digest(sha256(key).digest(), row.digest if row else _NOBODYS)
        if row is None or not is_right or self._has_run_out(row):
            raise KeyUnknown
        self._note_use(row.id)
        return _caller(row)

    async def _holder_of(self, key_id: str) -> Caller | None:
        """Raises DatabaseUnavailable."""
        if (holder := self._environment.holder(key_id)) is not None:
            self._read_if_old()
            return holder
        await self.refresh()
        if key_id not in self._by_id:
            await self._read_anew()
        row = self._by_id.get(key_id)
        return None if row is None or self._has_run_out(row) else _caller(row)

    def _has_run_out(self, row: KeyRow) -> bool:
        """Since the keys were read."""
        return row.expires_at is not None and row.expires_at.timestamp() <= self._now

    def count_request(self, caller: Caller) -> Allowance | None:
        """What is left to the caller of his requests; None: he has no such limit."""
        limit = caller.limits.get("requests_per_minute")
        if limit is None:
            return None
        allowance = self._requests.count(caller.account, limit)
        if self._counting is None or self._counting.when() < asyncio.get_running_loop().time():
            self._counting = asyncio.get_running_loop().call_later(FRESH_SECONDS, self._begin_reading)
        return allowance

    def _note_use(self, key_id: UUID) -> None:
        now = time.monotonic()
        if now - self._uses.get(key_id, -USES_APART_SECONDS) >= USES_APART_SECONDS:
            self._uses[key_id] = now
            self._unnoted.add(key_id)
            self._begin_reading()

    def _begin_reading(self) -> asyncio.Task[None]:
        """For all who ask meanwhile: a database that is silent holds up one statement."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), context=Context())  # of no one's request
            self._reading.add_done_callback(look_at_error)
        return self._reading

    async def _read(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(READING_SECONDS), self._database.transaction() as connection:
                if used := list(self._unnoted):
                    await keys.note_uses(connection, used, USES_APART_SECONDS)
                if requests := self._requests.taken():
                    await add_requests(connection, requests)
                if self._requests.is_needed:
                    self._requests.note(await list_requests(connection))
                self._monotonic_zero = await keys.read_clock(connection) - time.monotonic()
                valid = await keys.list_valid_keys(connection)
                are_wanted = self.are_wanted or bool(valid) or await keys.has_keys(connection)
        except TimeoutError as error:
            raise DatabaseUnavailable from error
        self._unnoted.difference_update(used)
        self._valid = {key.prefix.encode(): key for key in valid}
        self._by_id = {str(key.id): key for key in valid}
        self._uses = {key.id: self._uses[key.id] for key in valid if key.id in self._uses}
        self.are_wanted = are_wanted
        self._read_at = began


def _caller(row: KeyRow) -> Caller:
    return Caller(
        row.name, str(row.id), str(row.id), frozenset(row.scopes), Reach(row.collections), row.limits
    )
