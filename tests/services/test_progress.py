import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.errors import TaskNotFound
from app.local.embedded import EmbeddedPostgres
from app.services.feeds import Feed, Scope
from app.services.progress import ProgressWatcher, ingestion_id_of
from app.storage.database import Database
from app.storage.models import Base
from app.storage.tasks import TaskStatus, list_changes
from tests.databases import CountingDatabase, migrated


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[CountingDatabase]:
    """A database of its own, so that no worker of other tests takes the tasks."""
    database = CountingDatabase(await migrated(postgres, "progress"))
    yield database
    await database.close()


@pytest.fixture
async def watcher(database: CountingDatabase) -> AsyncIterator[ProgressWatcher]:
    watcher = ProgressWatcher(database)
    yield watcher
    await watcher.close()


async def add_ingestion(database: Database, **values: Any) -> UUID:
    row = {"id": uuid7(), "document_id": uuid7(), "filename": "a.pdf", "sha256": b"", "byte_size": 1} | values
    async with database.transaction() as connection:
        await connection.execute(Base.metadata.tables["ingestions"].insert(), row)
    return row["id"]


async def change(database: Database, ingestion_id: UUID, **values: Any) -> None:
    table = Base.metadata.tables["ingestions"]
    async with database.transaction() as connection:
        await connection.execute(
            table.update().where(table.c.id == ingestion_id).values(revision=table.c.revision + 1, **values)
        )


async def until_followed(watcher: ProgressWatcher, *, by: int) -> None:
    async with asyncio.timeout(30):
        while watcher.followers < by:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)


async def finish(database: Database, ingestion_id: UUID) -> None:
    await change(
        database, ingestion_id, status="success", pages_total=3, pages_done=3, chunks=7, engine="pdfium"
    )


def test_a_uuid_is_its_own_ingestion_however_it_is_written() -> None:
    ingestion_id = uuid7()
    assert ingestion_id_of(str(ingestion_id)) == ingestion_id
    assert ingestion_id_of(str(ingestion_id).upper()) == ingestion_id


def test_another_task_id_maps_to_the_same_ingestion_for_ever() -> None:
    assert ingestion_id_of("nightly-report-7") == UUID("4e5f741b-82a4-56f0-b658-2fb9708362e1")
    assert ingestion_id_of("nightly-report-8") != ingestion_id_of("nightly-report-7")


async def test_an_unknown_task_is_not_found(watcher: ProgressWatcher) -> None:
    with pytest.raises(TaskNotFound):
        await watcher.status(uuid7())
    with pytest.raises(TaskNotFound):
        await watcher.wait(uuid7(), 5)
    with pytest.raises(TaskNotFound):
        await anext(watcher.events(uuid7()))


async def test_a_status_says_what_the_row_says(watcher: ProgressWatcher, database: Database) -> None:
    task_id = await add_ingestion(
        database, status="processing", stage="embedding", pages_done=4, pages_total=9, chunks=12, attempt=2
    )
    status = await watcher.status(task_id)
    assert (status.status, status.stage, status.attempt) == ("processing", "embedding", 2)
    assert (status.pages_done, status.pages_total, status.chunks) == (4, 9, 12)
    assert status.queue_position is None
    assert status.result is None
    assert not status.is_final


async def test_positions_count_those_who_came_before(watcher: ProgressWatcher, database: Database) -> None:
    tasks = [await add_ingestion(database) for _ in range(3)]
    first, second, third = [(await watcher.status(task)).queue_position for task in tasks]
    assert first is not None
    assert (second, third) == (first + 1, first + 2)
    await finish(database, tasks[1])
    assert (await watcher.status(tasks[1])).queue_position is None
    async with asyncio.timeout(8):
        while (await watcher.status(tasks[2])).queue_position != first + 1:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.1)


async def test_the_queue_is_numbered_once_a_second_however_many_ask(
    watcher: ProgressWatcher, database: CountingDatabase
) -> None:
    tasks = [await add_ingestion(database) for _ in range(30)]
    began, before = time.monotonic(), len(database.fetched)
    statuses = [*await asyncio.gather(*map(watcher.status, tasks)), await watcher.status(tasks[0])]
    numberings = [statement for statement in database.fetched[before:] if "is_slow" in statement]
    places = [status.queue_position or 0 for status in statuses]
    assert places == [*range(places[0], places[0] + 30), places[0]]
    assert 1 <= len(numberings) <= 1 + time.monotonic() - began


async def test_however_many_ask_at_once_they_take_one_connection(
    watcher: ProgressWatcher, database: CountingDatabase
) -> None:
    tasks = [await add_ingestion(database) for _ in range(20)]
    began, most = database.taken, 0
    asking = asyncio.gather(*(watcher.status(tasks[number % 20]) for number in range(500)))
    while not asking.done():
        most = max(most, database.connections_in_use)
        await asyncio.sleep(0)
    assert [status.task_id for status in await asking] == [tasks[number % 20] for number in range(500)]
    assert most == 1
    assert database.taken - began <= 2


async def test_one_unknown_task_is_not_found_and_the_others_are(
    watcher: ProgressWatcher, database: Database
) -> None:
    known = await add_ingestion(database)
    answers = await asyncio.gather(watcher.status(known), watcher.status(uuid7()), return_exceptions=True)
    assert isinstance(answers[0], TaskStatus)
    assert isinstance(answers[1], TaskNotFound)


async def test_only_what_has_changed_is_read_again(database: Database) -> None:
    tasks, unknown = [await add_ingestion(database) for _ in range(3)], uuid7()
    versions = dict.fromkeys([*tasks, unknown], 0)
    found = await list_changes(database, versions)
    assert {task_id: status and status.task_id for task_id, _, status in found} == {
        **{task_id: task_id for task_id in tasks},
        unknown: None,
    }
    versions = {task_id: version for task_id, version, status in found if status}
    assert await list_changes(database, versions) == []
    async with database.transaction() as connection:
        written = text("UPDATE ingestions SET pages_done = 2 WHERE id = :id")  # whatever the revision is
        await connection.execute(written, {"id": tasks[1]})
    ((task_id, _, status),) = await list_changes(database, versions)
    assert task_id == tasks[1]
    assert status
    assert status.pages_done == 2


async def test_what_came_after_the_last_numbering_stands_at_the_end(
    watcher: ProgressWatcher, database: Database
) -> None:
    last = (await watcher.status(await add_ingestion(database))).queue_position
    newer = (await watcher.status(await add_ingestion(database))).queue_position
    assert last is not None
    assert newer == last + 1


async def test_the_result_of_a_success_counts_pages_and_chunks(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database, pages_failed=[2], pages_without_text=[3])
    await finish(database, task_id)
    status = await watcher.status(task_id)
    assert status.result == {
        "status": "success",
        "chunks": 7,
        "document_id": str(status.document_id),
        "pages": 3,
        "pages_failed": [2],
        "pages_without_text": [3],
        "engine": "pdfium",
    }


@pytest.mark.parametrize(
    ("row", "code", "message", "retryable"),
    [
        ({"error_code": "encrypted", "error_message": "Locked."}, "encrypted", "Locked.", False),
        ({"error_code": "embedding_failed", "error_message": "Busy."}, "embedding_failed", "Busy.", True),
        ({"error_code": "no_text"}, "no_text", "The PDF has no text that could be read.", False),
        ({"status": "cancelled"}, "cancelled", "The ingestion was cancelled.", True),
        ({"error_code": "internal_error", "error_message": "Ours."}, "internal_error", "Ours.", True),
    ],
)
async def test_the_result_of_a_failure_has_a_code_a_sentence_and_whether_to_retry(
    watcher: ProgressWatcher,
    database: Database,
    row: dict[str, Any],
    code: str,
    message: str,
    retryable: bool,
) -> None:
    task_id = await add_ingestion(database, **{"status": "error"} | row)
    assert (await watcher.status(task_id)).result == {
        "status": "error",
        "message": message,
        "code": code,
        "retryable": retryable,
    }


async def test_waiting_for_a_final_task_answers_at_once(watcher: ProgressWatcher, database: Database) -> None:
    task_id = await add_ingestion(database, status="cancelled")
    async with asyncio.timeout(30):
        assert (await watcher.wait(task_id, 60)).status == "cancelled"


async def test_a_wait_ends_with_the_verdict(watcher: ProgressWatcher, database: Database) -> None:
    task_id = await add_ingestion(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 60))
    await asyncio.sleep(0.1)
    await change(database, task_id, status="processing")
    await asyncio.sleep(0.4)
    assert not waiting.done()
    await finish(database, task_id)
    async with asyncio.timeout(30):
        assert (await waiting).status == "success"


async def test_a_wait_ends_with_the_time_and_the_newest_status(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 1.5))
    await asyncio.sleep(0.1)
    await change(database, task_id, status="processing", pages_done=5)
    began = time.monotonic()
    status = await waiting
    assert time.monotonic() - began < 30
    assert (status.status, status.pages_done) == ("processing", 5)
    assert watcher.followers == 0


async def test_streams_of_many_share_the_look_of_all_who_wait(
    watcher: ProgressWatcher, database: CountingDatabase
) -> None:
    tasks = [await add_ingestion(database, status="processing") for _ in range(5)]
    feeds = [await watcher.feed(Scope(frozenset(tasks))) for _ in range(10)]
    feeds += [await watcher.feed(Scope()) for _ in range(10)]
    seen: list[list[TaskStatus]] = [[] for _ in feeds]

    async def read(feed: Feed, into: list[TaskStatus]) -> None:
        async with aclosing(watcher.changes(feed)) as changes:
            async for status in changes:
                into.append(status)

    streams = [asyncio.create_task(read(*pair)) for pair in zip(feeds, seen, strict=True)]
    waiting = asyncio.create_task(watcher.wait(tasks[0], 60))
    await until_followed(watcher, by=len(feeds) + 1)
    before = database.taken
    await asyncio.sleep(1.1)
    assert 1 <= database.taken - before <= 10  # changes and streams
    for task in tasks:
        await finish(database, task)
    async with asyncio.timeout(30):
        await asyncio.gather(waiting, *streams[:10])  # those of named tasks end with the last of them
        while not all({status.task_id for status in ended(one)} >= set(tasks) for one in seen):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    assert watcher.followers == 0


def ended(statuses: list[TaskStatus]) -> list[TaskStatus]:
    return [status for status in statuses if status.is_final]


async def test_who_reads_a_stream_slowly_gets_the_newest_and_not_the_past(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database, status="processing")
    feed = await watcher.feed(Scope(frozenset([task_id])))
    async with asyncio.timeout(30), aclosing(watcher.changes(feed)) as changes:
        assert (await anext(changes)).pages_done == 0
        for page in range(1, 4):
            await change(database, task_id, pages_done=page)
            await asyncio.sleep(0.4)
        assert (await anext(changes)).pages_done == 3
        await finish(database, task_id)
        assert [status.status async for status in changes] == ["success"]


async def test_a_stream_of_unknown_tasks_is_refused(watcher: ProgressWatcher) -> None:
    with pytest.raises(TaskNotFound):
        await watcher.feed(Scope(frozenset([uuid7()])))


async def test_a_task_whose_row_is_removed_leaves_its_stream(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database, status="processing")
    feed = await watcher.feed(Scope(frozenset([task_id])))
    async with asyncio.timeout(30), aclosing(watcher.changes(feed)) as changes:
        await anext(changes)
        async with database.transaction() as connection:
            await connection.execute(text("DELETE FROM ingestions WHERE id = :id"), {"id": task_id})
        assert [status async for status in changes] == []


async def test_all_who_wait_share_one_query(watcher: ProgressWatcher, database: CountingDatabase) -> None:
    tasks = [await add_ingestion(database) for _ in range(20)]
    waits = [asyncio.create_task(watcher.wait(task, 60)) for task in tasks * 5]
    await until_followed(watcher, by=len(waits))
    before = database.taken
    await asyncio.sleep(1.1)
    assert 1 <= database.taken - before <= 5
    for task in tasks:
        await finish(database, task)
    async with asyncio.timeout(30):
        assert {(await wait).status for wait in waits} == {"success"}


async def test_nobody_waiting_means_no_query(watcher: ProgressWatcher, database: CountingDatabase) -> None:
    task_id = await add_ingestion(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 60))
    await asyncio.sleep(0.3)
    assert watcher.followers == 1
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert watcher.followers == 0
    await asyncio.sleep(0.4)  # the query under way may end
    before = database.taken
    await asyncio.sleep(0.6)
    assert database.taken == before
    await finish(database, task_id)
    assert (await watcher.wait(task_id, 1)).status == "success"  # and it can be waited for again


async def test_events_show_each_change_up_to_the_verdict(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database)
    events = watcher.events(task_id)
    async with asyncio.timeout(30):
        assert (await anext(events)).status == "queued"
        for pages in (1, 2):
            await change(database, task_id, status="processing", pages_done=pages, pages_total=3)
            status = await first(events, lambda status: status.status == "processing")
            assert (status.pages_done, status.revision) == (pages, pages)
        await finish(database, task_id)
        rest = [status async for status in events]
    assert [(status.status, status.pages_done) for status in rest] == [("success", 3)]


async def test_who_reads_slowly_skips_what_is_past(watcher: ProgressWatcher, database: Database) -> None:
    task_id = await add_ingestion(database, status="processing")
    quick, slow = watcher.events(task_id), watcher.events(task_id)
    await anext(quick)
    await anext(slow)
    slowly = asyncio.create_task(anext(slow))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        for pages in (1, 2, 3):
            await change(database, task_id, pages_done=pages)
            assert (await anext(quick)).pages_done == pages
        assert (await slowly).pages_done == 1
        assert (await anext(slow)).pages_done == 3
    await quick.aclose()
    await slow.aclose()
    assert watcher.followers == 0


async def first(events: AsyncIterator[TaskStatus], is_wanted: Callable[[TaskStatus], bool]) -> TaskStatus:
    """The next event that is wanted; a change of the place in the queue may come before."""
    async for status in events:
        if is_wanted(status):
            return status
    raise AssertionError("the stream ended before")


async def test_a_task_whose_row_goes_away_ends_its_waits(
    watcher: ProgressWatcher, database: Database
) -> None:
    task_id = await add_ingestion(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 60))
    await asyncio.sleep(0.1)
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM ingestions WHERE id = :id"), {"id": task_id})
    async with asyncio.timeout(30):
        assert (await waiting).status == "queued"


async def test_stopping_ends_waits_and_streams_at_once(database: CountingDatabase) -> None:
    task_id = await add_ingestion(database)
    watcher = ProgressWatcher(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 60))
    events = watcher.events(task_id)
    await anext(events)
    following = asyncio.create_task(anext(events, None))
    await until_followed(watcher, by=2)
    watcher.stop()
    async with asyncio.timeout(30):
        assert (await waiting).status == "queued"
        assert await following is None
    async with asyncio.timeout(30):
        assert (await watcher.wait(task_id, 60)).status == "queued"  # nor does a new wait begin
    await watcher.close()


async def test_a_database_that_goes_away_for_a_while_ends_no_wait(
    watcher: ProgressWatcher, database: Database, postgres: EmbeddedPostgres
) -> None:
    control = Database(postgres.url("postgres"))
    task_id = await add_ingestion(database)
    waiting = asyncio.create_task(watcher.wait(task_id, 60))
    await until_followed(watcher, by=1)

    async with control.transaction() as connection:
        await connection.execute(text("ALTER DATABASE progress ALLOW_CONNECTIONS false"))
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'progress'")
        )
    await asyncio.sleep(1)
    assert not waiting.done()
    async with control.transaction() as connection:
        await connection.execute(text("ALTER DATABASE progress ALLOW_CONNECTIONS true"))
    await finish(database, task_id)
    async with asyncio.timeout(30):
        assert (await waiting).status == "success"
    await control.close()
