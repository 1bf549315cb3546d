import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from app.config import Settings
from app.services.progress import ingestion_id_of
from app.storage.models import Base
from tests.processes import ApiProcess, environment_of

FIELDS = {
    "task_id",
    "document_id",
    "status",
    "progress",
    "queue_position",
    "attempt",
    "next_attempt_at",
    "result",
    "created_at",
    "started_at",
    "finished_at",
}
AddTask = Callable[..., Awaitable[str]]
ChangeTask = Callable[..., Awaitable[None]]
ingestions = Base.metadata.tables["ingestions"]


@pytest.fixture
def add_task(served) -> AddTask:
    async def add(**values: Any) -> str:
        row = {"id": uuid7(), "document_id": uuid7(), "filename": "a.pdf", "sha256": b"", "byte_size": 1}
        row |= values
        async with served.services.database.transaction() as connection:
            await connection.execute(ingestions.insert(), row)
        return str(row["id"])

    return add


@pytest.fixture
def change_task(served) -> ChangeTask:
    async def change(task_id: str, **values: Any) -> None:
        async with served.services.database.transaction() as connection:
            await connection.execute(
                ingestions.update()
                .where(ingestions.c.id == UUID(task_id))
                .values(revision=ingestions.c.revision + 1, **values)
            )

    return change


async def read_events(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            yield {"comment": line}
        elif line:
            name, _, value = line.partition(": ")
            event[name] = value
        else:
            if event:
                yield event
            event = {}


async def test_a_task_is_shown_as_the_contract_says(client: httpx.AsyncClient, add_task: AddTask) -> None:
    task_id = await add_task(
        status="processing", stage="embedding", pages_done=4, pages_total=9, chunks=12, attempt=1
    )
    answer = await client.get(f"/tasks/{task_id}")
    assert answer.status_code == 200
    task = answer.json()
    assert set(task) == FIELDS
    assert task["task_id"] == task_id
    assert task["status"] == "processing"
    assert task["progress"] == {"stage": "embedding", "pages_done": 4, "pages_total": 9, "chunks": 12}
    assert task["queue_position"] is None
    assert task["result"] is None
    assert task["created_at"].endswith("Z")


async def test_the_verdict_of_a_task_is_the_dict_the_celery_task_returns(
    client: httpx.AsyncClient, add_task: AddTask
) -> None:
    failed = await add_task(status="error", error_code="encrypted", error_message="Locked.")
    assert (await client.get(f"/tasks/{failed}")).json()["result"] == {
        "status": "error",
        "message": "Locked.",
        "code": "encrypted",
        "retryable": False,
    }
    done = await add_task(
        status="success", pages_total=2, pages_done=2, pages_failed=[2], chunks=5, engine="pdfium"
    )
    task = (await client.get(f"/tasks/{done}")).json()
    assert task["result"] == {
        "status": "success",
        "chunks": 5,
        "document_id": task["document_id"],
        "pages": 2,
        "pages_failed": [2],
        "pages_without_text": [],
        "engine": "pdfium",
    }


async def test_a_task_id_that_is_no_uuid_finds_its_ingestion(
    client: httpx.AsyncClient, add_task: AddTask
) -> None:
    task_id = await add_task(id=ingestion_id_of("nightly: report #7"))
    answer = await client.get("/tasks/nightly%3A%20report%20%237")
    assert answer.json()["task_id"] == task_id


async def test_a_plain_poll_is_answered_as_one_whose_query_is_validated(
    client: httpx.AsyncClient, add_task: AddTask
) -> None:
    name = f"gone-{uuid7()}"
    (await client.post("/collections", json={"name": name})).raise_for_status()
    deletion = (await client.delete(f"/collections/{name}")).json()["task_id"]
    (await client.get(f"/tasks/{deletion}", params={"wait": 30})).raise_for_status()  # then it is final
    success = {"status": "success", "pages_total": 2, "pages_failed": [2], "engine": "pdfium"}
    known = [await add_task(**success), await add_task(status="error", error_code="encrypted"), deletion]
    for task_id in (*known, str(uuid7())):
        plain, checked = [await client.get(f"/tasks/{task_id}{query}") for query in ("", "?wait=0")]
        assert (plain.status_code, plain.content) == (checked.status_code, checked.content)
        assert list(plain.headers) == list(checked.headers)
        assert plain.headers["content-type"] == checked.headers["content-type"]


@pytest.mark.parametrize("call", ["", "?wait=5", "/events"])
async def test_an_unknown_task_is_a_404(client: httpx.AsyncClient, call: str) -> None:
    answer = await client.get(f"/tasks/{uuid7()}{call}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "task_not_found"


async def test_cancelling_an_unknown_task_is_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.post(f"/tasks/{uuid7()}/cancel")).json()["code"] == "task_not_found"


@pytest.mark.parametrize("wait", ["-1", "soon", "nan"])
async def test_a_wait_must_be_a_number_of_seconds(
    client: httpx.AsyncClient, add_task: AddTask, wait: str
) -> None:
    answer = await client.get(f"/tasks/{await add_task()}", params={"wait": wait})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["where"] == "query.wait"


async def test_waiting_for_a_final_task_answers_at_once(client: httpx.AsyncClient, add_task: AddTask) -> None:
    began = time.monotonic()
    answer = await client.get(f"/tasks/{await add_task(status='cancelled')}?wait=1e9")
    assert answer.json()["result"]["code"] == "cancelled"
    assert time.monotonic() - began < 30


async def test_a_wait_answers_when_the_verdict_is_there(
    client: httpx.AsyncClient, add_task: AddTask, change_task: ChangeTask
) -> None:
    task_id = await add_task()
    waiting = asyncio.create_task(client.get(f"/tasks/{task_id}?wait=60"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await change_task(task_id, status="error", error_code="no_text")
    async with asyncio.timeout(30):
        assert (await waiting).json()["result"]["code"] == "no_text"


async def test_a_wait_answers_when_the_time_is_up(client: httpx.AsyncClient, add_task: AddTask) -> None:
    began = time.monotonic()
    answer = await client.get(f"/tasks/{await add_task()}?wait=0.5")
    assert answer.json()["status"] == "queued"
    assert 0.5 <= time.monotonic() - began < 30


@pytest.mark.heavy
async def test_a_wait_lasts_60_seconds_at_most(served, add_task: AddTask) -> None:
    began = time.monotonic()
    async with httpx.AsyncClient(timeout=120) as client:
        answer = await client.get(f"{served.url}/tasks/{await add_task()}?wait=3600")
    assert answer.json()["status"] == "queued"
    assert 59 < time.monotonic() - began < 90


async def test_a_client_that_goes_away_ends_its_wait_and_its_stream(served, add_task: AddTask) -> None:
    task_id = await add_task()
    progress = served.services.progress
    for path in ("?wait=60", "/events"):
        host = served.url.removeprefix("http://")
        _, writer = await asyncio.open_connection(*host.split(":"))
        with closing(writer):
            writer.write(f"GET /tasks/{task_id}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            async with asyncio.timeout(30):
                while not progress.followers:  # noqa: ASYNC110 - nothing tells it
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            while progress.followers:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)


async def test_a_stream_shows_progress_and_ends_with_done(
    client: httpx.AsyncClient, add_task: AddTask, change_task: ChangeTask
) -> None:
    task_id = await add_task(status="processing")
    async with client.stream("GET", f"/tasks/{task_id}/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = read_events(response)
        async with asyncio.timeout(30):
            first = await anext(events)
            await change_task(task_id, pages_done=3, pages_total=5)
            second = await anext(events)
            await change_task(task_id, status="success", pages_done=5, chunks=1, engine="pdfium")
            rest = [event async for event in events]  # ends: the server closes the stream
    assert [event["event"] for event in (first, second, *rest)] == ["progress", "progress", "done"]
    assert [event["id"] for event in (first, second, *rest)] == ["0", "1", "2"]
    assert set(json.loads(first["data"])) == FIELDS
    assert json.loads(second["data"])["progress"]["pages_done"] == 3
    assert json.loads(rest[0]["data"]) == (await client.get(f"/tasks/{task_id}")).json()


async def test_a_browser_that_has_seen_the_end_is_told_not_to_come_again(
    client: httpx.AsyncClient, add_task: AddTask
) -> None:
    task_id = await add_task(status="cancelled", revision=7)
    seen = await client.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": "7"})
    assert seen.status_code == 204
    unseen = await client.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": "6"})
    assert "event: done" in unseen.text


async def test_a_quiet_stream_is_kept_alive(client: httpx.AsyncClient, add_task: AddTask) -> None:
    task_id = await add_task(status="processing")  # of one that waits the place in the queue may change
    async with client.stream("GET", f"/tasks/{task_id}/events") as response, asyncio.timeout(30):
        events = read_events(response)
        assert (await anext(events))["event"] == "progress"
        assert "comment" in await anext(events)


async def test_a_cancelled_task_stays_cancelled(client: httpx.AsyncClient, add_task: AddTask) -> None:
    task_id = await add_task()
    waiting = asyncio.create_task(client.get(f"/tasks/{task_id}?wait=60"))
    await asyncio.sleep(0.3)
    answer = await client.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] == "cancelled"
    async with asyncio.timeout(30):
        assert (await waiting).json()["result"]["code"] == "cancelled"
    again = await client.post(f"/tasks/{task_id}/cancel")
    assert (again.status_code, again.json()) == (202, answer.json())


async def test_cancelling_a_finished_task_changes_nothing(
    client: httpx.AsyncClient, add_task: AddTask
) -> None:
    task_id = await add_task(status="success", pages_total=1, chunks=1, engine="pdfium")
    assert (await client.post(f"/tasks/{task_id}/cancel")).json()["status"] == "success"


async def test_a_server_told_to_go_ends_waits_and_streams_at_once(
    settings: Settings, add_task: AddTask, tmp_path: Path
) -> None:
    task_id = await add_task()
    with ApiProcess(environment_of(settings), tmp_path / "log") as api:
        async with httpx.AsyncClient(base_url=api.url, timeout=90) as client:
            waiting = asyncio.create_task(client.get(f"/tasks/{task_id}?wait=60"))
            async with client.stream("GET", f"/tasks/{task_id}/events") as response:
                events = read_events(response)
                await anext(events)
                await asyncio.sleep(0.3)
                began = time.monotonic()
                api.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(30):
                    assert (await waiting).json()["status"] == "queued"
                    assert [event async for event in events] == []
        await asyncio.to_thread(api.process.wait, 30)
        log = api.output()
    assert time.monotonic() - began < 30
    assert "Application shutdown complete" in log
    assert "Traceback" not in log


async def read_until(events: AsyncIterator[dict[str, str]], count: int) -> list[tuple[str, dict[str, Any]]]:
    """So many events, without the comments that keep a stream alive."""
    seen: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(30):
        while len(seen) < count:
            event = await anext(events)
            if "event" in event:
                seen.append((event["event"], json.loads(event["data"])))
    return seen


async def test_one_stream_shows_all_the_tasks_that_are_named_to_the_last_end(
    client: httpx.AsyncClient, add_task: AddTask, change_task: ChangeTask
) -> None:
    ids = [await add_task(status="processing", filename=f"{n}.pdf") for n in range(3)]
    other = await add_task(status="processing")
    named = ",".join([*ids, str(uuid7())])
    async with client.stream("GET", f"/tasks/events?ids={named}") as response:
        events = read_events(response)
        first = await read_until(events, 3)
        assert {task["filename"] for _, task in first} == {"0.pdf", "1.pdf", "2.pdf"}
        assert {name for name, _ in first} == {"progress"}
        await change_task(other, pages_done=1)
        await change_task(ids[1], pages_done=2, pages_total=4)
        ((name, task),) = await read_until(events, 1)
        assert (name, task["task_id"], task["progress"]["pages_done"]) == ("progress", ids[1], 2)
        for task_id in ids:
            await change_task(task_id, status="error", error_code="no_text")
        async with asyncio.timeout(30):
            last = [event async for event in events if "event" in event]  # ends: nothing is left to follow
    assert [event["event"] for event in last] == ["done"] * 3


async def test_a_stream_of_a_collection_shows_what_comes_and_nothing_of_others(
    client: httpx.AsyncClient, shelf: Callable[..., Awaitable[str]], change_task: ChangeTask
) -> None:
    mine, others = f"c-{uuid7()}", f"c-{uuid7()}"
    old = await shelf(mine, status="processing")
    await shelf(others, status="processing")
    async with client.stream("GET", "/tasks/events", params={"collection": mine}) as response:
        events = read_events(response)
        ((_, task),) = await read_until(events, 1)
        assert (task["task_id"], task["collection"]) == (old, mine)
        await shelf(others, status="processing")
        new = await shelf(mine)
        ((name, task),) = await read_until(events, 1)
        assert (name, task["task_id"], task["status"]) == ("progress", new, "queued")
        short = await shelf(mine, status="cancelled")  # it was over before anybody looked
        ((name, task),) = await read_until(events, 1)
        assert (name, task["task_id"]) == ("done", short)
        await change_task(old, status="success", pages_total=1, pages_done=1, chunks=1, engine="pdfium")
        ((name, task),) = await read_until(events, 1)
        assert (name, task["task_id"], task["result"]["chunks"]) == ("done", old, 1)


@pytest.fixture
def shelf(served, add_task: AddTask) -> Callable[..., Awaitable[str]]:
    """Adds a task with its document, in a collection."""

    async def add(collection: str, **values: Any) -> str:
        document_id = uuid7()
        task_id = await add_task(document_id=document_id, **values)
        row = {"id": document_id, "collection": collection, "latest_ingestion_id": UUID(task_id)}
        async with served.services.database.transaction() as connection:
            await connection.execute(Base.metadata.tables["documents"].insert(), row)
        return task_id

    return add


@pytest.mark.parametrize("wrong", ["ids=", "ids=a&collection=b", f"ids={','.join('x' * 201)}"])
async def test_what_cannot_be_followed_is_refused(client: httpx.AsyncClient, wrong: str) -> None:
    assert (await client.get(f"/tasks/events?{wrong}")).json()["code"] == "invalid_request"


async def test_a_stream_of_unknown_tasks_is_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/tasks/events?ids={uuid7()}")).json()["code"] == "task_not_found"


async def test_a_client_that_goes_away_ends_its_stream_of_many(served, add_task: AddTask) -> None:
    progress = served.services.progress
    async with (
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
        client.stream("GET", f"/tasks/events?ids={await add_task(status='processing')}") as response,
    ):
        await read_until(read_events(response), 1)
        assert progress.followers == 1
    async with asyncio.timeout(30):
        while progress.followers:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)


async def test_tasks_are_listed_page_by_page_and_chosen_by_what_they_are(
    client: httpx.AsyncClient, shelf: Callable[..., Awaitable[str]]
) -> None:
    mine = f"c-{uuid7()}"
    failed = [await shelf(mine, status="error", error_code=code) for code in ("no_text", "encrypted")]
    queued = await shelf(mine)
    done = await shelf(mine, status="success", pages_total=2, chunks=1, engine="pdfium")

    async def listed(**wanted: Any) -> list[str]:
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            answer = await client.get("/tasks", params={"collection": mine, "limit": 3, **wanted, **after})
            page = answer.json()
            seen += [task["task_id"] for task in page["data"]]
            if page["next"] is None:
                return seen
            after = {"after": page["next"]}

    assert await listed() == [done, queued, *reversed(failed)]
    assert await listed(status=["error", "success"]) == [done, *reversed(failed)]
    assert await listed(code=["encrypted"]) == [failed[1]]
    assert await listed(latest=True) == [done, queued, *reversed(failed)]
    assert await listed(document_id=str(uuid7())) == []
    assert (await client.get("/tasks?after=x")).json()["code"] == "invalid_request"


async def test_an_earlier_run_of_a_document_is_listed_but_not_as_its_newest(
    client: httpx.AsyncClient, shelf: Callable[..., Awaitable[str]], add_task: AddTask
) -> None:
    mine = f"c-{uuid7()}"
    newest = await shelf(mine, status="error", error_code="no_text")
    document_id = UUID((await client.get(f"/tasks/{newest}")).json()["document_id"])
    await add_task(document_id=document_id, status="error", error_code="worker_lost")
    all_of_it = (await client.get("/tasks", params={"document_id": str(document_id)})).json()["data"]
    assert [task["is_latest"] for task in all_of_it] == [False, True]
    latest = (await client.get("/tasks", params={"collection": mine, "latest": True})).json()["data"]
    assert [task["task_id"] for task in latest] == [newest]


async def test_all_that_wait_are_cancelled_at_once(
    client: httpx.AsyncClient, shelf: Callable[..., Awaitable[str]]
) -> None:
    mine, others = f"c-{uuid7()}", f"c-{uuid7()}"
    waiting = [await shelf(mine), await shelf(mine, status="retrying")]
    at_work, elsewhere = await shelf(mine, status="processing"), await shelf(others)
    answer = await client.post("/tasks/cancel", json={"collection": mine})
    assert (answer.status_code, answer.json()) == (202, {"count": 2})
    statuses = [
        (await client.get(f"/tasks/{one}")).json()["status"] for one in (*waiting, at_work, elsewhere)
    ]
    assert statuses == ["cancelled", "cancelled", "processing", "queued"]
