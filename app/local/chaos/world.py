"""A stack of its own with everything a scenario may break, and what it has been given to ingest."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import psutil
import redis

from app.local.chaos.audit import Content
from app.local.chaos.embedding_stub import EmbeddingStub, serving
from app.local.chaos.pdfs import Documents, Specimen
from app.local.chaos.watcher import Sight, Watcher
from app.local.client import Client, RequestRefused, ServiceUnreachable
from app.local.embedded import free_port
from app.local.stack import Stack
from app.local.supervisor import Say

WORKERS = ("worker-1", "worker-2")
PROCESSES = 2
DIMENSIONS = 64
BATCH_INPUTS = 8  # small, so that a document has many moments to be hit in
EMBEDDING_SECONDS = 0.04
SHORT_EMBEDDING_SECONDS = 0.3  # the short form has less to ingest, and it must last as long
EMBEDDING_TIMEOUT_SECONDS = 2
UPLOADS_AT_ONCE = 8
SHORTER = 6
PATIENCE_SECONDS = 60.0
_TRY_AGAIN = {"storage_failed", "not_ready", "internal_error", ""}


@dataclass(frozen=True, slots=True)
class AcceptedUpload:
    """An upload that got its 202."""

    specimen: Specimen
    document_id: UUID
    task_id: UUID


@dataclass(kw_only=True)
class World(Documents):
    """The stack, its embedder and the eyes on its database, for all scenarios; what one has been given."""

    stack: Stack
    client: Client
    """With a key that is bound to what the scenario has ingested."""
    administrator: Client
    stub: EmbeddingStub
    watcher: Watcher
    chance: Random
    is_short: bool
    batch_inputs: int = BATCH_INPUTS
    truths: dict[str, Content] = field(default_factory=dict)
    """By the specimen's mark: what an undisturbed run has stored."""
    collection: str = ""
    accepted: dict[str, AcceptedUpload] = field(default_factory=dict)
    excused: dict[str, str] = field(default_factory=dict)
    """By mark: the status that the scenario itself has brought about."""
    replaced: dict[str, UUID] = field(default_factory=dict)
    """Documents whose versions are replaced, by the mark of the first."""
    unaccepted: int = 0
    """Uploads that were not accepted, each of which may leave a file for the sweeper."""
    faults: int = 0
    notes: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    uploading: asyncio.Task[None] | None = None

    # -- what is ingested

    async def begin(self, collection: str) -> None:
        self.collection = collection
        places = [collection, "default"]  # where the documents of tasks are that name a path
        bound = {"name": collection, "scopes": ["read", "write"], "collections": places}
        self.client.use_key((await self.administrator.create_key(bound))["secret"])
        self.accepted, self.excused, self.replaced = {}, {}, {}
        self.notes, self.mistakes, self.faults, self.unaccepted = [], [], 0, 0
        self.client.torn_uploads = 0
        self.uploading = None
        delay_seconds = SHORT_EMBEDDING_SECONDS if self.is_short and self.truths else EMBEDDING_SECONDS
        self.stub.behaviour.change({"delay_seconds": delay_seconds, "failures": [], "slow": {}, "key": None})
        self.stub.texts.clear()
        await self.watcher.begin()

    def upload_all(self, specimens: Iterable[Specimen]) -> None:
        """In the background: scenarios begin while files still come in."""
        self.uploading = asyncio.create_task(self._upload_all(list(specimens)))

    async def upload(self, specimen: Specimen) -> AcceptedUpload:
        """Sent again until it is accepted, as a client would that must not lose it."""
        while True:
            try:
                answer = await self.client.upload(specimen.path, {"collection": self.collection})
                break
            except ServiceUnreachable:
                pass
            except RequestRefused as refusal:
                if refusal.code not in _TRY_AGAIN:
                    raise
                self.unaccepted += 1
                await asyncio.sleep(0.2)
        accepted = AcceptedUpload(specimen, UUID(answer["document_id"]), UUID(answer["task_id"]))
        self.accepted[specimen.mark] = accepted
        return accepted

    @property
    def torn(self) -> int:
        """Uploads that may each have left a file for the sweeper: refused by a failure, or cut off."""
        return self.unaccepted + self.client.torn_uploads

    async def delete(self, document_id: UUID) -> None:
        """Asked for again while the service cannot; a document that is gone already is as good as deleted."""
        while True:
            try:
                await self.client.delete(str(document_id))
            except RequestRefused as refusal:
                if refusal.code in _TRY_AGAIN:
                    await asyncio.sleep(refusal.retry_after_seconds)
                    continue
                if refusal.code != "document_not_found":
                    raise
            return

    async def _upload_all(self, specimens: list[Specimen]) -> None:
        slots = asyncio.Semaphore(UPLOADS_AT_ONCE)

        async def send(specimen: Specimen) -> None:
            async with slots:
                await self.upload(specimen)

        async with asyncio.TaskGroup() as group:
            for specimen in specimens:
                group.create_task(send(specimen))

    @property
    def is_in_work(self) -> bool:
        """Whether files still come in or wait for their verdict."""
        if self.uploading is not None and not self.uploading.done():
            return True
        return any(not sight.is_final for sight in self.watcher.sights.values())

    async def uploaded(self) -> None:
        """Wait until what `upload_all` was given last has come in."""
        if self.uploading is not None:
            await self.uploading

    async def settle(self, seconds: float) -> bool:
        """Wait for all verdicts; whether they came in time."""
        deadline = time.monotonic() + seconds
        await self.uploaded()
        await self.watcher.look()
        while self.is_in_work:
            self.watcher.check()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def beats(self, least: float, most: float, *, at_most: int) -> AsyncIterator[int]:
        """Random moments, as long as there is work to disturb; fewer in the short form."""
        for number in range(max(2, at_most // SHORTER) if self.is_short else at_most):
            await asyncio.sleep(self.chance.uniform(least, most))
            if not self.is_in_work:
                return
            yield number

    # -- what is broken

    def someone_in_work(self) -> Sight | None:
        """Work to hit."""
        candidates = [sight for sight in self.watcher.sights.values() if sight.is_held and _may_be_hit(sight)]
        return self.chance.choice(candidates) if candidates else None

    async def wait_for_work(self, worker: str | None = None) -> None:
        """Until some is in work, with this worker, all of which may be hit."""

        def is_there(sights: dict[UUID, Sight]) -> bool:
            held = [sight for sight in sights.values() if sight.is_held]
            pids = {sight.holder_pid for sight in held}
            if worker is not None:
                pids &= {child.pid for child in self.children_of(worker)}
            return bool(pids) and all(map(_may_be_hit, held))

        await self.watcher.until(lambda sights: is_there(sights) or not self.is_in_work, PATIENCE_SECONDS)

    def children_of(self, worker: str) -> list[psutil.Process]:
        pid = self.stack.part(worker).pid
        return [] if pid is None else psutil.Process(pid).children()

    async def kill_holder(self, sight: Sight) -> None:
        """SIGKILL for the prefork child that holds the lease."""
        if sight.holder_pid is None or not is_worker_child(sight.holder_pid):
            return
        async with self.watcher.hitting([sight.holder_pid]):
            os.kill(sight.holder_pid, signal.SIGKILL)
        self.faults += 1

    async def kill_worker(self, name: str) -> None:
        """SIGKILL for the worker, its children and what those have started."""
        pid = self.stack.part(name).pid
        if pid is None:
            return
        async with self.watcher.hitting(child.pid for child in self.children_of(name)):
            os.killpg(pid, signal.SIGKILL)
            await self.stack.part(name).kill()
        self.faults += 1

    async def start(self, *names: str) -> None:
        await asyncio.gather(
            *(self.stack.part(name).start() for name in names if self.stack.part(name).pid is None)
        )

    async def restart(self, *names: str, settings: dict[str, str] | None = None) -> None:
        """Stop parts in order and start them again, with other settings if any are given."""
        self.stack.environment.update(settings or {})
        for name in names:
            await self.stack.part(name).stop()
        await self.start(*names)

    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.stack.environment["CELERY_BROKER_URL"], socket_timeout=5)


def _may_be_hit(sight: Sight) -> bool:
    """Not what was hit already and has made no progress since: it would go on after a pause only."""
    return sight.deaths < 1


def is_worker_child(pid: int) -> bool:
    """Whether it lives, and is not stopped."""
    try:
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def open_world(
    data_dir: Path, documents: Documents, *, seed: int, is_short: bool, say: Say
) -> AsyncIterator[World]:
    """Start everything; at the end stop everything. Raises ServerFailed."""
    key = uuid4().hex
    stub = EmbeddingStub(dimensions=DIMENSIONS, delay_seconds=EMBEDDING_SECONDS)
    with serving(stub.app) as embedding_url:
        stack = Stack(
            data_dir,
            port=free_port(),
            workers=PROCESSES,
            say=say,
            worker_names=WORKERS,
            settings=_settings(embedding_url, data_dir.parent, key),
        )
        async with (
            stack,
            Client(stack.url) as client,
            Client(stack.url) as administrator,
            Watcher(stack.environment["DATABASE_URL"]) as watcher,
        ):
            administrator.use_key(key)
            yield World(
                stack=stack,
                client=client,
                administrator=administrator,
                stub=stub,
                watcher=watcher,
                chance=Random(seed),  # noqa: S311 - the same every time is the point
                is_short=is_short,
                **vars(documents),
            )


def _settings(embedding_url: str, documents: Path, key: str) -> dict[str, str]:
    return {
        "INGEST_FOLDERS": str(documents),
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": embedding_url,
        "EMBEDDING_API_KEY": uuid4().hex,
        "EMBEDDING_MODEL": "chaos",
        "EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        "EMBEDDING_BATCH_INPUTS": str(BATCH_INPUTS),
        "EMBEDDING_TIMEOUT_SECONDS": str(EMBEDDING_TIMEOUT_SECONDS),
        "CHUNK_TOKENS": "256",
        "MAX_QUEUED": "10000",
        "DATABASE_PGBOUNCER": "false",
        "API_KEYS": f"administrator:{key}",
        "WEBHOOK_ALLOW_PRIVATE": "true",
        "LOG_LEVEL": "INFO",
    }
