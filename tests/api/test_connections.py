"""Clients that hold connections open without using them, on real sockets."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import httpx
import pytest

from app.api.bodies import BodyPace
from app.api.connections import TimedHTTP
from app.config import Settings
from app.main import create_app
from tests.api.conftest import Served
from tests.api.test_uploads import BOUNDARY, END, RawUpload, part
from tests.processes import PROJECT
from tests.services.workshop import pdf

Serve = Callable[..., AbstractAsyncContextManager[Served]]
PACE_SECONDS, PACE_BYTES = 2.0, 3_000
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
HEADS = {
    "a head without end": "GET /documents HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "an upload": f"POST /documents HTTP/1.1\r\nHost: 127.0.0.1\r\n{FORM}Content-Length: 100000\r\n\r\n"
    + part("file", pdf(), "held.pdf").decode()[:-2],
    "a search": "POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "Content-Length: 100000\r\n\r\n",
    "a body nobody reads": "GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n",
}


class Impatient(TimedHTTP):
    head_seconds = 3.0
    linger_seconds = 3.0
    stall_seconds = 1.5


@pytest.fixture(scope="module")
async def impatient(settings: Settings, serve: Serve) -> AsyncIterator[Served]:
    app = create_app(settings)
    app.add_middleware(BodyPace, pace_seconds=PACE_SECONDS, pace_bytes=PACE_BYTES)
    async with serve(app, Impatient) as served:
        yield served


class Holder:
    """Sends its head at once, and then a byte a second until it is thrown out."""

    def __init__(self, url: str, head: str) -> None:
        self._address = httpx.URL(url)
        self._head = head
        self.answer = b""

    async def hold(self) -> float:
        """Seconds until the connection was closed."""
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        began = time.monotonic()
        listening = asyncio.create_task(self._listen(reader))
        try:
            writer.write(self._head.encode())
            while not listening.done():
                writer.write(b"-")
                await asyncio.wait([listening], timeout=1)
        finally:
            writer.close()
        return time.monotonic() - began

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while piece := await reader.read(4096):
                self.answer += piece
        except ConnectionError:
            return


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("an upload", 500),
        pytest.param("a search", 500, marks=pytest.mark.heavy),
        ("a head without end", 100),  # a timer of each connection ends these: no more are needed
        ("a body nobody reads", 100),
    ],
)
async def test_clients_that_send_a_byte_a_second_keep_nobody_out(
    impatient: Served, name: str, count: int
) -> None:
    head = HEADS[name]
    holders = [Holder(impatient.url, head) for _ in range(count)]
    holding = asyncio.gather(*(holder.hold() for holder in holders))
    async with httpx.AsyncClient(base_url=impatient.url, timeout=30) as client:
        for _ in range(3):
            assert (await client.post("/documents", files={"file": pdf()})).status_code == 202
            assert (await client.get("/documents")).status_code == 200
    async with asyncio.timeout(30):
        seconds = await holding
    assert min(seconds) > 0.9
    if "POST" in head:
        assert {holder.answer[:12] for holder in holders} == {b"HTTP/1.1 408"}
        assert b'"code":"upload_timed_out"' in holders[0].answer


@pytest.mark.heavy
async def test_an_upload_on_a_bad_line_arrives(impatient: Served) -> None:
    """Twice as fast as it must be, with a pause, for longer than it may stand still."""
    body = part("file", pdf() + bytes(5 * PACE_BYTES), "slow.pdf") + END
    began = time.monotonic()
    async with RawUpload(impatient.url) as upload:
        await upload.begin(len(body))
        for start in range(0, len(body), PACE_BYTES):
            await upload.send(body[start : start + PACE_BYTES])
            await asyncio.sleep(PACE_SECONDS * (0.7 if start == PACE_BYTES else 0.5))
        assert await upload.status() == 202
    assert time.monotonic() - began > 1.5 * PACE_SECONDS


async def test_a_client_that_does_not_take_its_answer_is_let_go(impatient: Served) -> None:
    async with httpx.AsyncClient(base_url=impatient.url, timeout=30) as client:
        made = await client.post("/documents", files={"file": pdf() + bytes(20_000_000)})
        path = made.json()["links"]["document"] + "/file"
        async with _small_window(impatient.url) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await asyncio.sleep(3)
            received = await asyncio.to_thread(_all_of, connection)
        assert received < 20_000_000
        whole = await client.get(path)
        assert len(whole.content) > 20_000_000


async def test_kept_connections_and_silent_streams_are_left_alone(impatient: Served) -> None:
    async with AsyncExitStack() as closing:
        client = await closing.enter_async_context(httpx.AsyncClient(base_url=impatient.url, timeout=30))
        made = (await client.post("/documents", files={"file": pdf()})).json()
        stream = await closing.enter_async_context(client.stream("GET", f"/tasks/{made['task_id']}/events"))
        lines = stream.aiter_lines()
        assert await anext(lines) == "id: 0"
        waited = await client.get(f"/tasks/{made['task_id']}?wait=4")
        assert waited.json()["status"] == "queued"
        await client.post(f"/tasks/{made['task_id']}/cancel")
        async with asyncio.timeout(30):
            while await anext(lines) != "event: done":
                pass


@pytest.mark.parametrize("starter", ["Dockerfile", "app/local/stack.py"])
def test_whoever_starts_the_service_starts_it_with_these_limits(starter: str) -> None:
    assert "app.serve" in (PROJECT / starter).read_text()
    assert f"{TimedHTTP.__module__}:{TimedHTTP.__name__}" in (PROJECT / "app/serve.py").read_text()


def test_a_server_takes_as_many_connections_as_the_system_lets_it() -> None:
    program = (
        "import resource as r; from app.api.connections import allow_many;"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard)); allow_many();"
        "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 256


@asynccontextmanager
async def _small_window(url: str) -> AsyncIterator[socket.socket]:
    address = httpx.URL(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.host, address.port))
        yield connection


def _all_of(connection: socket.socket) -> int:
    received = 0
    try:
        while piece := connection.recv(65536):
            received += len(piece)
    except ConnectionError:
        pass
    return received
