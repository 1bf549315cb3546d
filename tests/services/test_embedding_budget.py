"""The limits of an embedding server are kept by all together, in the order of asking."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.api.health import Ready
from app.config import Settings
from app.embeddings.base import URGENT_SECONDS
from app.embeddings.budget import Budget, NoBudget
from app.errors import EmbeddingFailed, WorkHeld
from app.local.chaos.embedding_stub import EmbeddingStub, Failure
from app.local.embedded import EmbeddedPostgres
from app.resources import Services, open_services
from app.services.embedding_budget import FleetBudget
from app.services.readiness import Readiness, check_readiness
from app.services.searching import Search
from app.storage.database import Database
from tests.databases import migrated
from tests.services.test_outages import row_of, upload
from tests.services.workshop import eventually

FIFTH_SECOND = 300  # requests a minute

Found = Callable[[], Awaitable[Readiness]]


@pytest.fixture(scope="module")
async def own_database_url(postgres: EmbeddedPostgres) -> str:
    return await migrated(postgres, f"budget_{uuid4().hex}")


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    database = Database(own_database_url)
    await forget_turns(database)
    yield database
    await database.close()


@pytest.fixture
async def elsewhere(own_database_url: str) -> AsyncIterator[Database]:
    """The same database from another machine."""
    database = Database(own_database_url)
    yield database
    await database.close()


async def forget_turns(database: Database) -> None:
    async with database.autocommit() as connection:
        await connection.execute(text("DELETE FROM embedding_budget"))


def of_requests(database: Database, a_minute: int = FIFTH_SECOND) -> FleetBudget:
    return FleetBudget(database, requests_per_minute=a_minute, tokens_per_minute=0)


def of_tokens(database: Database, a_minute: int) -> FleetBudget:
    return FleetBudget(database, requests_per_minute=0, tokens_per_minute=a_minute)


class Turns:
    """Who had a turn, and when, in seconds since the first asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.names: list[str] = []
        self.seconds: list[float] = []
        self._asked: list[asyncio.Task[None]] = []
        self.begun = time.monotonic()

    async def ask(self, budget: Budget, name: str, tokens: int = 1, *, is_urgent: bool = False) -> None:
        async def take() -> None:
            await budget.wait(tokens, is_urgent=is_urgent)
            self.names.append(name)
            self.seconds.append(time.monotonic() - self.begun)

        last_turn = await self._last_turn()
        self._asked.append(asyncio.create_task(take()))
        while await self._last_turn() == last_turn:  # noqa: ASYNC110 - it is in the database
            await asyncio.sleep(0.005)

    async def _last_turn(self) -> object:
        async with self._database.autocommit() as connection:
            return await connection.scalar(text("SELECT next_at FROM embedding_budget"))

    async def all(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self._asked)


async def test_turns_come_in_the_order_of_asking_and_no_faster_than_the_limit(
    database: Database, elsewhere: Database
) -> None:
    here, there = of_requests(database), of_requests(elsewhere)
    turns = Turns(database)
    for name in ("large 1", "large 2", "large 3", "large 4"):
        await turns.ask(here, name)
    await turns.ask(there, "small")
    await turns.ask(here, "large 5")
    await turns.all()
    assert turns.names == ["large 1", "large 2", "large 3", "large 4", "small", "large 5"]
    assert turns.seconds[-1] > 5 * 0.2 - 0.05, "five pauses of a fifth of a second"


async def test_tokens_are_counted_beside_requests(database: Database) -> None:
    budget = FleetBudget(database, requests_per_minute=60_000, tokens_per_minute=60_000)
    turns = Turns(database)
    for tokens in (500, 100, 1):
        await turns.ask(budget, str(tokens), tokens)
    await turns.all()
    assert turns.names == ["500", "100", "1"]
    assert turns.seconds[1] > 0.45, "500 of 1,000 a second"
    assert turns.seconds[2] > turns.seconds[1] + 0.05


async def test_what_is_urgent_goes_first_and_puts_off_all_who_wait(
    database: Database, elsewhere: Database
) -> None:
    here, there = of_tokens(database, 60_000), of_tokens(elsewhere, 60_000)
    turns = Turns(database)
    await turns.ask(here, "first", 600)
    await turns.ask(here, "second", 300)
    await turns.ask(there, "third", 300)
    await turns.ask(there, "question", 800, is_urgent=True)
    await turns.all()
    assert turns.names == ["first", "question", "second", "third"]
    assert turns.seconds[1] < 0.6, "before the cost of the first is paid"
    assert turns.seconds[2] > 0.6 + 0.8 - 0.05, "its cost is paid by those who wait already"


async def test_an_idle_budget_lets_the_next_one_go_at_once(database: Database) -> None:
    budget = of_requests(database)
    assert await budget.wait(1, is_urgent=False) == 0
    assert await budget.is_used_up()
    await asyncio.sleep(0.25)
    assert not await budget.is_used_up()
    assert await budget.wait(1, is_urgent=False) == 0


async def test_a_pause_holds_who_waits_and_who_comes_later_and_is_not_added_to_itself(
    database: Database, elsewhere: Database
) -> None:
    here, there = of_requests(database, a_minute=60), of_requests(elsewhere, a_minute=60)
    turns = Turns(database)
    await turns.ask(here, "before")
    await turns.ask(here, "waiting")
    paused = time.monotonic() - turns.begun
    for _ in range(3):
        await there.pause(1.5)
    await turns.ask(there, "later")
    await turns.ask(there, "question", is_urgent=True)
    await turns.all()
    assert turns.names[0] == "before"
    assert turns.names[-1] == "later"
    assert min(turns.seconds[1:]) > paused + 1.5
    assert turns.seconds[-1] < paused + 6, "three pauses at once are one"


async def test_a_question_does_not_wait_for_a_long_pause(database: Database, elsewhere: Database) -> None:
    for budget in (of_requests(database), NoBudget()):
        await budget.pause(URGENT_SECONDS + 30)
        with pytest.raises(EmbeddingFailed, match=r"no more requests for (33|3[0-2]) seconds"):
            await budget.wait(1, is_urgent=True)
    with pytest.raises(EmbeddingFailed, match="no more requests"):
        await of_requests(elsewhere).wait(1, is_urgent=True)


@asynccontextmanager
async def watched(settings: Settings, *, has_limits: bool) -> AsyncIterator[tuple[Services, Found]]:
    """Services, and what `/readyz` has to tell of them."""

    async def is_up() -> bool:
        return True

    limits = {"embedding_requests_per_minute": 600 if has_limits else 0}
    async with open_services(settings.model_copy(update=limits)) as services:
        yield services, lambda: check_readiness(services.database, services.space_id, is_up)


@pytest.mark.parametrize("has_limits", [True, False])
async def test_a_pause_for_documents_alone_is_seen_and_takes_nothing_from_questions(
    database: Database, settings: Settings, *, has_limits: bool
) -> None:
    async with watched(settings, has_limits=has_limits) as (services, found):
        assert (await found()).embedder_pause is None
        await services.rag.budget.pause(URGENT_SECONDS + 30, spares_urgent=True)
        ready = await found()
        assert ready.degraded == [], "questions go on"
        assert ready.embedder_pause is not None
    await forget_turns(database)


@pytest.mark.parametrize("has_limits", [True, False])
async def test_a_pause_is_seen_by_who_asks_whether_all_is_well(
    database: Database, settings: Settings, stub: EmbeddingStub, *, has_limits: bool
) -> None:
    stub.behaviour.failures = [Failure(status=429, retry_after="100")]
    async with watched(settings, has_limits=has_limits) as (services, found):
        run = asyncio.create_task(services.rag.ingest_pdf("", await upload(services, pages=1)))

        async def is_told() -> bool:
            return (await found()).degraded == ["embedder"]

        await eventually(is_told)
        ready = await found()
        assert (ready.faults, ready.outages) == ({}, [])
        assert ready.embedder_pause is not None
        left = ready.embedder_pause.until - datetime.now(UTC)
        assert timedelta(seconds=80) < left < timedelta(seconds=101)
        (told,) = Ready.of(ready, "full").model_dump(mode="json")["pauses"]
        assert told["service"] == "embedder"
        assert "Retry-After" in told["reason"]
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
    await forget_turns(database)


async def test_a_question_goes_while_only_the_documents_tokens_are_used_up(
    database: Database, elsewhere: Database
) -> None:
    for budget in (of_requests(database), NoBudget()):
        await budget.pause(2, spares_urgent=True)
        begun = time.monotonic()
        assert await budget.wait(1, is_urgent=True) < 0.5
        assert await budget.wait(1, is_urgent=False) > 1.5
        assert time.monotonic() - begun > 1.5
    await of_requests(database).pause(URGENT_SECONDS + 30)
    with pytest.raises(EmbeddingFailed, match="no more requests"):
        await of_requests(elsewhere).wait(1, is_urgent=True)


async def test_questions_that_are_too_many_are_told_so_and_take_no_turns(database: Database) -> None:
    budget = of_requests(database, a_minute=60)
    asked = await asyncio.gather(*(budget.wait(1, is_urgent=True) for _ in range(10)), return_exceptions=True)
    refused = [one for one in asked if isinstance(one, EmbeddingFailed)]
    assert 5 <= len(refused) <= 6
    assert max(one for one in asked if isinstance(one, float)) < URGENT_SECONDS


async def test_turns_that_are_forgotten_in_a_crash_of_the_server_hold_up_nobody(database: Database) -> None:
    budget = of_requests(database)
    await budget.wait(1, is_urgent=True)
    turns = Turns(database)
    await turns.ask(budget, "waiting")
    await forget_turns(database)
    await turns.ask(budget, "new")
    await turns.all()
    assert sorted(turns.names) == ["new", "waiting"]


@pytest.fixture
def settings(own_database_url: str, embedding_url: str, tmp_path: Path) -> Settings:
    """With no broker: the budget knows none."""
    return Settings(
        _env_file=None,
        database_url=own_database_url,
        celery_broker_url="redis://127.0.0.1:1/0",
        storage_url=(tmp_path / "files").as_uri(),
        embedding_provider="openai",
        embedding_base_url=embedding_url,
        embedding_dimensions=64,
        embedding_batch_inputs=1,
        chunk_tokens=64,
        embedding_requests_per_minute=60,
    )


@pytest.mark.heavy
async def test_a_document_that_waits_for_its_turns_keeps_its_lease_and_is_charged_nothing(
    database: Database, settings: Settings, stub: EmbeddingStub
) -> None:
    async with open_services(settings) as services:
        task_id = await upload(services, pages=20)
        run = asyncio.create_task(services.rag.ingest_pdf("", task_id))

        async def is_embedding() -> bool:
            return bool((await row_of(services, task_id)).stage == "embedding")

        await eventually(is_embedding)
        await asyncio.sleep(4)  # a lease is 3 s
        row = await row_of(services, task_id)
        assert (row.status, row.stage) == ("processing", "embedding")
        with pytest.raises(WorkHeld):
            await services.rag.ingest_pdf("", task_id)
        await services.rag.give_up(task_id)
        assert (await row_of(services, task_id)).status == "processing", "its time limit is not its fault"
        assert (await services.rag.search(Search(query="tide"))).degraded == ()
        assert await run > 3
        row = await row_of(services, task_id)
        assert (row.status, row.attempt, row.retries, row.losses) == ("success", 1, 0, 0)
    assert len(stub.requests) > 2


async def test_a_small_document_is_done_long_before_a_large_one_that_began_first(
    database: Database, settings: Settings
) -> None:
    settings = settings.model_copy(update={"embedding_requests_per_minute": 150})
    async with open_services(settings) as services, open_services(settings) as others:
        large, small = await upload(services, pages=40), await upload(others, pages=1)
        run = asyncio.create_task(services.rag.ingest_pdf("", large))

        async def is_embedding() -> bool:
            return bool((await row_of(services, large)).stage == "embedding")

        await eventually(is_embedding)
        await others.rag.ingest_pdf("", small)
        row = await row_of(services, large)
        assert row.status == "processing"
        stored = row.chunks
        assert await run > stored + 5


@pytest.mark.heavy
async def test_all_wait_as_long_as_the_server_asks_one_to(
    database: Database, settings: Settings, stub: EmbeddingStub
) -> None:
    stub.behaviour.failures = [Failure(status=429, retry_after="4")]
    settings = settings.model_copy(update={"embedding_requests_per_minute": 600})
    async with open_services(settings) as services, open_services(settings) as others:
        task_ids: list[UUID] = [await upload(services, pages=1), await upload(others, pages=1)]
        begun = time.monotonic()
        first = asyncio.create_task(services.rag.ingest_pdf("", task_ids[0]))
        while not stub.requests:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await others.rag.ingest_pdf("", task_ids[1])
        assert time.monotonic() - begun > 4
        await first
        for task_id in task_ids:
            row = await row_of(services, task_id)
            assert (row.status, row.attempt, row.retries) == ("success", 1, 0)
