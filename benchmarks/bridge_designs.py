"""Five ways from a Celery task into asyncio, each doing the same job: one query and 5 ms of waiting.

`DESIGN` in the environment chooses one; `celery -A benchmarks.bridge_designs worker` serves it.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import pool, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.bridge import Bridge
from app.storage.database import Database

DATABASE_URL = os.environ.get("DATABASE_URL", "")
celery_app = Celery(broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_BROKER_URL"))
celery_app.conf.update(worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


async def query(engine: AsyncEngine) -> int:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
    await asyncio.sleep(0.005)
    return 1


def asyncio_run() -> int:
    """A loop and an engine without a pool for each task."""

    async def job() -> int:
        engine = create_async_engine(DATABASE_URL, poolclass=pool.NullPool)
        try:
            return await query(engine)
        finally:
            await engine.dispose()

    return asyncio.run(job())


_engines: dict[str, AsyncEngine] = {}


def _engine() -> AsyncEngine:
    return _engines.setdefault("only", create_async_engine(DATABASE_URL))


def get_event_loop() -> int:
    """The process's loop, or a new one when it is closed, and one engine."""
    try:
        loop = asyncio.get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    if loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop.run_until_complete(query(_engine()))


_loops: dict[str, asyncio.AbstractEventLoop] = {}


@worker_process_init.connect
def _start_loop(**_: Any) -> None:
    if os.environ.get("DESIGN") == "loop_thread":
        _loops["only"] = asyncio.new_event_loop()
        threading.Thread(target=_loops["only"].run_forever, daemon=True).start()


def loop_thread() -> int:
    """A loop thread made when the process starts, with run_coroutine_threadsafe."""
    return asyncio.run_coroutine_threadsafe(query(_engine()), _loops["only"]).result()


def solo() -> int:
    """The solo pool: the engine is disposed of once, at the start; a loop that stays."""
    return get_event_loop()


bridge = Bridge(soft_limit_seconds=60)


@asynccontextmanager
async def _database() -> Any:
    database = Database(DATABASE_URL)
    yield database
    await database.close()


async def _ours() -> int:
    database = await bridge.shared(_database)
    async with database.autocommit() as connection:
        await connection.execute(text("SELECT 1"))
    await asyncio.sleep(0.005)
    return 1


def ours() -> int:
    """app/bridge.py with app/storage/database.py, limits on."""
    return bridge.run(_ours)


DESIGNS: dict[str, Callable[[], int]] = {
    design.__name__: design for design in (asyncio_run, get_event_loop, loop_thread, solo, ours)
}


@celery_app.task(name="job")
def job() -> int:
    return DESIGNS[os.environ["DESIGN"]]()
