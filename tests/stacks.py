"""A `pdf-ingest up` for tests, started and stopped like a user does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import psutil
from typer.testing import CliRunner

from app.local.cli import cli
from app.local.embedded import free_port
from tests.processes import PROJECT, ended_unless_ready, started

SAMPLES = PROJECT / "samples"


class Up:
    """A running `pdf-ingest up`."""

    def __init__(self, data_dir: Path, port: int | None = None, workers: int = 1, **environment: str) -> None:
        self.workers = workers
        self.environment = environment
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = started(
            *(sys.executable, "-m", "app.local.cli", "up", "--workers", str(self.workers)),
            *("--port", str(self.port), "--data-dir", self.data_dir),
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        with ended_unless_ready(self.process):
            self.wait_for(f"ready: {self.url}", seconds=180)  # 70 on two cores with ten other things at work
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._listener.join()
        self.process.stdout.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(40)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def pid_of(self, part: str) -> int:
        """postgres, valkey, worker or api."""
        pid, _created = json.loads((self.data_dir / "processes.json").read_text())[part]
        return int(pid)

    def wait_for(self, text: str, seconds: float = 30) -> None:
        def said() -> bool:
            assert self.process.poll() is None or any(text in line for line in self.lines), self.lines
            return any(text in line for line in self.lines)

        until(said, seconds)

    def ingest(self, sample: str, **fields: str) -> str:
        """The id of the document, once it is ready."""
        with (SAMPLES / sample).open("rb") as file:
            accepted = httpx.post(f"{self.url}/documents", files={"file": file}, data=fields).json()
        task = httpx.get(f"{self.url}/tasks/{accepted['task_id']}?wait=30", timeout=40).json()
        assert task["status"] == "success", task
        return accepted["document_id"]

    def has(self, document_id: str) -> bool:
        return bool(httpx.get(f"{self.url}/documents/{document_id}").json()["status"] == "ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


def pdf_ingest(*arguments: str | Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run a client command in this process, since a new one imports for most of a second."""
    environment = {"PDF_INGEST_URL": url, "COLUMNS": "200"}
    ended = CliRunner().invoke(cli, list(map(str, arguments)), env=environment, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)


def pdf_ingest_alone(*arguments: str | Path, url: str = "unused") -> subprocess.CompletedProcess[str]:
    """Run any command in a process of its own, as users do."""
    return subprocess.run(
        [sys.executable, "-m", "app.local.cli", *map(str, arguments)],
        cwd=PROJECT,
        env=os.environ | {"PDF_INGEST_URL": url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
