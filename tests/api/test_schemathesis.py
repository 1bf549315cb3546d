"""Every operation, with requests that schemathesis makes up of the API's description: `make test-openapi`."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from app.config import Settings
from app.local.embedded import EmbeddedPostgres
from app.main import create_app
from tests.api.conftest import Served
from tests.databases import migrated
from tests.processes import PROJECT

KEY = "key-of-schemathesis"
PROGRAM = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)
SAMPLE = PROJECT / "samples" / "salt-marsh-article.pdf"

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(PROGRAM is None, reason="schemathesis is in requirements-fastembed.lock only"),
]


STREAMS = """
[[operations]]
include-path-regex = "/events$"
max-stream-events = 1
request-timeout = 2
"""
"""They go on as long as a task does, and here nobody works."""


async def keeps_to_the_description(url: str, folder: Path, *options: str, config: str = "") -> None:
    """The same requests each time."""
    assert PROGRAM is not None
    (folder / "schemathesis.toml").write_text(config + STREAMS)
    run = await asyncio.create_subprocess_exec(
        *(PROGRAM, "run", f"{url}/openapi.json", "--checks", CHECKS, "--max-examples", "30"),
        *(
            "--header",
            f"Authorization: Bearer {KEY}",
            "--seed",
            "1",
            "--request-timeout",
            "30",
            "--no-color",
            *options,
        ),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await run.communicate()
    print(told.decode())
    assert run.returncode == 0


@pytest.fixture(scope="module")
async def served(settings: Settings, postgres: EmbeddedPostgres, serve: Any) -> AsyncIterator[Served]:
    """With keys from the start: the first that schemathesis makes would close a service without."""
    url = await migrated(postgres, f"schemathesis_{uuid4().hex}")
    own = {"database_url": url, "api_keys": SecretStr(f"root:{KEY}")}
    async with serve(create_app(settings.model_copy(update=own))) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


async def test_no_request_gets_an_answer_off_the_description(served: Served, tmp_path: Path) -> None:
    await keeps_to_the_description(served.url, tmp_path, config="[parameters]\nwait = 0\n")  # for nobody


async def test_no_request_about_a_document_that_is_there_gets_one(
    client: httpx.AsyncClient, served: Served, tmp_path: Path
) -> None:
    """Schemathesis cannot guess an id. Its task has ended, so that the stream of its events ends."""
    made = (await client.post("/documents", files={"file": SAMPLE.read_bytes()})).json()
    task_id = UUID(made["task_id"])
    await served.services.rag.ingest_pdf(f"{task_id}.pdf", task_id)
    ids = f'[parameters]\ndocument_id = "{made["document_id"]}"\ntask_id = "{task_id}"\n'
    only = ("--include-path-regex", r"\{", "--exclude-method", "DELETE", "--phases", "coverage,fuzzing")
    await keeps_to_the_description(served.url, tmp_path, *only, config=ids)
