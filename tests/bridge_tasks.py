"""A Celery app whose tasks cross the bridge: `celery -A tests.bridge_tasks worker`."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
from celery import Celery
from sqlalchemy import text

from app.bridge import Bridge
from app.storage.database import Database

celery_app = Celery(broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_BROKER_URL"))
celery_app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=64)
bridge = Bridge(soft_limit_seconds=30)
cleaned: list[str] = []


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    database = Database(os.environ["DATABASE_URL"])
    yield database
    await database.close()


async def query(number: int) -> int:
    database = await bridge.shared(open_database)
    async with database.autocommit() as connection:
        return await connection.scalar(text("SELECT CAST(:number AS int)"), {"number": number})


async def hold() -> None:
    """Keep a connection until cancelled; the clean-up takes a while and uses it once more."""
    database = await bridge.shared(open_database)
    async with database.autocommit() as connection:
        try:
            await asyncio.sleep(60)
        finally:
            await connection.execute(text("SELECT pg_sleep(0.3)"))
            cleaned.append("hold")


async def count() -> dict[str, int]:
    database = await bridge.shared(open_database)
    return {
        "tasks": len(asyncio.all_tasks()),
        "connections": database.connections_in_use,
        "threads": threading.active_count(),
        "descriptors": psutil.Process().num_fds(),
        "cleaned": len(cleaned),
    }


@celery_app.task(name="query")
def query_task(number: int) -> int:
    return bridge.run(query, number)


@celery_app.task(name="hold")
def hold_task() -> None:
    bridge.run(hold)


@celery_app.task(name="count")
def count_task() -> dict[str, int]:
    return bridge.run(count)
