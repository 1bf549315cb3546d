"""The demonstration, and that it notices when something is not as it should be."""

import asyncio
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from app.local.client import Client
from app.local.demo import find_mistakes, quiet_stack
from tests.stacks import PROJECT, SAMPLES, Up


async def until_said(output: io.StringIO, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in output.getvalue():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)


async def test_the_samples_end_as_they_should(up: Up) -> None:
    output = io.StringIO()
    async with Client(up.url) as client:
        assert await find_mistakes(client, Console(file=output, width=120), collection="demo") == []
    assert "annual-report.pdf, page 3" in output.getvalue()
    assert "2 pages, 4 chunks" in output.getvalue()
    assert "1 page, 2 chunks" in output.getvalue()
    assert "4,246" in output.getvalue()


async def test_a_service_on_this_machine_is_not_asked_through_a_proxy(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    for url in (up.url, up.url.replace("127.0.0.1", "localhost")):
        async with Client(url) as client:
            assert (await client.ready())["status"] == "ready"


async def test_wrong_verdicts_and_wrong_hits_are_named(up: Up, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES, tmp_path, dirs_exist_ok=True)
    shutil.copy(SAMPLES / "wildbienen.pdf", tmp_path / "damaged.pdf")
    shutil.copy(SAMPLES / "damaged.pdf", tmp_path / "annual-report.pdf")
    async with Client(up.url) as client:
        mistakes = await find_mistakes(
            client, Console(file=io.StringIO()), samples=tmp_path, collection="mistakes"
        )
    assert mistakes[:2] == [
        "annual-report.pdf should have ended as success, not as corrupted.",
        "damaged.pdf should have ended as corrupted, not as success.",
    ]
    assert mistakes[2].startswith("The first hit for 'output of the turbines from July to September'")


@pytest.mark.heavy
async def test_a_part_that_dies_is_not_kept_quiet(tmp_path: Path) -> None:
    output = io.StringIO()
    async with quiet_stack(tmp_path, Console(file=output, width=120)) as stack:
        assert "stack: " not in output.getvalue()
        pid = stack.part("worker").pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        await until_said(output, "stack: worker was ended by SIGKILL; starting it again in 0.5 s")


@pytest.mark.heavy
def test_the_command_ends_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "app.local.cli", "demo"],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Every verdict and every hit is what it should be." in finished.stdout
    assert "on purpose" in finished.stdout
    folders = [process.info["cwd"] or "" for process in psutil.process_iter(["cwd"])]
    assert not [folder for folder in folders if folder.startswith(str(tmp_path))]
    assert list(tmp_path.glob("pdf-ingest-demo-*")) == []
