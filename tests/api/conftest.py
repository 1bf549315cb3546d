"""The API on a real port, in the tests' own event loop, with a database and a queue of its own.

No worker listens there: a task stays as a test leaves it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr

from app.api.connections import TimedHTTP
from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.main import create_app
from app.resources import Services
from tests.api.contract import Contract
from tests.databases import empty_broker, migrated

ROOT = "root-" + "r" * 30


@dataclass(frozen=True)
class Served:
    """An application that answers at `url`."""

    app: FastAPI
    url: str

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services


@asynccontextmanager
async def _serve(app: FastAPI, http: type[asyncio.Protocol] = TimedHTTP) -> AsyncIterator[Served]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", http=http))
    serving = asyncio.create_task(_run(server))
    async with asyncio.timeout(60):
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(app, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        await serving


async def _run(server: uvicorn.Server) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # how uvicorn says that the application did not start; it would end pytest
        raise RuntimeError("The API did not start; the log says why.") from error


@pytest.fixture(scope="session")
async def settings(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    broker_url = empty_broker(valkey, 9)
    return Settings(
        _env_file=None,
        database_url=await migrated(postgres, "api"),
        celery_broker_url=broker_url,
        celery_result_backend=broker_url,
        storage_url=tmp_path_factory.mktemp("files").as_uri(),
        secret_key=SecretStr(Fernet.generate_key().decode()),
    )


@pytest.fixture(scope="session")
def serve() -> Callable[[FastAPI], AbstractAsyncContextManager[Served]]:
    """Serves another application, for example one with other settings."""
    return _serve


@pytest.fixture(scope="session")
async def served(settings: Settings) -> AsyncIterator[Served]:
    async with _serve(create_app(settings)) as served:
        yield served


@pytest.fixture(scope="session")
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    hooks = {"response": [Contract(served.app.openapi()).check]}
    async with httpx.AsyncClient(base_url=served.url, timeout=90, event_hooks=hooks) as client:
        yield client


@pytest.fixture(scope="module")
async def locked_settings(settings: Settings, postgres: EmbeddedPostgres) -> Settings:
    """With a key of the environment, and a database of its own: the first key closes all that share one."""
    url = await migrated(postgres, f"locked_{uuid4().hex}")
    return settings.model_copy(update={"database_url": url, "api_keys": SecretStr(f"root:{ROOT}")})


@pytest.fixture(scope="module")
async def locked(
    locked_settings: Settings, serve: Callable[[FastAPI], AbstractAsyncContextManager[Served]]
) -> AsyncIterator[Served]:
    async with serve(create_app(locked_settings)) as served:
        yield served


@pytest.fixture(scope="module")
async def stranger(locked: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Of `locked`, without a key."""
    async with _locked_client(locked) as client:
        yield client


@pytest.fixture(scope="module")
async def root(locked: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with _locked_client(locked, headers=bearer(ROOT)) as client:
        yield client


def _locked_client(locked: Served, **options: Any) -> httpx.AsyncClient:
    hooks = {"response": [Contract(locked.app.openapi()).check]}
    return httpx.AsyncClient(base_url=locked.url, timeout=30, event_hooks=hooks, **options)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def made(root: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    """A key, with its secret."""
    body = {"name": uuid4().hex, "scopes": ["read", "write"]} | wanted
    answer = await root.post("/keys", json=body)
    assert answer.status_code == 201, answer.text
    key: dict[str, Any] = answer.json()
    return key
