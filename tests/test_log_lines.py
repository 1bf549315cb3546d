"""What a real API and a real worker log: each step once, with its ids, and nothing that is secret."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from celery import Celery
from cryptography.fernet import Fernet
from fpdf import FPDF
from fpdf.enums import EncryptionMethod
from sqlalchemy import text

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.embedding_servers import EmbeddingHandler, served_by, vectors_for
from tests.processes import ApiProcess, WorkerProcess

KEY, HASHED_KEY, EMBEDDING_KEY = "key-of-alice-x7Qp", "key-of-bob-9fKw", "sk-embedding-3hTz"
PASSWORD, WRONG_PASSWORD, WORD = "open-sesame-8vRm", "open-barley-2cLd", "Quinquereme"
SECRETS = [KEY, HASHED_KEY, EMBEDDING_KEY, PASSWORD, WRONG_PASSWORD, WORD]
REFUSED, EXPLOSIVE = "Refusable", "Explosive"
STEPS = ["accepted", "claimed", "read", "stored", "published"]

Line = dict[str, Any]


class RefusingServer(EmbeddingHandler):
    """Vectors; to a text with the word REFUSED, a refusal that repeats key and text."""

    def embed(self, texts: list[str]) -> None:
        if any(REFUSED in text for text in texts):
            message = f"Wrong key {self.headers['Authorization']}"
            self.answer(401, {"error": {"message": message, "input": texts}})
        else:
            self.answer(200, {"data": vectors_for(texts)})


def pdf(word: str = "", password: str | None = None) -> bytes:
    """Three pages with WORD on each line."""
    document = FPDF()
    document.set_title(f"{WORD} {uuid4()}")
    document.set_font("helvetica", size=10)
    for _ in range(3):
        document.add_page()
        for line in range(30):
            document.cell(text=f"{WORD} number {line} {uuid4()} {word}", new_x="LMARGIN", new_y="NEXT")
    if password:
        document.set_encryption("owner", password, encryption_method=EncryptionMethod.AES_128)
    return bytes(document.output())


@pytest.fixture(scope="module")
def embedding_url() -> Iterator[str]:
    with served_by(RefusingServer) as url:
        yield url


@pytest.fixture(scope="module")
async def environment(
    postgres: EmbeddedPostgres,
    valkey: EmbeddedValkey,
    embedding_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    broker_url = empty_broker(valkey, 11)
    hashed = hashlib.sha256(HASHED_KEY.encode()).hexdigest()
    return {
        "DATABASE_URL": await migrated(postgres, "log_lines"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": tmp_path_factory.mktemp("files").as_uri(),
        "SECRET_KEY": Fernet.generate_key().decode(),
        "EMBEDDING_PROVIDER": "openai",
        "EMBEDDING_BASE_URL": embedding_url,
        "EMBEDDING_DIMENSIONS": "4",
        "EMBEDDING_API_KEY": EMBEDDING_KEY,
        "API_KEYS": f"alice:{KEY},bob:sha256={hashed}",
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
    }


class Logged:
    """A running API and a running worker, with what they have logged so far."""

    def __init__(self, client: httpx.AsyncClient, worker: WorkerProcess, api: ApiProcess) -> None:
        self.client = client
        self.worker = worker
        self.api = api

    def output(self) -> str:
        return self.api.output() + self.worker.output()

    def of(self, **ids: str) -> list[Line]:
        """Our own lines with these ids; in DEBUG, libraries add theirs."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if ids.items() <= line.items() and line["logger"].startswith("app.")]

    async def upload(self, content: bytes, request_id: str | None = None, **fields: str) -> tuple[Line, Line]:
        """The answer, and the task at its end."""
        headers = {"X-Request-ID": request_id} if request_id else {}
        files = {"file": ("a.pdf", content)}
        answer = await self.client.post("/documents", files=files, data=fields, headers=headers)
        assert answer.status_code == 202, answer.text
        assert request_id is None or answer.headers["X-Request-ID"] == request_id
        task = await self.client.get(f"/tasks/{answer.json()['task_id']}?wait=30")
        await asyncio.sleep(0.2)  # the worker's line comes after its commit
        return answer.json(), task.json()


@pytest.fixture(scope="module")
async def logged(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Logged]:
    folder = tmp_path_factory.mktemp("logs")
    worker = WorkerProcess(environment, folder / "worker.log", "--concurrency", "1")
    with (
        worker,
        Celery(broker=environment["CELERY_BROKER_URL"]) as celery,
        ApiProcess(environment, folder / "api.log") as api,
    ):
        await asyncio.to_thread(worker.wait_until_ready, celery)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=api.url, headers=headers, timeout=40) as client:
            yield Logged(client, worker, api)


async def test_one_request_is_followed_through_the_broker_to_the_end(logged: Logged) -> None:
    request_id = f"request-{uuid4()}"
    answer, task = await logged.upload(pdf(), request_id)
    assert task["status"] == "success"
    ids = {name: answer[name] for name in ("task_id", "document_id")}
    lines = logged.of(request_id=request_id, **ids)
    assert [line["event"] for line in lines] == STEPS
    assert [line["event"] for line in logged.of(task_id=answer["task_id"])] == STEPS
    assert lines[0]["caller"] == "alice"
    assert lines[4]["chunks"] == task["progress"]["chunks"]
    assert {"timestamp", "level", "logger"} <= lines[0].keys()


async def test_lines_of_one_task_do_not_have_the_ids_of_another(logged: Logged) -> None:
    first, second = await asyncio.gather(
        logged.upload(pdf(), "first-request"), logged.upload(pdf(), "second")
    )
    for (answer, _), request_id in ((first, "first-request"), (second, "second")):
        assert [line["event"] for line in logged.of(request_id=request_id)] == STEPS
        assert {line["document_id"] for line in logged.of(request_id=request_id)} == {answer["document_id"]}


async def test_lines_have_the_id_of_their_own_request_whosever_message_was_heard(logged: Logged) -> None:
    """One waits in another collection than the three before it, and is served out of their order."""
    for child in logged.worker.children():
        child.suspend()
    asked = [("turns-1", "one"), ("turns-2", "one"), ("turns-3", "one"), ("turns-4", "other")]
    waiting = []
    for request_id, collection in asked:
        waiting.append(asyncio.create_task(logged.upload(pdf(), request_id, collection=collection)))
        await asyncio.sleep(0.5)
    for child in logged.worker.children():
        child.resume()
    answers = [answer for answer, _ in await asyncio.gather(*waiting)]
    for (request_id, _), answer in zip(asked, answers, strict=True):
        assert [line["event"] for line in logged.of(request_id=request_id)] == STEPS
        assert {line["task_id"] for line in logged.of(request_id=request_id)} == {answer["task_id"]}
    begun = [line["request_id"] for line in logged.of(event="claimed") if line["request_id"] in dict(asked)]
    assert begun == ["turns-1", "turns-4", "turns-2", "turns-3"]


@pytest.mark.parametrize("given", ["", "two words", "a" * 129, '{"a":1}', "ü"])
async def test_an_odd_request_id_is_replaced(logged: Logged, given: str) -> None:
    answer = await logged.client.get("/livez", headers={b"X-Request-ID": given.encode()})
    assert len(answer.headers["X-Request-ID"]) == 32


async def test_verdicts_cancellations_and_refusals_are_lines(logged: Logged) -> None:
    refused, task = await logged.upload(pdf(REFUSED))
    assert task["result"]["code"] == "embedding_failed"
    failed = logged.of(task_id=refused["task_id"])[-1]
    assert (failed["event"], failed["code"]) == ("failed", "embedding_failed")
    assert (
        await logged.client.get("/documents", headers={"Authorization": f"Bearer {KEY}!"})
    ).status_code == 401
    assert logged.of(event="request refused", code="unauthorized")


async def test_a_cancelled_task_has_its_line(logged: Logged, environment: dict[str, str]) -> None:
    headers = {"X-Request-ID": "cancelling"}
    for child in logged.worker.children():
        child.suspend()
    files = {"file": ("a.pdf", pdf())}
    answer = (await logged.client.post("/documents", files=files)).json()
    await logged.client.post(f"/tasks/{answer['task_id']}/cancel", headers=headers)
    for child in logged.worker.children():
        child.resume()
    (line,) = logged.of(task_id=answer["task_id"], event="cancelled")
    assert (line["request_id"], line["document_id"]) == ("cancelling", answer["document_id"])


async def test_no_text_no_password_and_no_key_is_ever_logged(
    logged: Logged, environment: dict[str, str]
) -> None:
    """Passwords and keys, right and wrong, searches, and a statement that Postgres refuses."""
    _, opened = await logged.upload(pdf(password=PASSWORD), password=PASSWORD)
    assert opened["status"] == "success"
    _, closed = await logged.upload(pdf(password=PASSWORD), password=WRONG_PASSWORD)
    assert closed["result"]["code"] == "encrypted"
    found = await logged.client.post("/search", json={"query": WORD, "mode": "text"})
    assert found.json()["data"]
    await logged.client.post("/search", content=f'{{"query": "{WORD}",,}}'.encode())
    await logged.client.post("/search", json={"query": {"no": WORD}})
    await logged.client.get("/documents", headers={"Authorization": f"Bearer {HASHED_KEY}"})
    database = Database(environment["DATABASE_URL"])
    async with database.transaction() as connection:
        await connection.execute(
            text(f"ALTER TABLE chunks ADD CONSTRAINT dull CHECK (text NOT LIKE '%{EXPLOSIVE}%')")
        )
    await database.close()
    _, exploded = await logged.upload(pdf(EXPLOSIVE))
    assert exploded["result"]["code"] == "internal_error"
    output = logged.output()
    assert "CheckViolation" in output
    assert "/app/storage/runs/lease.py" in output
    secrets = [*SECRETS, environment["SECRET_KEY"], EXPLOSIVE, REFUSED]
    assert [secret for secret in secrets if secret.lower() in output.lower()] == []
