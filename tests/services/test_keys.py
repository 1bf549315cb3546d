"""Keys as the guard asks for them: compared in constant time, and read once for all who ask."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.errors import DatabaseUnavailable, KeyUnknown
from app.local.embedded import EmbeddedPostgres, free_port
from app.services.keys import ANEW_SECONDS, FRESH_SECONDS, Caller, KeyRing, Keys
from app.services.tokens import Claims, Signer
from app.storage.database import Database
from tests.databases import CountingDatabase, migrated


@pytest.fixture
async def keys(module_database: Database) -> AsyncIterator[Keys]:
    keys = Keys(module_database, KeyRing())
    yield keys
    await keys.close()


class Comparisons:
    """What `hmac.compare_digest`, which takes as long for all that has one length, was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[tuple[int, int]] = []
        self._compare = hmac.compare_digest
        monkeypatch.setattr(hmac, "compare_digest", self._note)

    def _note(self, one: bytes, other: bytes) -> bool:
        self.lengths.append((len(one), len(other)))
        return self._compare(one, other)

    def taken(self) -> list[tuple[int, int]]:
        taken, self.lengths = self.lengths, []
        return taken


async def test_right_and_wrong_keys_are_compared_alike(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    _, secret = await keys.create(uuid4().hex, ["admin"])
    comparisons = Comparisons(monkeypatch)
    assert await keys.caller(secret.encode())
    right = comparisons.taken()
    for wrong in (
        secret[:-1],
        f"{secret}x",
        secret[:18] + "x" * 43,
        f"pdfi_{'0' * 12}_{'x' * 43}",
        "x",
        "pdfi_",
    ):
        with pytest.raises(KeyUnknown):
            await keys.caller(wrong.encode())
        assert comparisons.taken() == right == [(32, 32)], wrong


def test_a_ring_compares_all_its_keys_whichever_is_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing.parse(SecretStr("a:first,b:second,c:third"))
    comparisons = Comparisons(monkeypatch)
    for key, caller in ((b"first", "a"), (b"third", "c"), (b"wrong", None)):
        found = ring.caller(key)
        assert (found and found.name) == caller
        assert comparisons.taken() == [(32, 32)] * 3


def test_a_token_is_compared_in_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(SecretStr("secret"))
    claims = Claims("key", 2**40, ("read",), ("reports*", "ä"), (uuid4(),))
    token = signer.token(claims)
    comparisons = Comparisons(monkeypatch)
    assert signer.claims(token) == claims
    assert signer.claims(f"{token[:-2]}AA") is None
    assert comparisons.taken() == [(43, 43)] * 2


async def test_many_who_ask_at_once_are_one_look_at_the_database(module_database: Database) -> None:
    keys = Keys(module_database, KeyRing())
    _, secret = await keys.create(uuid4().hex, ["admin"])
    in_use = []

    async def ask() -> Caller | None:
        asking = asyncio.create_task(keys.caller(secret.encode()))
        await asyncio.sleep(0)
        in_use.append(module_database.connections_in_use)
        return await asking

    callers = await asyncio.gather(*(ask() for _ in range(200)))
    assert len(set(map(id, callers))) > 1
    assert max(in_use) <= 1
    await keys.close()


async def test_a_key_opens_every_process_as_soon_as_it_is_made(module_database: Database) -> None:
    here, there = Keys(module_database, KeyRing()), Keys(module_database, KeyRing(), SecretStr("a secret"))
    await here.create(uuid4().hex, ["admin"])
    await there.refresh()
    key, secret = await here.create(uuid4().hex, ["read"])
    assert (await there.caller(secret.encode()) or Caller()).account == str(key.id)
    key, _ = await here.create(uuid4().hex, ["read"])
    token = Signer(SecretStr("a secret")).token(Claims(str(key.id), int(time.time()) + 60, ("read",)))
    assert (await there.bearer_of(token)).account == str(key.id)
    await asyncio.gather(here.close(), there.close())


async def test_a_key_opens_nothing_from_its_end_on(keys: Keys) -> None:
    await keys.create(uuid4().hex, ["admin"])
    ends_at = datetime.now(UTC) + timedelta(seconds=0.7)
    _, secret = await keys.create(uuid4().hex, ["read"], expires_at=ends_at)
    let_in_at = datetime.now(UTC)
    async with asyncio.timeout(10):
        with suppress(KeyUnknown):
            while caller := await keys.caller(secret.encode()):
                let_in_at = datetime.now(UTC)
                assert await keys.is_open_to(caller) or datetime.now(UTC) >= ends_at
                await asyncio.sleep(0.01)
    assert let_in_at < ends_at + timedelta(seconds=0.1)


async def test_a_machine_whose_clock_is_wrong_makes_and_takes_tokens_as_all_others_do(
    module_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = SecretStr("a secret")
    right = Keys(module_database, KeyRing(), signed)
    _, secret = await right.create(uuid4().hex, ["admin"])
    caller = await right.caller(secret.encode())
    assert caller is not None
    told = time.time
    for days in (-1, 1):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda days=days: told() + days * 86_400)
            wrong = Keys(module_database, KeyRing(), signed)
            await wrong.refresh()
            for maker, taker in ((wrong, right), (right, wrong)):
                token, expires_at = maker.token(caller, ["read"], None, None, 60)
                assert abs(expires_at - told() - 60) < 5
                assert await taker.bearer_of(token)
            await wrong.close()
    await right.close()


async def test_many_with_wrong_keys_are_few_looks_at_the_database(postgres: EmbeddedPostgres) -> None:
    database = CountingDatabase(await migrated(postgres, f"wrong_keys_{uuid4().hex}"))
    keys = Keys(database, KeyRing())
    await keys.create(uuid4().hex, ["admin"])
    began, before = time.monotonic(), database.taken
    for _ in range(5):
        wrong = [f"pdfi_{uuid4().hex[:12]}_x".encode() for _ in range(20)]
        refused = await asyncio.gather(*map(keys.caller, wrong), return_exceptions=True)
        assert {type(error) for error in refused} == {KeyUnknown}
    looks = database.taken - before
    assert looks <= 2 + (time.monotonic() - began) / ANEW_SECONDS
    await keys.close()
    await database.close()


async def test_with_a_database_that_is_not_there_all_who_ask_are_refused_together() -> None:
    nowhere = Database(f"postgresql+asyncpg://nobody@127.0.0.1:{free_port()}/none")
    keys = Keys(nowhere, KeyRing.parse(SecretStr("root:root")))
    async with asyncio.timeout(10):
        refused = await asyncio.gather(*(keys.caller(b"pdfi_x") for _ in range(50)), return_exceptions=True)
    assert {type(error) for error in refused} == {DatabaseUnavailable}
    root = await keys.caller(b"root")
    assert root is not None
    assert root.name == "root"
    await keys.close()
    await nowhere.close()


async def test_a_database_that_says_nothing_does_not_hold_the_guard_up() -> None:
    """It takes the connection and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    silent = Database(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none?ssl=disable")
    keys = Keys(silent, KeyRing())
    async with asyncio.timeout(9):
        refused = await asyncio.gather(*(keys.caller(b"pdfi_x") for _ in range(50)), return_exceptions=True)
    assert {type(error) for error in refused} == {DatabaseUnavailable}
    await keys.close()
    await silent.close()
    server.close()


async def test_a_request_asks_the_database_nothing_for_its_key(postgres: EmbeddedPostgres) -> None:
    """Once a second all keys are read, and what was counted is written, whatever comes meanwhile."""
    database = CountingDatabase(await migrated(postgres, f"keys_{uuid4().hex}"))
    keys = Keys(database, KeyRing())
    _, secret = await keys.create(uuid4().hex, ["admin"], limits={"requests_per_minute": 100_000})
    before, began = database.taken, time.monotonic()
    for _ in range(2_000):
        caller = await keys.caller(secret.encode())
        assert caller is not None
        assert keys.count_request(caller)
    assert database.taken - before <= 2 + (time.monotonic() - began) / FRESH_SECONDS
    await keys.close()
    await database.close()
