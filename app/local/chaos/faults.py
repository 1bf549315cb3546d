"""Scenarios in which processes, servers and the embedder fail."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from uuid import UUID

import httpx
import psutil

from app.local.chaos.embedding_stub import GARBAGE, Failure
from app.local.chaos.pdfs import Specimen
from app.local.chaos.watcher import Sight
from app.local.chaos.world import PATIENCE_SECONDS, WORKERS, World
from app.services.pipeline import EMBEDDING_BATCHES_AT_ONCE

STOPPED_SECONDS = (3.5, 5.0)  # longer than the lease of 3 s
POISON_LIMIT_SECONDS = 180.0
POISON_ATTEMPTS = 6
BATCH_TEXTS = 64


async def kill_children(world: World) -> None:
    world.upload_all(world.specimens)
    async for _ in world.beats(0.5, 2.5, at_most=20):
        if (sight := world.someone_in_work()) is not None:
            await world.kill_holder(sight)


async def kill_one_of_two_workers(world: World) -> None:
    world.upload_all(world.specimens)
    async for number in world.beats(0.5, 1.5, at_most=6):
        victim = WORKERS[number % 2]
        await world.wait_for_work(victim)
        await world.kill_worker(victim)
        await asyncio.sleep(world.chance.uniform(1, 4))
        await world.start(victim)
        await world.wait_for_work(victim)


async def kill_the_only_worker(world: World) -> None:
    only, other = WORKERS
    await world.stack.part(other).stop()
    world.upload_all(world.specimens)
    async for _ in world.beats(2.0, 4.0, at_most=4):
        await world.wait_for_work(only)
        await world.kill_worker(only)
        await world.start(only)


async def stop_and_wake(world: World) -> None:
    """SIGSTOP past the lease: a child in work, one in the middle of a write, a whole worker; then SIGCONT."""
    world.stub.behaviour.delay_seconds *= 2
    world.upload_all(world.specimens)
    in_mid_write = 0
    async for number in world.beats(0.3, 1.0, at_most=6):
        await world.wait_for_work()
        if number % 3 == 2:
            await _stop_worker(world, WORKERS[number % 2])
            continue
        writing = await _writing_child(world) if number % 3 == 0 else None
        in_mid_write += writing is not None
        sight = world.someone_in_work()
        pid = writing or (sight and sight.holder_pid)
        if pid:
            await _stop(world, [pid], partial(os.kill, pid))  # one found writing is stopped already
    world.notes.append(f"{in_mid_write} of {world.faults} were stopped in the middle of a write")


async def _stop_worker(world: World, name: str) -> None:
    if (pid := world.stack.part(name).pid) is not None:
        await _stop(world, [child.pid for child in world.children_of(name)], partial(os.killpg, pid))


async def _stop(world: World, pids: list[int], send: Callable[[int], None]) -> None:
    async with world.watcher.hitting(pids):
        send(signal.SIGSTOP)
    world.faults += 1
    try:
        await asyncio.sleep(world.chance.uniform(*STOPPED_SECONDS))
    finally:
        send(signal.SIGCONT)


async def _writing_child(world: World) -> int | None:
    """Stop a child while Postgres runs its insert of chunks; None when none was seen writing in time."""
    deadline = time.monotonic() + 5
    ports = _ports_of_children(world)
    while time.monotonic() < deadline:
        rows = await world.watcher.query(
            "SELECT client_port FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND query LIKE '%new_chunks%'"
        )
        for row in rows:
            if (pid := ports.get(row["client_port"])) is not None:
                os.kill(pid, signal.SIGSTOP)
                return pid
        if not rows and int(time.monotonic() * 10) % 10 == 0:  # children come and go
            ports = _ports_of_children(world)
    return None


def _ports_of_children(world: World) -> dict[int, int]:
    """The pid of each child by the local ports of its connections."""
    pids = {sight.holder_pid for sight in world.watcher.sights.values() if sight.is_held}
    ports = {}
    for pid in pids - {None}:
        try:
            for connection in psutil.Process(pid).net_connections("tcp"):
                ports[connection.laddr.port] = pid
        except psutil.NoSuchProcess:
            continue
    return {port: pid for port, pid in ports.items() if pid is not None}


async def flush_broker(world: World) -> None:
    world.upload_all(world.specimens)
    async for _ in world.beats(0.5, 2.0, at_most=8):
        async with world.watcher.hitting():
            await asyncio.to_thread(_flush, world)
        world.faults += 1


def _flush(world: World) -> None:
    with world.broker() as broker:
        broker.flushall()


async def restart_broker(world: World) -> None:
    world.upload_all(world.specimens)
    async for number in world.beats(1.0, 2.0, at_most=4):
        valkey = world.stack.part("valkey")
        async with world.watcher.hitting():
            await (valkey.kill() if number % 2 else valkey.stop())
            await asyncio.sleep(world.chance.uniform(0.1, 3))
            await valkey.start()
        world.faults += 1


async def restart_database(world: World) -> None:
    """Postgres' fast shutdown, and its immediate one: a crash recovery follows."""
    world.upload_all(world.specimens)
    async for number in world.beats(1.0, 2.0, at_most=4):
        postgres = world.stack.part("postgres")
        async with world.watcher.hitting():
            if number % 2 and postgres.pid is not None:
                os.kill(postgres.pid, signal.SIGQUIT)
            await postgres.stop()
            await asyncio.sleep(world.chance.uniform(0.1, 3))
            await postgres.start()
        world.faults += 1


async def kill_api(world: World) -> None:
    """In mid-upload; and after the row is there, when the broker could not take the message."""
    started, held_back = world.halves
    world.upload_all(started)
    for number, specimen in enumerate(held_back):
        if number % 8 == 0:
            await _kill_api_in_upload(world, specimen)
        elif number % 8 == 4:
            await _kill_api_before_message(world, specimen)
        if specimen.mark not in world.accepted:
            await world.upload(specimen)


async def _kill_api_in_upload(world: World, specimen: Specimen) -> None:
    api = world.stack.part("api")
    is_half_sent = asyncio.Event()
    is_dead = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        content = specimen.path.read_bytes()
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="torn.pdf"\r\n\r\n'
        yield head + content[: len(content) // 2]
        is_half_sent.set()
        await is_dead.wait()
        yield content[len(content) // 2 :] + b"\r\n--x--\r\n"

    async def send() -> bool:
        headers = {"Content-Type": "multipart/form-data; boundary=x"} | world.client.headers
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            try:
                await client.post(f"{world.stack.url}/documents", content=body(), headers=headers)
            except httpx.TransportError:
                return False
        return True

    sending = asyncio.create_task(send())
    await is_half_sent.wait()
    async with world.watcher.hitting():
        await api.kill()
        is_dead.set()
        await api.start()
    world.faults += 1
    world.unaccepted += 1
    if await sending:
        world.mistakes.append("a killed API has answered an upload")


async def _kill_api_before_message(world: World, specimen: Specimen) -> None:
    api, valkey = world.stack.part("api"), world.stack.part("valkey")
    async with world.watcher.hitting():
        await valkey.kill()
        await world.upload(specimen)
        await api.kill()
        await asyncio.gather(valkey.start(), api.start())
    world.faults += 1


async def fail_embedder(world: World) -> None:
    world.upload_all(world.specimens)
    garbage = sorted(GARBAGE)
    weathers: list[Callable[[], list[Failure]]] = [
        lambda: [Failure(status=429, retry_after="1")] * 10_000,
        lambda: [Failure(status=500)] * 10_000,
        lambda: [Failure(delay_seconds=30)] * 10_000,
        lambda: [Failure(garbage=world.chance.choice(garbage)) for _ in range(10_000)],
    ]
    async for number in world.beats(1.0, 2.0, at_most=8):
        async with world.watcher.hitting():
            world.stub.behaviour.failures = weathers[number % len(weathers)]()
            await asyncio.sleep(world.chance.uniform(1, 3))
            world.stub.behaviour.failures = []
        world.faults += 1


async def poison(world: World) -> None:
    """Whoever holds one of two documents is killed, as by a PDF that crashes its reader's host."""
    poisonous = world.specimens[3 : 3 + 2]
    # The first batch takes a while: the kill comes before anything is stored, as with a real one.
    world.stub.behaviour.slow = {f"{specimen.mark} ": 1.0 for specimen in poisonous}
    world.excused.update({specimen.mark: "error" for specimen in poisonous})
    world.upload_all(world.specimens)
    seconds = await asyncio.gather(*(_poison(world, specimen) for specimen in poisonous))
    world.notes.append(f"verdict of the poisonous {max(seconds):.1f} s after they first killed")


async def _poison(world: World, specimen: Specimen) -> float:
    """Seconds from the first kill to the verdict."""
    await world.watcher.until(lambda _: specimen.mark in world.accepted, PATIENCE_SECONDS)
    task_id = world.accepted[specimen.mark].task_id
    first, killed_epoch = 0.0, 0
    deadline = time.monotonic() + POISON_LIMIT_SECONDS + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        sight = world.watcher.sights.get(task_id)
        if sight is not None and sight.is_final:
            break
        if sight is not None and sight.is_held and sight.epoch > killed_epoch:
            first, killed_epoch = first or time.monotonic(), sight.epoch
            await world.kill_holder(sight)
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - first
    attempts, code = (sight.attempt, sight.error_code) if sight else (0, None)
    if code != "worker_lost" or attempts > POISON_ATTEMPTS or seconds > POISON_LIMIT_SECONDS:
        world.mistakes.append(f"poison ended as {code} after {attempts} attempts and {seconds:.1f} s")
    return seconds


async def kill_near_the_end(world: World) -> None:
    """One long document at a time, in batches of 64: at 80 % its holder is killed.

    What was in flight then is embedded again, and nothing that was stored.
    """
    await world.restart(*WORKERS, settings={"EMBEDDING_BATCH_INPUTS": str(BATCH_TEXTS)})
    for specimen in world.longest:
        world.stub.texts.clear()
        task_id = (await world.upload(specimen)).task_id
        chunks = len(world.truths[specimen.mark])

        await world.watcher.until(partial(_is_near_the_end, task_id, 0.8 * chunks), PATIENCE_SECONDS)
        sight = world.watcher.sights[task_id]
        await world.kill_holder(sight)
        await world.settle(PATIENCE_SECONDS)
        again = sum(count - 1 for count in list(world.stub.texts.values()))
        world.notes.append(f"killed at {sight.chunks} of {chunks} chunks: {again} embedded again")
        if again > EMBEDDING_BATCHES_AT_ONCE * BATCH_TEXTS:
            world.mistakes.append(f"{again} texts were embedded again, more than are in flight at once")
    await world.restart(*WORKERS, settings={"EMBEDDING_BATCH_INPUTS": str(world.batch_inputs)})


def _is_near_the_end(task_id: UUID, chunks: float, sights: dict[UUID, Sight]) -> bool:
    return task_id in sights and (sights[task_id].chunks >= chunks or sights[task_id].is_final)
