"""Scenarios in which a fault goes on for a while, or comes again and again."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from uuid import UUID

import psutil

from app.local.chaos.watcher import Sight
from app.local.chaos.world import PATIENCE_SECONDS, WORKERS, AcceptedUpload, World

CRASH_SECONDS = 120.0
CRASH_PAUSE_SECONDS = (1.5, 5.0)
FLEET_SECONDS = 60.0
FLEET_PAUSE_SECONDS = (0.1, 1.0)
AGAIN_SECONDS = 15.0  # a pause of 3 s, and a free process
OUTAGE_SECONDS = 12.0  # the fourth probe comes after 15 s
BEGUN_BEFORE = 8
SEARCH_SECONDS = 3.5  # 3 s for the embedder, and the words
PAUSED_SECONDS = 6.0
SLOW_SECONDS = 100.0  # before two minutes of waiting make them like any other
SETTLE_SECONDS = 240.0


async def crash_loop(world: World) -> None:
    """A child or a whole worker, again and again, whatever it has in work and however often that was hit."""
    world.upload_all(world.large)
    deadline = time.monotonic() + _shorter(world, CRASH_SECONDS)
    while time.monotonic() < deadline and world.is_in_work:
        await asyncio.sleep(world.chance.uniform(*CRASH_PAUSE_SECONDS))
        name = world.chance.choice(WORKERS)
        if world.chance.random() < 0.5:
            await world.kill_worker(name)
            await world.start(name)
        else:
            _kill_one(world, world.children_of(name))
    await world.settle(SETTLE_SECONDS)


def _kill_one(world: World, children: Sequence[psutil.Process]) -> None:
    if children:
        world.chance.choice(children).kill()
        world.faults += 1


async def fleet_crash_loop(world: World) -> None:
    """All workers at once, for a minute, each time as soon as something is in work again."""
    world.upload_all(world.specimens)
    deadline = time.monotonic() + _shorter(world, FLEET_SECONDS)
    while await _fleet_works(world) and time.monotonic() < deadline:
        await asyncio.sleep(world.chance.uniform(*FLEET_PAUSE_SECONDS))
        for name in WORKERS:
            await world.kill_worker(name)
        await world.start(*WORKERS)
    began = time.monotonic()
    await world.watcher.until(lambda _: world.watcher.standing == 0, SETTLE_SECONDS)
    seconds = time.monotonic() - began
    world.notes.append(f"what was in work went on within {seconds:.1f} s of a fleet that works again")
    if seconds > AGAIN_SECONDS:
        world.mistakes.append(f"what was in work went on only {seconds:.1f} s later")
    await world.settle(SETTLE_SECONDS)


async def _fleet_works(world: World) -> bool:
    """Wait until living workers have something in work; False when there is nothing left to do."""

    def is_there(sights: dict[UUID, Sight]) -> bool:
        living = {child.pid for name in WORKERS for child in world.children_of(name)}
        return any(sight.is_held and sight.holder_pid in living for sight in sights.values())

    await world.watcher.until(lambda sights: is_there(sights) or not world.is_in_work, PATIENCE_SECONDS)
    return world.is_in_work


async def revoked_key(world: World) -> None:
    """The embedder refuses the key, of work that has begun and of 200 documents that come meanwhile."""
    await asyncio.gather(*map(world.upload, world.specimens[:BEGUN_BEFORE]))
    await world.wait_for_work()
    world.stub.behaviour.key = "another key"
    world.faults += 1
    world.upload_all(world.tiny)
    await world.uploaded()
    await asyncio.sleep(_shorter(world, OUTAGE_SECONDS))
    await _note_degraded(world)
    world.stub.behaviour.key = None
    await world.settle(SETTLE_SECONDS)
    await expect_uncharged(world)


async def hanging_embedder(world: World) -> None:
    """It takes connections and does not answer; searches have to do with words."""
    first, later = world.halves
    world.upload_all(first)
    await world.settle(PATIENCE_SECONDS)
    was_seconds, world.stub.behaviour.delay_seconds = world.stub.behaviour.delay_seconds, 600.0
    world.faults += 1
    world.upload_all(later)
    deadline = time.monotonic() + _shorter(world, OUTAGE_SECONDS)
    longest, searches = 0.0, 0
    while time.monotonic() < deadline:
        began = time.monotonic()
        query = f"harbour lantern {searches}"  # the vector of one that was asked before is known
        found = await world.client.search({"query": query, "collection": world.collection})
        longest, searches = max(longest, time.monotonic() - began), searches + 1
        if found["degraded"] != ["embedder"] or not found["data"]:
            world.mistakes.append(f"a search found {len(found['data'])}, without {found['degraded']}")
        await asyncio.sleep(0.5)
    world.notes.append(f"{searches} searches took {longest:.2f} s at most")
    if longest > SEARCH_SECONDS:
        world.mistakes.append(f"a search took {longest:.1f} s")
    world.stub.behaviour.delay_seconds = was_seconds
    await world.settle(SETTLE_SECONDS)
    await expect_uncharged(world)


async def paused_sweeper(world: World) -> None:
    """SIGSTOP for whoever leads the sweepers; a child of another worker is killed meanwhile."""
    world.upload_all(world.specimens)
    async for _ in world.beats(1.0, 2.0, at_most=3):
        await world.wait_for_work()
        leader = await world.watcher.leader_pid()
        os.kill(leader, signal.SIGSTOP)
        try:
            began = time.monotonic()
            others = [child for name in WORKERS for child in world.children_of(name) if child.pid != leader]
            _kill_one(world, others)
            await asyncio.sleep(PAUSED_SECONDS)
            now = await world.watcher.leader_pid()
        finally:
            os.kill(leader, signal.SIGCONT)
        if now == leader:
            world.mistakes.append(f"{time.monotonic() - began:.0f} s later nobody else swept")
    await world.settle(SETTLE_SECONDS)


async def slow_files_in_a_stream(world: World) -> None:
    """Files that take seconds to read, and others that never stop coming until all of those have ended."""
    slow = [await world.upload(specimen) for specimen in world.slow]
    world.faults += len(slow)
    others = list(world.specimens)
    deadline = time.monotonic() + SLOW_SECONDS
    while not all(_has_ended(world, one) for one in slow) and time.monotonic() < deadline:
        if others:
            await world.upload(others.pop())
        await asyncio.sleep(0.3)
    waiting = sum(not _has_ended(world, one) for one in slow)
    if waiting:
        world.mistakes.append(f"{waiting} slow files had no verdict after {SLOW_SECONDS:.0f} s")
    world.upload_all(others)
    await world.settle(SETTLE_SECONDS)


def _has_ended(world: World, accepted: AcceptedUpload) -> bool:
    sight = world.watcher.sights.get(accepted.task_id)
    return sight is not None and sight.is_final


def _shorter(world: World, seconds: float) -> float:
    return seconds / 3 if world.is_short else seconds


async def _note_degraded(world: World) -> None:
    ready = await world.client.ready()
    if ready["degraded"] != ["embedder"]:
        world.mistakes.append(f"/readyz said degraded: {ready['degraded']}")
    world.notes.extend(f"{one['service']}: {one['reason']}" for one in ready["outages"])


async def expect_uncharged(world: World) -> None:
    rows = await world.watcher.query(
        "SELECT count(*) FILTER (WHERE deaths > 0) AS died, max(attempt) AS attempts FROM ingestions"
        " WHERE created_at >= $1",
        world.watcher.since,
    )
    world.notes.append(f"{rows[0]['attempts']} attempts at most")
    if rows[0]["died"]:
        world.mistakes.append(f"{rows[0]['died']} documents were charged with a death")
