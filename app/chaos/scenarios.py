"""What is done to the stack. Each scenario breaks something while documents are ingested."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.chaos.world import WORKERS, World


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    play: Callable[[World], Awaitable[None]]
    is_short: bool = False
    """Part of the short form."""


async def kill_children(world: World) -> None:
    world.upload_all(world.specimens)
    async for _ in world.beats(0.2, 0.8, at_most=25):
        if (sight := world.someone_in_work()) is not None:
            await world.kill_holder(sight)


async def kill_workers(world: World) -> None:
    """One worker at a time, the other one alive."""
    world.upload_all(world.specimens)
    async for number in world.beats(0.8, 1.5, at_most=5):
        victim, other = WORKERS[number % 2], WORKERS[(number + 1) % 2]
        await world.watcher.until(lambda sights: any(sight.is_held for sight in sights.values()), 5)
        await world.kill_worker(victim)
        await asyncio.sleep(world.chance.uniform(1, 3))
        await world.start(victim, other)
        await asyncio.sleep(2)  # until it has taken up work


async def flush_broker(world: World) -> None:
    world.upload_all(world.specimens)
    async for _ in world.beats(0.5, 1.5, at_most=6):
        async with world.watcher.hitting():
            with world.broker() as broker:
                broker.flushall()
        world.faults += 1


SCENARIOS = (
    Scenario("child killed", kill_children, is_short=True),
    Scenario("worker killed", kill_workers, is_short=True),
    Scenario("FLUSHALL", flush_broker, is_short=True),
)
