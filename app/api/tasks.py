"""Where ingestions stand: asked once, waited for, or followed, one or many; and stopping them."""

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.api.collection_schemas import DeletionTask
from app.api.dependencies import (
    CollectionsDep,
    DocumentsDep,
    ProgressDep,
    visible_collections,
    visible_tasks,
)
from app.api.problems import problem_responses
from app.api.schemas import CollectionName
from app.api.security import path_of
from app.api.task_schemas import CancelledTasks, CancelRequest, ListedTask, Task, TaskList, TaskQuery
from app.api.uploads import refuse
from app.errors import InvalidQuery, TaskNotFound
from app.services.collection_service import CollectionService
from app.services.progress import VisibleTasks, ingestion_id_of
from app.storage.tasks import TaskPlace, TaskStatus

MAX_WAIT_SECONDS = 60
MAX_FOLLOWED_IDS = 200
HEARTBEAT_SECONDS = 5

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PLAIN = re.compile(f"/tasks/({_UUID})")
_CURSOR = re.compile(f"([0-9]{{1,17}}):({_UUID})")
Status = TypeVar("Status")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(prefix="/tasks", tags=["tasks"], responses=problem_responses(InvalidQuery))
NOT_FOUND = problem_responses(TaskNotFound)


def _events_of(schema: str, **fields: Any) -> dict[str, Any]:
    """A stream, described: OpenAPI 3.2 has a word for its parts, FastAPI writes it into its 3.1 as well."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{schema}"},
    }
    properties = {"event": {"enum": ["progress", "done"]}, "data": data, **fields}
    event = {"type": "object", "properties": properties, "required": [*properties]}
    return {"text/event-stream": {"itemSchema": event}}


TaskId = Annotated[
    str,
    Path(max_length=255, description="The `task_id` of the upload's answer, or the id of a Celery task."),
]
WaitSeconds = Annotated[
    float,
    Query(
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for a final status, at most 60; what is over that counts as 60.",
    ),
]


@router.get("")
async def list_tasks(progress: ProgressDep, wanted: Annotated[TaskQuery, Query()]) -> TaskList:
    """Tasks, those asked for last first."""
    statuses = await progress.list_tasks(wanted.condition(), _place(wanted.after), wanted.limit + 1)
    return TaskList.of(statuses, wanted.limit, ListedTask.of, _cursor)


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: for each task `progress` at each change, then `done`; the "
            "data is a task as `GET /tasks` lists it.",
            "content": _events_of("ListedTask"),
        },
        **NOT_FOUND,
    },
)
async def follow_tasks(
    progress: ProgressDep,
    *,
    collection: Annotated[CollectionName | None, Query(description="Only those of this collection.")] = None,
    ids: Annotated[
        str | None,
        Query(
            max_length=40 * MAX_FOLLOWED_IDS,
            description=f"Only these tasks, at most {MAX_FOLLOWED_IDS}, with commas between them.",
        ),
    ] = None,
) -> Response:
    """Follow many tasks on one stream.

    With `ids` it shows these and ends with the last of them. Else it goes on, with all that come: up to 200
    in work, as many next in the queue, and what was asked for in the last 10 seconds. It starts with where
    each stands: who connects again misses nothing but an end, which `GET /tasks` tells.
    """
    if ids is not None and collection is not None:
        refuse("query", "ids", "must not be given together with collection")
    statuses = await progress.feed(None if ids is None else _named(ids), collection)
    return EventSourceResponse(_listed_events(statuses), ping=HEARTBEAT_SECONDS)


@router.post("/cancel", status_code=202)
async def cancel_waiting_tasks(documents: DocumentsDep, body: CancelRequest | None = None) -> CancelledTasks:
    """Cancel all tasks that wait (`queued` and `retrying`), of one collection or of all."""
    return CancelledTasks(count=await documents.cancel_waiting((body or CancelRequest()).collection))


@router.get("/{task_id}", responses=NOT_FOUND)
async def get_task(
    task_id: TaskId,
    request: Request,
    progress: ProgressDep,
    collections: CollectionsDep,
    wait: WaitSeconds = 0,
) -> Task | DeletionTask:
    """Where a task stands; with `wait`, answers when the status is final or the time is up.

    A task that deletes a collection is one to poll only: it is in no list or stream, and not to be cancelled.
    """
    ingestion_id, seconds = ingestion_id_of(task_id), min(wait, MAX_WAIT_SECONDS)
    if not seconds:
        return await _task(ingestion_id, progress, collections)
    try:
        waiting = progress.wait(ingestion_id, seconds)
        status = await _while_connected(request, waiting) or await progress.status(ingestion_id)
        return Task.of(status)
    except TaskNotFound:
        deleting = collections.deletion(ingestion_id, seconds)
        deletion = await _while_connected(request, deleting) or await collections.deletion(ingestion_id)
        return DeletionTask.of(deletion)


class PlainPoll(BaseRoute):
    """`GET /tasks/{id}` of a UUID with nothing to validate: what pollers ask, again and again.

    Answers as `get_task` does, which has its description. To solve its dependencies and check what it
    returns takes FastAPI three times as long as all of this.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return Match.NONE, {}
        asked = _PLAIN.fullmatch(path_of(scope))
        return (Match.FULL, {"path_params": {"task_id": asked[1]}}) if asked else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        task_id = ingestion_id_of(request.path_params["task_id"])
        task = await _task(task_id, await visible_tasks(request), await visible_collections(request))
        answer = Response(task.model_dump_json(by_alias=True), media_type="application/json")
        await answer(scope, receive, send)


@router.get(
    "/{task_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: `progress` at each change, then `done`; the data is a task "
            "as `GET /tasks/{task_id}` answers it.",
            "content": _events_of("Task", id={"type": "string"}),
        },
        204: {"description": "The client has seen the end (`Last-Event-ID`): do not connect again."},
        **NOT_FOUND,
    },
)
async def follow_task(
    task_id: TaskId,
    progress: ProgressDep,
    last_event_id: Annotated[
        str | None, Header(max_length=255, description="Sent by browsers when they connect again.")
    ] = None,
) -> Response:
    """Follow a task. Each event is a snapshot, its id the row's revision: there is no history to catch up."""
    statuses = progress.events(ingestion_id_of(task_id))
    first = await anext(statuses)  # an unknown task is a 404, not an empty stream
    if first.is_final and last_event_id == str(first.revision):
        return Response(status_code=204)
    return EventSourceResponse(_events(first, statuses), ping=HEARTBEAT_SECONDS)


@router.post("/{task_id}/cancel", status_code=202, responses=NOT_FOUND)
async def cancel_task(task_id: TaskId, documents: DocumentsDep, progress: ProgressDep) -> Task:
    """Stop a task, queued or running, and remove what it has stored. One that has ended stays as it is."""
    ingestion_id = ingestion_id_of(task_id)
    await documents.cancel(ingestion_id)
    return Task.of(await progress.status(ingestion_id))


async def _task(
    ingestion_id: UUID, progress: VisibleTasks, collections: CollectionService
) -> Task | DeletionTask:
    """As it is now. Raises TaskNotFound."""
    try:
        return Task.of(await progress.status(ingestion_id))
    except TaskNotFound:
        return DeletionTask.of(await collections.deletion(ingestion_id))


async def _events(first: TaskStatus, later: AsyncGenerator[TaskStatus]) -> AsyncGenerator[ServerSentEvent]:
    yield _event(first)
    async with aclosing(later):
        async for status in later:
            yield _event(status)


async def _listed_events(statuses: AsyncGenerator[TaskStatus]) -> AsyncGenerator[ServerSentEvent]:
    async with aclosing(statuses):
        async for status in statuses:
            yield ServerSentEvent(ListedTask.of(status).model_dump_json(), event=_event_name(status))


def _event(status: TaskStatus) -> ServerSentEvent:
    return ServerSentEvent(
        Task.of(status).model_dump_json(), event=_event_name(status), id=str(status.revision)
    )


def _event_name(status: TaskStatus) -> str:
    return "done" if status.is_final else "progress"


def _named(ids: str) -> frozenset[UUID]:
    named = [one.strip() for one in ids.split(",") if one.strip()]
    if not 0 < len(named) <= MAX_FOLLOWED_IDS:
        refuse("query", "ids", f"must be 1 to {MAX_FOLLOWED_IDS} ids with commas between them")
    return frozenset(map(ingestion_id_of, named))


def _cursor(status: TaskStatus) -> str:
    return f"{(status.created_at - _EPOCH) // timedelta(microseconds=1)}:{status.task_id}"


def _place(after: str | None) -> TaskPlace | None:
    if after is None:
        return None
    if (cursor := _CURSOR.fullmatch(after)) is None:
        refuse("query", "after", "must be the `next` of the answer before")
    return TaskPlace(_EPOCH + timedelta(microseconds=int(cursor[1])), UUID(cursor[2]))


async def _while_connected(request: Request, work: Coroutine[Any, Any, Status]) -> Status | None:
    """The work's result, or None when the client went away first; then the work is cancelled."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnection(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
