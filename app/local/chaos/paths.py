"""Tasks that name a path, as a client without HTTP sends them: until one is begun, only the broker has it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from uuid import UUID, uuid4

from app.local.chaos.loops import SETTLE_SECONDS
from app.local.chaos.pdfs import Specimen
from app.local.chaos.world import PATIENCE_SECONDS, WORKERS, AcceptedUpload, World
from app.task_queue import TASK_NAME, new_celery

BEGIN_SECONDS = 90.0  # a message that a dead worker has is redelivered after 60 to 70
SILENT_SECONDS = 7.0  # who asks gives up after 5
LISTS = ("celery", "celery\x06\x163")


async def break_delivery(world: World) -> None:
    """The broker falls silent as it hands out a message; workers are told to stop, their children killed."""
    sent: dict[UUID, Specimen] = {}
    for number, specimen in enumerate(world.specimens):
        if number % 8 == 0:
            await world.settle(PATIENCE_SECONDS)  # then somebody waits for the message
            sent |= await asyncio.to_thread(_send_into_silence, world, specimen)
        else:
            sent |= await asyncio.to_thread(send_paths, world, [specimen])
        if number % 8 == 3:
            await world.restart(world.chance.choice(WORKERS))
        elif number % 8 == 6 and (children := [one for name in WORKERS for one in world.children_of(name)]):
            world.chance.choice(children).kill()
            world.unaccepted += 1  # it may have been taking a file in
        world.faults += number % 8 in {0, 3, 6}
    await settle_paths(world, sent)


def _send_into_silence(world: World, specimen: Specimen) -> dict[UUID, Specimen]:
    pid = world.stack.part("valkey").pid
    assert pid is not None
    sent = send_paths(world, [specimen], then=lambda: os.kill(pid, signal.SIGSTOP))
    try:
        time.sleep(SILENT_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    return sent


def send_paths(
    world: World, specimens: Iterable[Specimen], *, then: Callable[[], None] = lambda: None
) -> dict[UUID, Specimen]:
    """What was sent by the ids of the tasks; `then` is called at the very moment."""
    sent = {uuid4(): specimen for specimen in specimens}
    with new_celery(world.stack.environment["CELERY_BROKER_URL"], None) as celery:
        for task_id, specimen in sent.items():
            celery.send_task(TASK_NAME, args=[str(specimen.path)], task_id=str(task_id))
        then()
    return sent


async def settle_paths(world: World, sent: Mapping[UUID, Specimen]) -> None:
    """Wait until all are begun and have ended; from then on they count as any upload."""
    await world.watcher.until(lambda sights: sent.keys() <= sights.keys(), BEGIN_SECONDS)
    await world.settle(SETTLE_SECONDS)
    for task_id, specimen in sent.items():
        if (sight := world.watcher.sights.get(task_id)) is None:
            where = await asyncio.to_thread(_whereabouts, world, str(task_id))
            world.mistakes.append(f"nobody began {specimen.mark}, task {task_id}: its message is {where}")
        else:
            world.accepted[specimen.mark] = AcceptedUpload(specimen, sight.document_id, task_id)


def _whereabouts(world: World, task_id: str) -> str:
    """Where the broker has a message, and which result."""
    with world.broker() as broker:
        kept = {name: broker.lrange(name, 0, -1) for name in LISTS}
        kept["handed out"] = broker.hvals("pdf_ingest_unacked")
        result = broker.get(f"celery-task-meta-{task_id}")
    places = [name for name, messages in kept.items() if any(task_id.encode() in one for one in messages)]
    return f"in {places or 'no list'}, its result {result!r}"
