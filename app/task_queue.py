"""The doorbell: Celery messages that tell a worker to look at an ingestion's row.

A message may get lost, come twice or come late: the row in Postgres decides, and the sweeper rings again.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import KombuError

from app.bridge import is_in_running_loop

TASK_NAME = "ingest_pdf_task"
QUEUE = "celery"
REQUEST_ID_HEADER = "request_id"
ENQUEUE_SECONDS = 1.0
ROLL_CALL_SECONDS = 1.0
# Redis serves priority 0 first (kombu's lists, one per step of 3). Without this, work that was interrupted
# would wait behind all new uploads: what is put back into a Redis list goes to its end.
BEGUN_PRIORITY = 0
NEW_PRIORITY = 3

log = structlog.get_logger(__name__)
T = TypeVar("T")


def new_celery(broker_url: str, result_backend: str | None, **options: Any) -> Celery:
    """A Celery app with the settings that clients and workers must share; `options` are more of them."""
    app = Celery("fca_worker", broker=broker_url, backend=result_backend)
    app.conf.update(
        task_default_queue=QUEUE,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        **options,
    )
    return app


class TaskQueue:
    """Sends `ingest_pdf_task` from threads of its own: a refusing broker blocks Celery for 0.6 s."""

    def __init__(self, broker_url: str) -> None:
        # No result backend: it would subscribe to every result, and wait 19 s when Redis is down.
        self._celery = new_celery(
            broker_url,
            None,
            task_publish_retry=False,
            broker_transport_options={
                "socket_connect_timeout": ENQUEUE_SECONDS,
                "socket_timeout": ENQUEUE_SECONDS,
                "max_retries": 0,
            },
        )
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="enqueue")

    async def enqueue(self, ingestion_id: UUID, *, is_begun: bool = False) -> bool:
        """Ring for an ingestion; False when it did not work within a second. Never raises.

        What `is_begun` is heard before what is new.
        """
        priority = BEGUN_PRIORITY if is_begun else NEW_PRIORITY
        return await self._in_thread(self._send, str(ingestion_id), priority) is not None

    def enqueue_from_sync(self, ingestion_id: UUID) -> bool:
        """The same for code without an event loop. Raises RuntimeError inside a running one."""
        if is_in_running_loop():
            raise RuntimeError(
                "enqueue_from_sync() would block the running event loop: await enqueue() instead"
            )
        return self._send(str(ingestion_id), NEW_PRIORITY) is not None

    async def length(self) -> int | None:
        """Messages waiting in the queue; None when the broker does not answer within a second."""
        return await self._in_thread(self._count)

    async def ping(self) -> bool:
        return await self.length() is not None

    async def workers(self) -> dict[str, list[int]]:
        """Workers that answer within a second: their names, and the ids of the processes that work."""
        return await self._in_thread(self._call_roll, seconds=ENQUEUE_SECONDS + ROLL_CALL_SECONDS) or {}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._celery.close()

    async def _in_thread(
        self, function: Callable[..., T | None], *arguments: Any, seconds: float = ENQUEUE_SECONDS
    ) -> T | None:
        run = contextvars.copy_context().run  # the request's id goes along
        work = asyncio.get_running_loop().run_in_executor(self._threads, run, function, *arguments)
        try:
            async with asyncio.timeout(seconds):  # wait_for can lose a cancellation before Python 3.12
                return await work
        except TimeoutError:
            return None

    def _send(self, task_id: str, priority: int) -> str | None:
        try:
            # The argument is for people who look into the queue: for a known id the row's key counts.
            args = [f"{task_id}.pdf"]
            request_id = structlog.contextvars.get_contextvars().get(REQUEST_ID_HEADER)
            self._celery.send_task(
                TASK_NAME,
                args=args,
                task_id=task_id,
                priority=priority,
                headers={REQUEST_ID_HEADER: request_id} if request_id else {},
            )
            return task_id
        except (KombuError, OSError) as error:
            log.warning("the broker took no message", task_id=task_id, error=type(error).__name__)
            return None

    def _call_roll(self) -> dict[str, list[int]] | None:
        try:
            answers = self._celery.control.inspect(timeout=ROLL_CALL_SECONDS).stats() or {}
        except (KombuError, OSError):
            return None
        return {name: stats["pool"].get("processes") or [stats["pid"]] for name, stats in answers.items()}

    def _count(self) -> int | None:
        """On a connection that stays open, of the same pool from which messages are sent."""
        with self._celery.connection_or_acquire() as connection:
            try:
                queue = connection.default_channel.queue_declare(queue=QUEUE, passive=True)
                return int(queue.message_count)
            except connection.channel_errors:  # no queue: nothing was ever sent, or the broker was emptied
                return 0
            except (KombuError, *connection.connection_errors):
                return None
