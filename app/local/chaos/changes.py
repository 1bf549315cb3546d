"""Scenarios in which clients change their mind: cancel, delete, replace."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import md5
from typing import Any
from uuid import UUID

from app.local.chaos.pdfs import Specimen
from app.local.chaos.world import PATIENCE_SECONDS, AcceptedUpload, World
from app.task_queue import TaskQueue

STOP_SECONDS = 2.0
LEADERS_KILLED = 5
SEARCH_LIMIT = 100  # all chunks of a document with fewer


async def cancel_at_random(world: World) -> None:
    """Queued or running; some get another message, as in a redelivery."""
    queue = TaskQueue(world.stack.environment["CELERY_BROKER_URL"])

    async def cancel(accepted: AcceptedUpload) -> None:
        await world.client.cancel(str(accepted.task_id))
        if world.chance.random() < 0.3:
            await queue.enqueue(accepted.task_id, is_begun=True)

    try:
        await _end_at_random(world, cancel)
    finally:
        queue.close()


async def delete_at_random(world: World) -> None:
    async def delete(accepted: AcceptedUpload) -> None:
        await world.delete(accepted.document_id)
        world.excused.setdefault(accepted.specimen.mark, "success")  # if it was ready just before

    await _end_at_random(world, delete)


async def delete_collection(world: World) -> None:
    """Whoever deletes it is killed: its documents go, and none that comes into its name meanwhile."""
    world.upload_all([*world.tiny, *world.specimens[::2]])
    await world.uploaded()
    doomed = list(world.accepted.values())
    task = await world.client.delete_collection(world.collection)
    world.upload_all(world.specimens[1::2])
    for _ in range(LEADERS_KILLED):
        await _kill_leader(world, UUID(task["task_id"]))
    await world.settle(PATIENCE_SECONDS)
    done = await world.client.task(task["task_id"], wait_seconds=PATIENCE_SECONDS)
    if done["result"] != {"status": "success", "documents": len(doomed)}:
        world.mistakes.append(f"of {len(doomed)} documents of the deleted collection went {done['progress']}")
    sights = await world.watcher.look()
    for accepted in doomed:
        is_ready = sights[accepted.task_id].status == "success"
        world.excused[accepted.specimen.mark] = "success" if is_ready else "cancelled"


async def _kill_leader(world: World, task_id: UUID) -> None:
    """Once more documents are gone; not when all are."""
    statement = "SELECT documents_done, finished_at FROM collection_deletions WHERE id = $1"
    (before,) = await world.watcher.query(statement, task_id)
    now = before
    while now["documents_done"] == before["documents_done"] and now["finished_at"] is None:
        await asyncio.sleep(0.01)
        (now,) = await world.watcher.query(statement, task_id)
    if now["finished_at"] is None:
        pid = await world.watcher.leader_pid()
        async with world.watcher.hitting([pid]):
            os.kill(pid, signal.SIGKILL)
        world.faults += 1


async def _end_at_random(world: World, end: Callable[[AcceptedUpload], Awaitable[None]]) -> None:
    world.upload_all(world.specimens)
    silences = []
    async for _ in world.beats(0.1, 0.6, at_most=len(world.specimens) // 3):
        open_ones = [
            accepted
            for mark, accepted in world.accepted.items()
            if mark not in world.excused
            and (sight := world.watcher.sights.get(accepted.task_id)) is not None
            and not sight.is_final
        ]
        if not open_ones:
            continue
        # The one in work as often as one that waits.
        in_work = [one for one in open_ones if world.watcher.sights[one.task_id].is_held]
        accepted = world.chance.choice(in_work if in_work and world.chance.random() < 0.5 else open_ones)
        await end(accepted)
        world.faults += 1
        status = (await world.watcher.look())[accepted.task_id].status
        if status == "cancelled":
            world.excused[accepted.specimen.mark] = "cancelled"
            silences.append(asyncio.create_task(_texts_after(world, accepted.specimen)))
        elif status != "success":
            world.mistakes.append(f"{accepted.specimen.mark} is {status} right after it was ended")
    await world.settle(PATIENCE_SECONDS)
    for specimen, texts in await asyncio.gather(*silences):
        if (late := _count_texts(world, specimen) - texts) > 0:
            world.mistakes.append(
                f"{late} texts of {specimen.mark} were embedded 2 s after its end, or later"
            )


async def _texts_after(world: World, specimen: Specimen) -> tuple[Specimen, int]:
    await asyncio.sleep(STOP_SECONDS)
    return specimen, _count_texts(world, specimen)


def _count_texts(world: World, specimen: Specimen) -> int:
    mark = f"{specimen.mark} "
    texts = list(world.stub.texts.items())  # the stub goes on counting, in a thread of its own
    return sum(count for text, count in texts if mark in text)


async def replace_while_searching(world: World) -> None:
    """Each search must see one version whole. The newest request wins; a damaged version changes nothing."""
    world.upload_all(world.specimens)
    seen: Counter[str] = Counter()
    replacing = asyncio.gather(*(_replace(world, versions) for versions in world.versions))
    searching = [
        asyncio.create_task(_search(world, versions, seen)) for versions in world.versions for _ in range(2)
    ]
    try:
        await replacing
    finally:
        for search in searching:
            search.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*searching)
    if seen.total() < len(world.versions) * len(world.versions[0]):
        world.mistakes.append(f"only {seen.total()} searches were made")
    world.notes.append(f"{seen.total()} searches, each saw one whole version of {len(seen)}")


async def _replace(world: World, versions: list[Specimen]) -> None:
    first, second, third, *others, damaged = versions
    accepted = await world.upload(first)
    del world.accepted[first.mark]
    await _wait(world, accepted.task_id)
    world.replaced[first.mark] = accepted.document_id
    for specimen in (second, *others):
        await _wait(world, await _put(world, accepted.document_id, specimen))
    older = await _put(world, accepted.document_id, first)
    newer = await _put(world, accepted.document_id, third)
    await _wait(world, newer)
    await _expect(world, older, {"error superseded", "success None"})  # it may have been quick
    await _expect(world, newer, {"success None"})
    failed = await _put(world, accepted.document_id, damaged)
    await _wait(world, failed)
    document = await world.client.document(str(accepted.document_id))
    if document["status"] != "ready" or (document["update"] or {}).get("status") != "error":
        world.mistakes.append(f"after a damaged version {first.mark} is {document['status']}")
    world.accepted[third.mark] = AcceptedUpload(third, accepted.document_id, newer)


async def _put(world: World, document_id: UUID, specimen: Specimen) -> UUID:
    world.faults += 1
    return UUID((await world.client.replace(str(document_id), specimen.path))["task_id"])


async def _wait(world: World, task_id: UUID) -> None:
    await world.watcher.until(lambda sights: task_id in sights and sights[task_id].is_final, PATIENCE_SECONDS)


async def _expect(world: World, task_id: UUID, endings: set[str]) -> None:
    sight = (await world.watcher.look())[task_id]
    if f"{sight.status} {sight.error_code}" not in endings:
        world.mistakes.append(f"a version ended as {sight.status} {sight.error_code}, not as {endings}")


async def _search(world: World, versions: list[Specimen], seen: Counter[str]) -> None:
    whole = {_fingerprint(text for _, text, _ in world.truths[one.mark]): one.mark for one in versions[:-1]}
    while True:
        document_id = world.replaced.get(versions[0].mark)
        if document_id is None:
            await asyncio.sleep(0.05)
            continue
        asked = {"query": "harbour lantern", "document_ids": [str(document_id)], "limit": SEARCH_LIMIT}
        answer = await world.client.search({**asked, "mode": "vector"})
        found = _fingerprint(_hash(hit) for hit in answer["data"])
        if found in whole:
            seen[whole[found]] += 1
        else:
            marks = Counter(hit["text"].split()[0] for hit in answer["data"])
            world.mistakes.append(f"a search saw no whole version: chunks of {dict(marks)}")


def _hash(hit: dict[str, Any]) -> str:
    return md5(hit["text"].encode(), usedforsecurity=False).hexdigest()


def _fingerprint(hashes: Any) -> str:
    return " ".join(sorted(hashes))
