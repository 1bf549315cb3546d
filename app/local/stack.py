"""The whole service on one machine: Postgres, Valkey, one worker and the API, started, watched and stopped.

async with Stack(Path(".data"), port=8000, workers=2, say=print_line) as stack:
    ...                                     # stack.url answers until the block ends
"""

import asyncio
import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Self

import psutil

from app.local.embedded import (
    EmbeddedPostgres,
    EmbeddedServer,
    EmbeddedValkey,
    ServerFailed,
    environment_for_own_postgres,
    write_secret,
)
from app.local.supervisor import Program, Say, Supervisor

PROJECT = Path(__file__).parents[2]


class Stack:
    """Everything the service needs, in one data folder and on one port."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        workers: int,
        say: Say,
        worker_names: tuple[str, ...] = ("worker",),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Each of the `worker_names` is a Celery worker with `workers` processes; `settings` are environment
        variables of our programs.
        """
        self.data_dir = data_dir.absolute()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._workers = workers
        self.say = say
        self._worker_names = worker_names
        self._settings = dict(settings or {})
        self.environment: dict[str, str] = {}
        """What our programs get when they are started the next time; known once the servers run."""
        self._lock: IO[str] | None = None
        self._supervisors: list[Supervisor] = []
        self._processes: dict[str, tuple[int, float]] = {}

    async def __aenter__(self) -> Self:
        """Raises ServerFailed, with nothing left running, when a part cannot be started."""
        self._claim()
        try:
            await self._start()
        except OSError as error:
            await self._stop()
            raise ServerFailed(f"The stack cannot be started in {self.data_dir}: {error}.") from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def hurry(self) -> None:
        """Do not wait any longer for work in progress; it is taken up again after the next start."""
        for supervisor in self._supervisors:
            supervisor.hurry()

    def part(self, name: str) -> Supervisor:
        """The supervisor of `postgres`, `valkey`, `api` or a worker."""
        return next(supervisor for supervisor in self._supervisors if supervisor.name == name)

    async def _start(self) -> None:
        await asyncio.to_thread(self._stop_left_over)
        if not _port_is_free(self.port):
            raise ServerFailed(f"Port {self.port} is in use. Choose another one with --port.")
        _check_locks()
        postgres = EmbeddedPostgres(self.data_dir / "postgres")
        valkey = EmbeddedValkey(self.data_dir / "valkey")
        await self._supervise(_server_program(postgres), _server_program(valkey))
        await asyncio.to_thread(postgres.create_database, "pdf_ingest")
        self.environment = self._environment(postgres, valkey)
        await self._migrate()
        await self._supervise(*map(self._worker, self._worker_names), self._api())

    async def _supervise(self, *programs: Program) -> None:
        """Start programs side by side; the first that fails stops the starting of the others."""
        supervisors = [Supervisor(program, self.say, self._record) for program in programs]
        self._supervisors += supervisors
        starts = [asyncio.create_task(supervisor.start()) for supervisor in supervisors]
        try:
            await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)

    async def _stop(self) -> None:
        """API first, so that nothing new comes in; the worker next; then what both write to."""
        order = ("api", *self._worker_names, "valkey", "postgres")
        for supervisor in sorted(self._supervisors, key=lambda supervisor: order.index(supervisor.name)):
            await supervisor.stop()
        self._supervisors.clear()
        if self._lock is not None:
            (self.data_dir / "processes.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _claim(self) -> None:
        """Take the data folder; ServerFailed when another stack has it."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self.data_dir / "lock").open("a")
        except OSError as error:
            raise ServerFailed(
                f"The data folder {self.data_dir} cannot be used: {error.strerror}."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ServerFailed(
                f"The data folder {self.data_dir} is in use by another running stack. "
                "Stop that one, or choose another folder with --data-dir."
            ) from error

    def _stop_left_over(self) -> None:
        """End what a killed supervisor left running in this folder."""
        try:
            recorded = json.loads((self.data_dir / "processes.json").read_text())
        except (OSError, ValueError):
            return
        left_over = []
        for name, (pid, created) in recorded.items():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.create_time() == created:
                    self.say("stack", f"stopping the {name} that a killed run left behind")
                    process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
                    left_over.append(process)
        _, alive = psutil.wait_procs(left_over, timeout=10)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=10)

    def _record(self, name: str, pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended already
            self._processes[name] = (pid, psutil.Process(pid).create_time())
        write_secret(self.data_dir / "processes.json", json.dumps(self._processes))

    def _environment(self, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> dict[str, str]:
        """What our programs read their settings from; settings of no concern here keep their values."""
        files = self.data_dir / "files"
        files.mkdir(exist_ok=True, mode=0o700)
        return environment_for_own_postgres() | {
            "DATABASE_URL": postgres.url("pdf_ingest"),
            "CELERY_BROKER_URL": valkey.url,
            "CELERY_RESULT_BACKEND": valkey.url,
            "STORAGE_URL": files.as_uri(),
            "FASTEMBED_CACHE_PATH": os.environ.get("FASTEMBED_CACHE_PATH", str(self.data_dir / "models")),
            "SECRET_KEY_FILE": str(self.data_dir / "secret.key"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
            "LOG_FORMAT": os.environ.get("LOG_FORMAT", "console"),
            **self._settings,
        }

    async def _migrate(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.local.cli", "migrate"),
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        async for line in process.stdout:
            self.say("migrate", line.decode(errors="replace").rstrip())
        if await process.wait() != 0:
            raise ServerFailed("The database could not be migrated.")

    def _worker(self, name: str) -> Program:
        # Root is who runs this in a container; Celery's warning about it would fill the first screen.
        celery = ("-W", "ignore:You're running the worker", "-m", "celery", "--quiet")
        worker = ("-A", "app.worker.celery_app", "worker", "--loglevel", "info")
        alone = ("--without-mingle", "--without-gossip")  # workers need nothing of each other: saves 1 s
        return Program(
            name=name,
            command=lambda: [
                *(sys.executable, *celery, *worker, *alone, "--hostname", f"{name}@%h"),
                *("--concurrency", str(self._workers)),
            ],
            folder=Path.cwd(),
            environment=self.environment,
            stop_signal=signal.SIGTERM,
            stop_seconds=20,
            orphan_signal=signal.SIGKILL,
        )

    def _api(self) -> Program:
        return Program(
            name="api",
            command=lambda: [
                *(sys.executable, "-m", "app.serve"),
                *("--port", str(self.port), "--timeout-graceful-shutdown", "5"),
            ],
            folder=Path.cwd(),
            environment=self.environment,
            stop_signal=signal.SIGTERM,
            stop_seconds=10,
            orphan_signal=signal.SIGKILL,
            is_ready=self._is_api_ready,
        )

    def _is_api_ready(self, _pid: int) -> bool:
        # Asked 30 times a second; a client of httpx reads all certificates first: 30 ms of CPU.
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=2)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):
                return False


def _server_program(server: EmbeddedServer) -> Program:
    return Program(
        name=server.name,
        command=lambda: server.command,
        folder=server.folder,
        environment=os.environ,
        stop_signal=server.stop_signal,
        stop_seconds=30,
        orphan_signal=server.stop_signal,
        prepare=server.prepare,
        is_ready=server.is_ready,
    )


def _check_locks() -> None:
    """Raises ServerFailed where no worker could start, which would be tried again for ever."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        raise ServerFailed(
            f"The worker's processes cannot share locks: {error.strerror}. Linux keeps them in /dev/shm, "
            "which root makes with: mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm"
        ) from error


def _port_is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API will bind it
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
