"""Uploads as a stream: what is sent how, how much memory it takes, and what stays when it breaks off."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

from app.api.document_schemas import UploadFields
from app.api.uploads import MultipartBody, read_form
from app.config import Settings
from app.errors import UploadTooSlow
from app.main import create_app
from app.services.fresh import FRESH_SECONDS
from app.services.uploads import Upload
from app.storage.figures import sum_stored_bytes
from app.storage.files import FileStore
from tests.api.conftest import Served
from tests.processes import ApiProcess, environment_of
from tests.services.workshop import eventually, pdf

Serve = Callable[[Any], AbstractAsyncContextManager[Served]]
PROJECT = Path(__file__).parent.parent.parent
BOUNDARY = b"----b0undary"
MEGABYTE = 1_000_000


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    shown = "" if filename is None else f'; filename="{filename}"'
    return b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
        BOUNDARY,
        name.encode(),
        shown.encode(),
        content,
    )


END = b"--%s--\r\n" % BOUNDARY


async def read_all(pieces: list[bytes]) -> list[tuple[str, str | None, bytes]]:
    async def arriving() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    read = []
    async for part in MultipartBody(arriving(), BOUNDARY).parts():
        content = b"".join([piece async for piece in part.content])
        read.append((part.name, part.filename, content))
    return read


AWKWARD = strategies.lists(
    strategies.sampled_from([b"\r\n", b"--", BOUNDARY, b"\r\n--", b"a", b"%PDF", b"\0", b"\r\n------b0und"])
).map(b"".join)


@given(
    contents=strategies.lists(
        AWKWARD.filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content), min_size=1, max_size=4
    ),
    cuts=strategies.lists(strategies.integers(0, 600)),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_parts_come_out_as_they_went_in_wherever_the_body_is_cut(contents: list[bytes], cuts: list[int]):
    body = b"".join(part(f"n{n}", content, f"ü{n}.pdf") for n, content in enumerate(contents)) + END
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in pairwise(places)]
    expected = [(f"n{n}", f"ü{n}.pdf", content) for n, content in enumerate(contents)]
    assert asyncio.run(read_all(pieces)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no multipart at all",
        part("file", pdf()),
        part("file", pdf())[:-20],
        b"--%s\r\nContent-Type: application/pdf\r\n\r\nx\r\n" % BOUNDARY + END,
        b"--%s\r\nContent-Disposition form-data\r\n\r\nx\r\n" % BOUNDARY + END,
        b"--%s\r\nX: %s\r\n\r\nx\r\n" % (BOUNDARY, b"h" * 9000) + END,
    ],
    ids=[
        "nothing",
        "no multipart at all",
        "no end",
        "no end of a part",
        "no disposition",
        "no colon",
        "a long header",
    ],
)
async def test_a_broken_body_is_refused(body: bytes):
    with pytest.raises(RequestValidationError):
        await read_all([body])


async def test_an_upload_that_never_ends_is_given_up(tmp_path: Path):
    arrived = [part("file", pdf(), "slow.pdf")[:-2]]

    async def receive() -> dict[str, Any]:
        if not arrived:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": arrived.pop(), "more_body": True}

    content_type = f"multipart/form-data; boundary={BOUNDARY.decode()}".encode()
    request = Request({"type": "http", "headers": [(b"content-type", content_type)]}, receive)
    upload = Upload(FileStore(tmp_path.as_uri()), MEGABYTE)
    with pytest.raises(UploadTooSlow):
        await read_form(request, upload, UploadFields, max_seconds=0.2)
    await upload.discard()
    assert bytes_in(tmp_path) == 0


class RawUpload:
    """An upload whose bytes are sent one by one, as slow and as broken as a test wants."""

    def __init__(self, url: str) -> None:
        self._address = httpx.URL(url)

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self._address.host, self._address.port)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.abort()  # an open request would keep the server from stopping

    async def begin(self, content_length: int, *headers: str, request_line: str = "POST /documents") -> None:
        lines = [
            f"{request_line} HTTP/1.1",
            f"Host: {self._address.host}",
            f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}",
            f"Content-Length: {content_length}",
            *headers,
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def status(self) -> int:
        line = await asyncio.wait_for(self.reader.readline(), 5)
        return int(line.split()[1])

    def abort(self) -> None:
        if not self.writer.transport.is_closing():
            self.writer.transport.abort()


@pytest.fixture
def folder(settings: Settings) -> Path:
    return Path(httpx.URL(settings.storage_url).path)


def names_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("way_of_leaving", ["reset", "end of stream"])
async def test_a_client_that_leaves_in_the_middle_leaves_no_file(
    served: Served, folder: Path, way_of_leaving: str
):
    before = names_in(folder)

    async def is_being_stored() -> bool:
        return names_in(folder) != before and bytes_in(folder) > 5 * MEGABYTE

    async def is_as_before() -> bool:
        return names_in(folder) == before

    async with RawUpload(served.url) as upload:
        await upload.begin(50 * MEGABYTE)
        await upload.send(part("file", pdf(), "first.pdf"))
        await upload.send(part("file", pdf() + bytes(12 * MEGABYTE), "second.pdf")[:-2])
        await eventually(is_being_stored)
        if way_of_leaving == "reset":
            upload.abort()
        else:
            upload.writer.close()
        await eventually(is_as_before)


async def test_a_file_that_is_no_pdf_is_never_stored(served: Served, folder: Path):
    before = names_in(folder)
    async with RawUpload(served.url) as upload:
        await upload.begin(20 * MEGABYTE)
        await upload.send(part("file", bytes(10 * MEGABYTE), "zeros.pdf")[:-2])
        await asyncio.sleep(0.2)
        assert names_in(folder) == before


async def test_a_request_far_over_the_limit_is_refused_before_its_body_is_sent(served: Served):
    async with RawUpload(served.url) as upload:
        await upload.begin(10**12, "Expect: 100-continue")
        assert await upload.status() == 413


@pytest.mark.parametrize(
    ("limit", "status", "words"),
    [
        ({"max_queued": 1}, 429, b"MAX_QUEUED"),
        ({"max_store_bytes": 1}, 507, b"no more than 1 (MAX_STORE_BYTES)"),
    ],
)
async def test_what_there_is_no_room_for_is_refused_before_its_body_is_sent(
    settings: Settings, serve: Serve, limit: dict[str, int], status: int, words: bytes
):
    full = create_app(settings.model_copy(update=limit))
    async with serve(full) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        async with serve(create_app(settings)) as roomy:
            made = await client.post(f"{roomy.url}/documents", files={"file": pdf()})
        document = made.json()["links"]["document"]
        for request_line in ("POST /documents", f"PUT {document}"):
            async with RawUpload(served.url) as upload:
                await upload.begin(10 * MEGABYTE, "Expect: 100-continue", request_line=request_line)
                answer = await asyncio.wait_for(upload.reader.readuntil(b"}"), 30)
                assert answer.startswith(b"HTTP/1.1 %d" % status), answer
                assert b"retry-after: " in answer
                assert words in answer


async def test_what_would_not_fit_into_the_store_is_refused(settings: Settings, serve: Serve, tmp_path: Path):
    async with serve(create_app(settings)) as served:
        stored_bytes = await stored(served)
    small = create_app(settings.model_copy(update={"max_store_bytes": stored_bytes + 10_000}))
    async with serve(small) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        large = await client.post("/documents", files={"file": pdf() + bytes(20_000)})
        assert (large.status_code, large.json()["code"]) == (507, "storage_failed")
        assert (await client.post("/documents", files={"file": pdf() + bytes(5_000)})).status_code == 202
        await asyncio.sleep(FRESH_SECONDS)
        assert (await client.post("/documents", files={"file": pdf() + bytes(5_000)})).status_code == 507


async def stored(served: Served) -> int:
    async with served.services.database.autocommit() as connection:
        return await sum_stored_bytes(connection)


async def test_a_file_over_the_limit_is_refused_while_it_arrives(
    settings: Settings, serve: Serve, tmp_path: Path
):
    changes = {"max_upload_bytes": MEGABYTE, "storage_url": tmp_path.as_uri()}
    async with (
        serve(create_app(settings.model_copy(update=changes))) as served,
        RawUpload(served.url) as upload,
    ):
        await upload.begin(9 * MEGABYTE)
        await upload.send(part("file", pdf() + bytes(5 * MEGABYTE), "large.pdf"))
        assert await upload.status() == 413  # though the announced rest never comes
        assert bytes_in(tmp_path) == 0


async def test_a_file_over_the_limit_is_only_its_own_problem(
    settings: Settings, serve: Serve, tmp_path: Path
):
    changes = {"max_upload_bytes": MEGABYTE, "storage_url": tmp_path.as_uri()}
    small = pdf()
    files = [("file", pdf() + bytes(1_500_000)), ("file", small), ("file", pdf().ljust(MEGABYTE))]
    async with (
        serve(create_app(settings.model_copy(update=changes))) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        response = await client.post("/documents", files=files)
        alone = await client.post("/documents", files=files[:1])
    assert response.status_code == 202
    large, accepted, just_fits = response.json()["data"]
    assert large["problem"]["code"] == "too_large"
    assert accepted["status"] == just_fits["status"] == "queued"
    assert bytes_in(tmp_path) == len(small) + MEGABYTE
    assert (alone.status_code, alone.json()["code"]) == (413, "too_large")


async def test_a_large_refused_upload_still_gets_its_answer(settings: Settings, serve: Serve, tmp_path: Path):
    """The client is in the middle of sending when the answer comes, and has announced no length."""

    async def endless() -> AsyncIterator[bytes]:
        yield part("file", pdf(), "large.pdf")[:-2]
        for _ in range(100):
            yield bytes(MEGABYTE)

    changes = {"max_upload_bytes": MEGABYTE, "storage_url": tmp_path.as_uri()}
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    async with (
        serve(create_app(settings.model_copy(update=changes))) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        response = await client.post("/documents", content=endless(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert bytes_in(tmp_path) == 0


def api_with_files_in(folder: Path, settings: Settings) -> ApiProcess:
    """In a process of its own, so that its memory can be measured."""
    changes = {"STORAGE_URL": folder.as_uri(), "MAX_UPLOAD_BYTES": str(300 * MEGABYTE)}
    return ApiProcess(environment_of(settings) | changes, folder.with_name("log"))


async def peak_of(process: psutil.Process, done: asyncio.Event) -> int:
    peak = 0
    while not done.is_set():
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.01)
    return peak


async def growth_while_uploading(api: ApiProcess, megabytes: int, at_once: int = 1) -> float:
    """Megabytes of memory above idle, after a first small upload."""

    async def body() -> AsyncIterator[bytes]:
        yield part("file", pdf(), "large.pdf")[:-2]
        for _ in range(megabytes):
            yield os.urandom(1000) * 1000
        yield b"\r\n" + END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    process = psutil.Process(api.process.pid)
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=api.url, timeout=300) as client:
        assert (await client.post("/documents", files={"file": pdf()})).status_code == 202
        idle = process.memory_info().rss
        measuring = asyncio.create_task(peak_of(process, done))
        answers = await asyncio.gather(
            *(client.post("/documents", content=body(), headers=headers) for _ in range(at_once))
        )
        done.set()
    assert [answer.status_code for answer in answers] == [202] * at_once
    growth = (await measuring - idle) / MEGABYTE
    print(f"{at_once} x {megabytes} MB: {growth:.1f} MB above idle ({idle / MEGABYTE:.0f} MB)")
    return growth


async def test_an_upload_takes_little_memory(settings: Settings, tmp_path: Path):
    with api_with_files_in(tmp_path / "files", settings) as api:
        assert await growth_while_uploading(api, 60) < 30
    assert bytes_in(tmp_path / "files") > 60 * MEGABYTE


@pytest.mark.heavy
async def test_uploads_of_200_megabytes_stay_within_50_megabytes_of_idle(settings: Settings, tmp_path: Path):
    with api_with_files_in(tmp_path / "files", settings) as api:
        assert await growth_while_uploading(api, 200) < 50
        assert await growth_while_uploading(api, 200, at_once=2) < 80
