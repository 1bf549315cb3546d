"""Real servers for all tests: one Postgres and one Valkey a session, started here, gone at the end."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

from app.embeddings.base import EmbeddingIdentity
from app.local.chaos.embedding_stub import serving
from app.local.chaos.webhook_receiver import WebhookReceiver
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage.database import Database
from app.storage.spaces import open_space
from tests.buckets import Bucket, S3Server
from tests.databases import migrated, new_database
from tests.programs import PATH, find_program, link_what_is_taken_for_granted
from tests.stacks import Up

for name in ("http_proxy", "https_proxy", "all_proxy"):  # all servers of the tests are on this machine
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)
# No test speaks TLS, for which each of a thousand HTTP clients would read all authorities of the world: 30 ms
# of CPU. This one has signed nothing, and its key is gone.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("authority.pem"))

# Python's 700 look for cycles among all that the tests have imported 400 times while they are collected.
gc.set_threshold(50_000, 20, 20)

# Tracebacks. Else, since rich is there, each is drawn in a frame with all variables: half a second of CPU.
plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


class StackOnce(LoadFileScheduling):
    """All files with tests of `up` go to one process: each other one would start a stack too, and idle on."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "up" if has_tests_of_up(self.config.rootpath / file) else file


@cache
def has_tests_of_up(file: Path) -> bool:
    return "up: Up" in file.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return StackOnce(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("program"):
            if find_program(*marker.args) is None:
                item.add_marker(pytest.mark.skip(reason=f"there is no {marker.args[0]} on this machine"))


@pytest.fixture(scope="session", autouse=True)
def bare_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Else what needs a program and does not say so passes here, and fails where that is not installed."""
    folder = tmp_path_factory.mktemp("programs")
    link_what_is_taken_for_granted(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder))
        yield


@pytest.fixture(autouse=True)
def whole_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("program") is not None:
        monkeypatch.setenv("PATH", PATH)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("embedded") / "postgres", is_durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("embedded") / "valkey", is_durable=False) as server:
        yield server


@pytest.fixture(scope="session")
async def database_url(postgres: EmbeddedPostgres) -> str:
    """A fresh migrated database, shared by all tests: use your own collections and ids."""
    return await migrated(postgres, "tests")


@pytest.fixture(scope="session")
def broker_url(valkey: EmbeddedValkey) -> str:
    return valkey.url


@pytest.fixture(scope="session")
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def own_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """A fresh migrated database of the test's own."""
    async with new_database(postgres) as opened:
        yield opened


@pytest.fixture(scope="module")
async def module_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """The same for all tests of a file."""
    async with new_database(postgres) as opened:
        yield opened


@pytest.fixture(scope="session")
async def space_id(database: Database) -> int:
    """The embedding space of the shared database: the local embedder's, as the real services open it."""
    return await open_space(database, EmbeddingIdentity("local", "l2_supercat", 256))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server.log") as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of the test's own; the environment says how to reach it."""
    bucket = s3_server.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A whole running service, in a folder whose path has spaces."""
    with Up(tmp_path_factory.mktemp("a stack") / "with spaces") as running:
        yield running


@pytest.fixture
def receiver() -> WebhookReceiver:
    """Who is told by webhooks of `receiver_url`."""
    return WebhookReceiver()


@pytest.fixture
def receiver_url(receiver: WebhookReceiver) -> Iterator[str]:
    with serving(receiver.app) as url:
        yield url
