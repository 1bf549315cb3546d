"""Real processes for tests: a Celery worker, the API, and the settings they and their clients share."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from celery import Celery

from app.config import Settings
from app.local.embedded import die_with_parent, free_port

PROJECT = Path(__file__).parent.parent


def started(*command: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """A process of the project that is told to end when pytest ends, also when that was killed."""
    ending = die_with_parent(signal.SIGTERM)
    return subprocess.Popen(command, cwd=PROJECT, preexec_fn=ending, **options)  # noqa: PLW1509 - one prctl call


@contextmanager
def ended_unless_ready(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Else a server that was late runs on, and whoever reads its output waits for the end of it."""
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait(40)
        raise


class WorkerProcess:
    """`celery worker` in a process group of its own; its output goes to a file."""

    def __init__(
        self,
        environment: Mapping[str, str],
        log: Path,
        *options: str,
        app: str = "app.worker.celery_app",
        level: str = "info",
        folder: Path = PROJECT,
    ) -> None:
        self.environment = dict(os.environ) | dict(environment)
        self._log = log
        self._folder = folder
        self._command = ["-m", "celery", "-A", app, "worker", "--loglevel", level, *options]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """The prefork children, not what they start themselves."""
        return psutil.Process(self.pid).children()

    def descendants(self) -> list[psutil.Process]:
        """The prefork children and the processes that read PDFs for them."""
        return psutil.Process(self.pid).children(recursive=True)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self.process = started(
                sys.executable,
                *self._command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait_until_ready(self, client: Celery, seconds: float = 120) -> Self:
        deadline = time.monotonic() + seconds
        while not client.control.inspect(timeout=0.5, limit=1).ping():  # without a limit it awaits others too
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not start:\n{self.output()}")
        return self

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM and wait; what is left of the group is killed. Returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the worker and all its children."""
        assert self.process is not None
        family = [self.process, *_descendants(self.pid)]
        for member in family:
            try:
                member.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


class ApiProcess:
    """The API in a process of its own, once it answers; its output goes to a file."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = os.environ | environment
        self._log = log
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def output(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        api = ("-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(self._port))
        with self._log.open("wb") as log:
            self.process = started(sys.executable, *api, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120  # 2 s on a quiet machine
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"the API did not start:\n{self.output()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez").is_success
        except httpx.TransportError:
            return False


def environment_of(settings: Settings, **others: str) -> dict[str, str]:
    """What a process needs to use the servers of these settings."""
    assert settings.secret_key is not None
    return {
        "DATABASE_URL": settings.database_url,
        "CELERY_BROKER_URL": settings.celery_broker_url,
        "CELERY_RESULT_BACKEND": settings.celery_result_backend,
        "STORAGE_URL": settings.storage_url,
        "SECRET_KEY": settings.secret_key.get_secret_value(),
        **others,
    }


def api_processes(parent: psutil.Process) -> list[psutil.Process]:
    """Those that uvicorn has started and that live."""
    found = []
    for child in parent.children():
        with suppress(psutil.NoSuchProcess):  # a zombie is none either
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
