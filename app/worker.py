"""The seam between Celery and asyncio: `celery -A app.worker.celery_app worker`."""

import asyncio
import threading
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psutil
import structlog
from celery import Task
from celery.app.task import Context
from celery.backends.base import DisabledBackend
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import (
    setup_logging,
    task_revoked,
    worker_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker import state
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential
from uuid_utils.compat import uuid7

from app.bridge import Bridge, is_in_running_loop
from app.config import settings_or_exit
from app.errors import (
    AlreadyInWork,
    DatabaseUnavailable,
    InternalError,
    LeaseLost,
    PDFIngestError,
    SandboxIncomplete,
    TaskNotFound,
    WorkHeld,
)
from app.logs import configure_logging, sane_request_id
from app.metrics import forget_counts, serve_counts
from app.prefork_pool import keep_results
from app.redis_broker import keep_messages, warn_of_eviction
from app.resources import open_rag_service, require_sandbox
from app.services.progress import ingestion_id_of
from app.services.rag_service import RAGService
from app.task_queue import REQUEST_ID_HEADER, TASK_NAME, new_celery

DATABASE_PATIENCE_SECONDS = 5
# Celery's pools by the name of their module.
POOLS = {name: name for name in ("prefork", "solo", "gevent", "eventlet")} | {"thread": "threads"}
HARD_LIMIT_MARGIN_SECONDS = 60
# After so long Redis gives a message that was handed out to somebody else. It may be in work for longer: a
# second delivery does no harm, and what a killed worker had not begun yet, only its message knows of.
REDELIVERY_SECONDS = 60

log = structlog.get_logger(__name__)
settings = settings_or_exit()
hard_limit_seconds = (
    settings.task_hard_limit_seconds or settings.task_soft_limit_seconds + HARD_LIMIT_MARGIN_SECONDS
)
celery_app = new_celery(
    settings.celery_broker_url,
    settings.celery_result_backend,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=settings.worker_max_tasks,
    worker_max_memory_per_child=settings.worker_max_memory_mb * 1024,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": REDELIVERY_SECONDS,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # Of our own: those of other Celery apps on this Redis may not be redelivered so soon.
        "unacked_key": "pdf_ingest_unacked",
        "unacked_index_key": "pdf_ingest_unacked_index",
        "unacked_mutex_key": "pdf_ingest_unacked_mutex",
        "unacked_mutex_expire": 10,  # that of a killed worker would keep the others from it for 5 minutes
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # A broker that falls silent without closing its connections: what asks it gives up after 5 s, what
        # waits for messages after 11. Without these it is for ever, and 51 s.
        "socket_timeout": 5,
        "health_check_interval": 5,
    },
)
keep_messages()
keep_results()
bridge = Bridge(soft_limit_seconds=settings.task_soft_limit_seconds)


@celery_app.task(name=TASK_NAME, bind=True, lazy=False)  # lazily made, its first call must not be two at once
def ingest_pdf_task(self: Task, file_path: str) -> dict[str, Any]:
    """Ingest a PDF; `{"status": "success", "chunks": n, …}` or `{"status": "error", "code": …, …}`.

    Never raises to the caller, but for RuntimeError when called inside a running event loop. A delivery
    whose work another one has, or whose result is known already, stores nothing (Celery's Ignore).
    Works without Celery too, called like any function.
    """
    ingestion_id = ingestion_id_of(self.request.id) if self.request.id else uuid7()
    if not is_called_directly(self) and is_done_by_next(self, ingestion_id, file_path):
        raise Ignore
    with structlog.contextvars.bound_contextvars(task_id=str(ingestion_id), **request_id_of(self)):
        return ingest_for_result(self, ingestion_id, file_path)


@dataclass(slots=True)
class Message:
    """A message that was delivered: what it `claimed`, in whose turn, with which result.

    `is_bell`: it says no more than that there is work.
    """

    ingestion_id: UUID
    file_path: str
    is_bell: bool
    claimed: UUID | None = None
    result: dict[str, Any] | None = None


def is_done_by_next(task: Task, ingestion_id: UUID, file_path: str) -> bool:
    """Work on the run whose turn it is, whichever the message is about; whether nothing is left to do.

    Nobody's message is waited for, so 10,000 of a collection hold up no other. A message that names a path
    lets one other run go first and then has its own worked on.
    """
    message = Message(ingestion_id, file_path, is_bell=is_announced_by_row(ingestion_id, file_path))
    try:
        work_on_next_within_limit(message)
    except PDFIngestError:  # the database is away: the sweeper rings again
        pass
    except asyncio.CancelledError as error:  # the worker shuts down: somebody else goes on
        if not message.is_bell:
            raise Reject(requeue=True) from error
    except Exception:
        log.exception("task failed")
    if message.claimed and message.result:
        store_result(task, str(message.claimed), message.result)
    return message.is_bell


def work_on_next_within_limit(message: Message) -> None:
    try:
        bridge.run(work_on_next, message)
    except (TimeoutError, SoftTimeLimitExceeded):
        if message.claimed:
            message.result = bridge.run(give_up, message.claimed)


async def work_on_next(message: Message) -> None:
    service = await shared_service()
    message.is_bell = await service.is_bell(
        message.ingestion_id, message.file_path, is_announced=message.is_bell
    )
    lease = await service.claim_next()
    if lease is None:
        return
    message.claimed = lease.ingestion_id
    with suppress(PDFIngestError, WorkHeld, LeaseLost):  # its row has the verdict
        await service.ingest_claimed(lease)
    message.result = await service.result(lease.ingestion_id)


def store_result(task: Task, task_id: str, result: dict[str, Any]) -> None:
    """For a task whose own message comes later, and finds its result there."""
    if isinstance(task.backend, DisabledBackend):
        return
    try:
        if task.backend.get_state(task_id) != "SUCCESS":
            task.backend.store_result(task_id, result, "SUCCESS")
    except Exception:  # its own message stores it
        log.exception("result not stored", task_id=task_id)


def is_called_directly(task: Task) -> bool:
    return bool(task.request.called_directly or task.request.is_eager)


def ingest_for_result(task: Task, ingestion_id: UUID, file_path: str) -> dict[str, Any]:
    try:
        result = ingest_within_limit(ingestion_id, file_path)
    except PDFIngestError as error:
        result = None if is_announced_by_row(ingestion_id, file_path) else error.as_result()
    except (asyncio.CancelledError, TimeoutError) as error:
        # The worker shuts down, or a process that still starts had no time to make a row: somebody goes on.
        if not is_called_directly(task) and not is_announced_by_row(ingestion_id, file_path):
            raise Reject(requeue=True) from error
        result = None
    except Exception:
        if is_in_running_loop():  # misuse, which must be loud: the bridge says what to call instead
            raise
        log.exception("task failed")
        result = InternalError().as_result()
    if is_called_directly(task):  # there is no later delivery to wait for
        return result or in_work_elsewhere(ingestion_id)
    if result is None or has_result(task):
        raise Ignore
    return result


def ingest_within_limit(ingestion_id: UUID, file_path: str) -> dict[str, Any] | None:
    try:
        return bridge.run(ingest, ingestion_id, file_path)
    except (TimeoutError, SoftTimeLimitExceeded):  # the bridge's own limit, or one Celery was given
        return bridge.run(give_up, ingestion_id, file_path)


async def ingest(ingestion_id: UUID, file_path: str) -> dict[str, Any] | None:
    """The final result, or None when there is none yet: held by somebody else, or to be retried."""
    service = await shared_service()
    failure: PDFIngestError = TaskNotFound()
    try:
        await service.ingest_pdf(file_path, ingestion_id)
    except (WorkHeld, LeaseLost):  # logged where it was noticed
        pass
    except PDFIngestError as error:
        failure = error
    try:
        return await service.result(ingestion_id)
    except TaskNotFound:
        return failure.as_result()


async def give_up(ingestion_id: UUID, file_path: str | None = None) -> dict[str, Any] | None:
    """End an ingestion that took too long; one that was asked for by its path may have no row yet."""
    service = await shared_service()
    if file_path is not None:
        await service.is_bell(ingestion_id, file_path)
    await service.give_up(ingestion_id)
    return await service.result(ingestion_id)


@retry(
    retry=retry_if_exception_type(DatabaseUnavailable),
    stop=stop_after_delay(DATABASE_PATIENCE_SECONDS),
    wait=wait_random_exponential(max=2),
    reraise=True,
)
async def shared_service() -> RAGService:
    """This process's service; opening it waits a while for a database that is restarting."""
    return await bridge.shared(open_configured_service)


def open_configured_service() -> AbstractAsyncContextManager[RAGService]:
    return open_rag_service(settings)


def is_announced_by_row(ingestion_id: UUID, file_path: str) -> bool:
    """Whether the API made this task: then its row waits in the database, and the sweeper rings again."""
    return file_path == f"{ingestion_id}.pdf"


def request_id_of(task: Task) -> dict[str, str]:
    """Of the request that asked for the task, if the message's sender knew it."""
    request_id = sane_request_id(getattr(task.request, REQUEST_ID_HEADER, None))
    return {"request_id": request_id} if request_id else {}


def in_work_elsewhere(ingestion_id: UUID) -> dict[str, Any]:
    return AlreadyInWork(
        f"The document is in work, or waits for its next attempt: see task {ingestion_id}."
    ).as_result()


def has_result(task: Task) -> bool:
    if isinstance(task.backend, DisabledBackend):
        return False
    return bool(task.backend.get_state(task.request.id) == "SUCCESS")


@setup_logging.connect
def configure_worker_logging(**_: Any) -> None:
    configure_logging(settings.log_level, settings.log_format)


@worker_init.connect
def check_pool(sender: Any, **_: Any) -> None:
    """Refuse pools in which the bridge cannot work, and limits that a pool cannot keep."""
    pool = POOLS[sender.pool_cls.__module__.rpartition(".")[2]]
    if pool in {"gevent", "eventlet"}:
        raise SystemExit(
            f"The {pool} pool replaces threads and sockets under asyncio and is not supported. "
            "Start the worker with --pool prefork, solo or threads."
        )
    if pool == "prefork":
        bridge.hard_limit_seconds = hard_limit_seconds
    elif settings.task_hard_limit_seconds is not None:
        raise SystemExit(
            f"TASK_HARD_LIMIT_SECONDS cannot be kept in the {pool} pool: nothing can end a thread. "
            "Use --pool prefork or remove the setting; TASK_SOFT_LIMIT_SECONDS works in every pool."
        )


@worker_init.connect
def check_sandbox(**_: Any) -> None:
    try:
        asyncio.run(require_sandbox(settings))
    except SandboxIncomplete as error:
        raise SystemExit(error.message) from error


@worker_init.connect
def tell_counts(**_: Any) -> None:
    if settings.worker_metrics_port is None:
        return
    try:
        serve_counts(settings.worker_metrics_port)
    except OSError as error:
        raise SystemExit(f"WORKER_METRICS_PORT {settings.worker_metrics_port}: {error.strerror}.") from error


@worker_ready.connect
def look_at_broker(sender: Any, **_: Any) -> None:
    warn_of_eviction(sender.connection)


@task_revoked.connect
def forget_revoked(request: Context, **_: Any) -> None:
    """A revoke ends one message, not the ingestion: Celery would drop the next ones for three hours."""
    state.revoked.discard(request.id)


@worker_shutting_down.connect
def release_after_grace(**_: Any) -> None:
    """A shutdown lets work finish for a while; what still runs then gives its lease back."""
    worker_shutting_down.disconnect(release_after_grace)  # told twice, a child dies in its clean-up
    timer = threading.Timer(settings.shutdown_grace_seconds, release_work)
    timer.daemon = True
    timer.start()


def release_work() -> None:
    """SIGTERM raises SystemExit in a prefork child, which the bridge turns into a clean cancellation."""
    for child in psutil.Process().children():
        child.terminate()
    bridge.close()


@worker_process_shutdown.connect
@worker_shutdown.connect
def close_bridge(**_: Any) -> None:
    bridge.close()


@worker_shutdown.connect
def forget_told_counts(**_: Any) -> None:
    if settings.worker_metrics_port is not None:
        forget_counts()
