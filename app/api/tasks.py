"""Where an ingestion stands: asked once, waited for, or followed; and stopping it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.dependencies import DocumentsDep, ProgressDep
from app.api.problems import problem_responses
from app.api.schemas import Task
from app.errors import InvalidQuery, TaskNotFound
from app.services.progress import ingestion_id_of
from app.storage.tasks import TaskStatus

MAX_WAIT_SECONDS = 60
HEARTBEAT_SECONDS = 5

router = APIRouter(prefix="/tasks", tags=["tasks"], responses=problem_responses(TaskNotFound, InvalidQuery))

# OpenAPI 3.2 has a word for the parts of a stream; FastAPI writes it into its 3.1 as well.
EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["progress", "done"]},
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Task"},
        },
    },
    "required": ["event", "id", "data"],
}

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


@router.get("/{task_id}")
async def get_task(task_id: TaskId, request: Request, progress: ProgressDep, wait: WaitSeconds = 0) -> Task:
    """Where a task stands; with `wait`, answers when the status is final or the time is up."""
    ingestion_id = ingestion_id_of(task_id)
    if not wait:
        return Task.of(await progress.status(ingestion_id))
    waiting = progress.wait(ingestion_id, min(wait, MAX_WAIT_SECONDS))
    status = await _while_connected(request, waiting) or await progress.status(ingestion_id)
    return Task.of(status)


@router.get(
    "/{task_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: `progress` at each change, then `done`; the data is a task "
            "as `GET /tasks/{task_id}` answers it.",
            "content": {"text/event-stream": {"itemSchema": EVENT}},
        },
        204: {"description": "The client has seen the end (`Last-Event-ID`): do not connect again."},
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


@router.post("/{task_id}/cancel", status_code=202)
async def cancel_task(task_id: TaskId, documents: DocumentsDep, progress: ProgressDep) -> Task:
    """Stop a task, queued or running, and remove what it has stored. One that has ended stays as it is."""
    ingestion_id = ingestion_id_of(task_id)
    await documents.cancel(ingestion_id)
    return Task.of(await progress.status(ingestion_id))


async def _events(first: TaskStatus, later: AsyncGenerator[TaskStatus]) -> AsyncGenerator[ServerSentEvent]:
    yield _event(first)
    async with aclosing(later):
        async for status in later:
            yield _event(status)


def _event(status: TaskStatus) -> ServerSentEvent:
    return ServerSentEvent(
        Task.of(status).model_dump_json(),
        event="done" if status.is_final else "progress",
        id=str(status.revision),
    )


async def _while_connected(request: Request, work: Coroutine[Any, Any, TaskStatus]) -> TaskStatus | None:
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
