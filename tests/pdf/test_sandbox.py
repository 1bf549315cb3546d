"""What a confined process can still do, tried in one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have limits on resources, but nothing to confine with"
)

TRIED = """
    import ctypes, json, os, resource, signal, socket, subprocess, sys
    from app.pdf import sandbox

    owner, folder = int(sys.argv[1]), sys.argv[2]
    sandbox.limit(memory_bytes=500_000_000, cpu_seconds=2)
    sandbox.confine()

    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    attempts = {
        "open a socket": lambda: socket.socket(),
        "write a file": lambda: open(folder + "/written", "w"),
        "read a file of the owner": lambda: open(folder + "/owned").read(),
        "read the owner's environment": lambda: open(f"/proc/{owner}/environ").read(),
        "list a folder": lambda: os.listdir(folder),
        "remove a file": lambda: os.remove(folder + "/owned"),
        "signal the owner": lambda: os.kill(owner, 0),
        "leave the group": lambda: os.setsid(),
        "limit the owner": lambda: resource.prlimit(owner, resource.RLIMIT_CPU),
        "raise its own limits": lambda: resource.setrlimit(resource.RLIMIT_CPU, (99, 99)),
        "run a program that writes": lambda: subprocess.run(["touch", folder + "/touched"], check=True),
        "use much memory": lambda: bytearray(600_000_000),
        "load a library": lambda: __import__("zlib"),
        "run a program": lambda: subprocess.run(["true"], check=True),
        "signal itself": lambda: signal.raise_signal(0),
        "fork": fork,
    }
    done = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            done[name] = True
        except (OSError, MemoryError, ValueError, subprocess.CalledProcessError):
            done[name] = False
    print(json.dumps(done))
"""


def confined(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def possible(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    folder = tmp_path_factory.mktemp("owned")
    (folder / "owned").write_text("a secret")
    finished = confined(TRIED, str(os.getpid()), str(folder))
    assert finished.returncode == 0, finished.stderr
    found: dict[str, bool] = json.loads(finished.stdout)
    return found


@pytest.mark.parametrize(
    "attempt",
    [
        "open a socket",
        "write a file",
        "read a file of the owner",
        "read the owner's environment",
        "list a folder",
        "remove a file",
        "signal the owner",
        "leave the group",
        "limit the owner",
        "raise its own limits",
        "run a program that writes",
        "use much memory",
    ],
)
def test_a_confined_process_cannot(attempt: str, possible: dict[str, bool]) -> None:
    assert possible[attempt] is False


@pytest.mark.parametrize("attempt", ["load a library", "run a program", "signal itself", "fork"])
def test_a_confined_process_can_still(attempt: str, possible: dict[str, bool]) -> None:
    assert possible[attempt] is True


def test_cpu_time_is_limited_by_the_kernel() -> None:
    finished = confined(
        """
        from app.pdf import sandbox
        sandbox.limit(memory_bytes=500_000_000, cpu_seconds=1)
        while True: pass
        """
    )
    assert finished.returncode == -signal.SIGXCPU


def test_an_abort_is_still_an_abort() -> None:
    finished = confined("import os; from app.pdf import sandbox; sandbox.confine(); os.abort()")
    assert finished.returncode == -signal.SIGABRT


def test_only_the_descriptors_kept_stay_open() -> None:
    finished = confined(
        """
        import os
        from app.pdf import sandbox
        told = os.dup(1)
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
        sandbox.close_all_but(told)
        os.write(told, repr([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]).encode())
        os.write(told, str([fd for fd in others if os.path.exists(f"/proc/self/fd/{fd}")]).encode())
        """
    )
    assert finished.stdout == "['/dev/null', '/dev/null', '/dev/null'][]"
