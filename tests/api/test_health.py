import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from app.config import Settings
from app.errors import EmbeddingSpaceMismatch
from app.local.embedded import EmbeddedPostgres, free_port
from app.main import create_app
from app.storage.database import Database
from tests.processes import ApiProcess, environment_of


async def until_ready(client: httpx.AsyncClient, *, degraded: list[str]) -> None:
    """Each check has two seconds; on a busy machine one may need another try.

    No worker comes for what other tests have queued.
    """
    async with asyncio.timeout(30):
        while (answer := await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - it is a poll
            await asyncio.sleep(0.2)
        while (told := answer.json())["degraded"] not in (degraded, [*degraded, "workers"]):
            await asyncio.sleep(0.2)
            answer = await client.get("/readyz")
    assert (told["status"], told["sandbox"]) == ("ready", "full")
    assert {outage["service"] for outage in told["outages"]} <= {"workers"}


async def test_the_process_is_alive(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/"])
async def test_a_probe_may_ask_for_the_status_alone(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_the_service_is_ready_with_a_database_and_a_broker(client: httpx.AsyncClient) -> None:
    await until_ready(client, degraded=[])


@pytest.mark.usefixtures("client")
async def test_why_it_does_not_start_is_said_in_a_sentence(settings: Settings) -> None:
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    app = create_app(settings.model_copy(update={"embedding_dimensions": 128}))
    with pytest.raises(EmbeddingSpaceMismatch) as raised:
        await app({"type": "lifespan", "asgi": {}, "state": {}}, receive, send)
    assert said == [{"type": "lifespan.startup.failed", "message": raised.value.message}]


async def test_a_broker_that_is_down_degrades_the_service(settings: Settings, serve: Any) -> None:
    without_broker = settings.model_copy(update={"celery_broker_url": f"redis://127.0.0.1:{free_port()}/0"})
    async with serve(create_app(without_broker)) as served, httpx.AsyncClient(base_url=served.url) as client:
        await until_ready(client, degraded=["broker"])


async def test_a_database_that_is_down_is_named_and_the_service_comes_back_with_it(
    client: httpx.AsyncClient, postgres: EmbeddedPostgres
) -> None:
    control = Database(postgres.url("postgres"))
    async with control.transaction() as connection:
        await connection.execute(text("ALTER DATABASE api ALLOW_CONNECTIONS false"))
        await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'api'")
        )
    down = await client.get("/readyz")
    alive = await client.get("/livez")
    async with control.transaction() as connection:
        await connection.execute(text("ALTER DATABASE api ALLOW_CONNECTIONS true"))
    await control.close()
    assert down.status_code == 503
    assert down.headers["content-type"] == "application/problem+json"
    assert down.headers["retry-after"]
    assert down.json()["code"] == "not_ready"
    assert [fault["where"] for fault in down.json()["errors"]] == ["database"]
    assert alive.status_code == 200
    await until_ready(client, degraded=[])


async def test_a_server_told_to_go_says_so_before_it_stops_listening(
    settings: Settings, tmp_path: Path
) -> None:
    with ApiProcess(environment_of(settings), tmp_path / "log") as api:
        server = api.process
        async with httpx.AsyncClient(base_url=api.url) as client:
            server.send_signal(signal.SIGTERM)
            statuses = []
            async with asyncio.timeout(30):
                while server.poll() is None:
                    try:
                        statuses.append((await client.get("/readyz")).status_code)
                    except httpx.TransportError:
                        break
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(server.wait, 30)
    assert 503 in statuses
    assert statuses == sorted(statuses)
    assert server.returncode in (0, -signal.SIGTERM)
