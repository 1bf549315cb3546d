"""The scenario in which a receiver counts what it is told while everything that tells it is killed."""

import asyncio
import time
from collections import defaultdict

import httpx
from starlette.responses import Response

from app.local.chaos.embedding_stub import serving
from app.local.chaos.webhook_receiver import WebhookReceiver
from app.local.chaos.world import PATIENCE_SECONDS, WORKERS, World

ANSWER_SECONDS = 1.0  # four at a time: much is still to be told when the last document is ready
KILLS_AFTERWARDS = 4
REFUSED = 5  # with 503; a message that met two would come again after five minutes


async def tell_webhooks(world: World) -> None:
    """Each document's end must be told; more than once only under one `webhook-id`."""
    receiver = WebhookReceiver(delay_seconds=ANSWER_SECONDS)
    with serving(receiver.app) as url:
        await _add(world, url)
        receiver.answers = [Response(status_code=503) for _ in range(REFUSED)]
        world.upload_all(world.specimens)
        async for number in world.beats(1.0, 2.5, at_most=12):
            await _kill(world, ("api", *WORKERS)[number % 3])
        await world.settle(PATIENCE_SECONDS)
        for number in range(KILLS_AFTERWARDS):
            if not _is_all_told(world, receiver):
                await _kill(world, ("api", *WORKERS)[number % 3])
        await _wait_for_all(world, receiver)
        _compare(world, receiver)
        await world.watcher.query("DELETE FROM webhooks")


async def _add(world: World, url: str) -> None:
    asked = {"url": url, "events": ["document.ready"], "collections": [world.collection]}
    async with httpx.AsyncClient(headers=world.administrator.headers, trust_env=False) as client:
        made = await client.post(f"{world.stack.url}/webhooks", json=asked)
    made.raise_for_status()


async def _kill(world: World, name: str) -> None:
    if name == "api":
        await world.stack.part(name).kill()
        world.faults += 1
    else:
        await world.kill_worker(name)
    await asyncio.sleep(world.chance.uniform(0.2, 2))
    await world.start(name)


async def _wait_for_all(world: World, receiver: WebhookReceiver) -> None:
    """Until all is told that can be: a lease left by a killed one lasts 20 s."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE_SECONDS:
        if _is_all_told(world, receiver):
            break
        await asyncio.sleep(0.2)
    world.notes.append(f"all was told {time.monotonic() - began:.1f} s after the last kill")


def _is_all_told(world: World, receiver: WebhookReceiver) -> bool:
    told = {message.content["data"]["task_id"] for message in receiver.taken}
    return {str(accepted.task_id) for accepted in world.accepted.values()} <= told


def _compare(world: World, receiver: WebhookReceiver) -> None:
    ids = defaultdict(set)
    for message in receiver.messages:
        ids[message.content["data"]["task_id"]].add(message.id)
    told = {message.content["data"]["task_id"] for message in receiver.taken}
    for mark, accepted in world.accepted.items():
        if str(accepted.task_id) not in told:
            world.mistakes.append(f"of the end of {mark} nobody was told")
        if len(ids[str(accepted.task_id)]) > 1:
            world.mistakes.append(f"the end of {mark} was told under several ids")
    again = len(receiver.messages) - len({message.id for message in receiver.messages})
    world.notes.append(f"{len(receiver.messages)} messages, {again} of them again under the same id")
