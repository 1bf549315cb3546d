"""What a confined process can still do, tried in one and in a real reader."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.pdf.escapes import DOORS, verdict
from app.pdf.reader import PDFReader

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have limits on resources, but nothing to confine with"
)


def confined(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


TRIED = """
    import json, os, sys
    from app.pdf.sandbox import confinement
    from app.pdf.escapes import open_doors
    from app.pdf.wire import ProbeRequest, ProcessLimits

    path, owner, is_confined = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "confined"
    file = os.open(path, os.O_RDONLY)
    limits = ProcessLimits(500_000_000, 20, 20.0)
    if is_confined:
        confinement.limit(limits.memory_bytes, limits.cpu_seconds)
        confinement.confine()
    print(json.dumps(open_doors(ProbeRequest(limits, owner, path), file)))
"""


def tried(folder: Path, how: str) -> list[str]:
    """Names of the attempts that succeed, in a process that is still the user of this one."""
    stored = folder / "stored.pdf"
    stored.write_text("a secret")
    finished = confined(TRIED, str(stored), str(os.getpid()), how)
    assert finished.returncode == 0, finished.stderr
    found: list[str] = json.loads(finished.stdout)
    return found


BUILT_WITHOUT = {"memfd_secret", "userfaultfd", "io_uring_setup"}
NAMES = [name for attempts in DOORS.values() for name in attempts]


@pytest.fixture(scope="module")
def succeeded_as_the_same_user(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tried(tmp_path_factory.mktemp("store"), "confined")


@pytest.fixture(scope="module")
def succeeded_in_a_reader() -> list[str]:
    async def ask() -> list[str]:
        reader = PDFReader()
        try:
            return await reader.open_doors()
        finally:
            await reader.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_cannot(name: str, succeeded_in_a_reader: list[str]) -> None:
    assert name not in succeeded_in_a_reader


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DOORS["user"]])
def test_without_a_user_of_its_own_a_confined_process_cannot_either(
    name: str, succeeded_as_the_same_user: list[str]
) -> None:
    assert name not in succeeded_as_the_same_user


@pytest.mark.skipif(os.geteuid() != 0, reason="some of the attempts succeed for root alone")
def test_all_of_it_succeeds_where_nothing_confines(tmp_path: Path) -> None:
    """So that the tests above could fail. What the kernel of this machine was built without is not there."""
    missing = set(NAMES) - set(tried(tmp_path, "free"))
    assert missing <= BUILT_WITHOUT, missing
    assert verdict(NAMES) == "none"


def test_the_verdict_names_what_stands_open() -> None:
    assert verdict([]) == "full"
    assert verdict(["bpf", "fork", "fsopen"]) == "partial (processes, kernel)"
    assert verdict([name for name in NAMES if name not in DOORS["memory"]]) == "none"


OLD_KERNEL = """
    import asyncio, ctypes, struct, sys
    from app.errors import SandboxIncomplete
    from app.pdf.reader import PDFReader
    from app.services.readiness import check_sandbox

    landlock, prctl, set_seccomp = 444, *{"x86_64": (157, 22), "aarch64": (167, 22)}[sys.argv[1]]
    missing = [(0x15, 0, 1, landlock), (0x06, 0, 0, 0x00050026)]
    if sys.argv[2] == "neither":
        missing += [(0x15, 0, 3, prctl), (0x20, 0, 0, 16)]
        missing += [(0x15, 0, 1, set_seccomp), (0x06, 0, 0, 0x00050016)]
    program = [(0x20, 0, 0, 0), *missing, (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)), 0, 0) == 0

    async def told():
        reader = PDFReader()
        try:
            print(await check_sandbox(reader, is_required=False))
            await check_sandbox(reader, is_required=True)
        except SandboxIncomplete as error:
            print(error.message)
        finally:
            await reader.close()

    asyncio.run(told())
"""


@pytest.mark.parametrize(("locks", "status"), [("calls only", "partial (files)"), ("neither", "none")])
def test_a_kernel_without_the_locks_is_noticed_and_refused_where_they_are_required(
    locks: str, status: str
) -> None:
    finished = confined(OLD_KERNEL, os.uname().machine, locks)
    assert finished.returncode == 0, finished.stderr
    _, found, _, refusal = finished.stdout.splitlines()
    assert found == status
    assert refusal == f"SANDBOX=require, but the sandbox in which PDFs are read is {status}."


STILL = """
    import json, os, signal, sys
    from app.pdf.sandbox import confinement
    confinement.limit(memory_bytes=500_000_000, cpu_seconds=20)
    confinement.confine()
    import zlib
    signal.raise_signal(0)
    with open(os.__file__) as library:
        library.read()
    print("done")
"""


def test_a_confined_process_can_still_load_a_library_and_signal_itself() -> None:
    assert confined(STILL).stdout == "done\n"


def test_a_program_it_becomes_is_confined_as_it_was(tmp_path: Path) -> None:
    finished = confined(
        """
        import os, sys
        from app.pdf.sandbox import confinement
        confinement.confine(may_execute=True)
        os.execv("/bin/sh", ["sh", "-c", f"echo here; (echo forked); echo > {sys.argv[1]}/new"])
        """,
        str(tmp_path),
    )
    assert finished.stdout == "here\n"
    assert "fork" in finished.stderr
    assert not list(tmp_path.iterdir())


def test_cpu_time_is_limited_by_the_kernel() -> None:
    finished = confined(
        """
        from app.pdf.sandbox import confinement
        confinement.limit(memory_bytes=500_000_000, cpu_seconds=1)
        while True: pass
        """
    )
    assert finished.returncode == -signal.SIGXCPU


def test_an_abort_is_still_an_abort() -> None:
    finished = confined(
        "import os; from app.pdf.sandbox import confinement; confinement.confine(); os.abort()"
    )
    assert finished.returncode == -signal.SIGABRT


def test_only_the_descriptors_kept_stay_open() -> None:
    finished = confined(
        """
        import os
        from app.pdf.sandbox import confinement
        told = os.dup(1)
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
        confinement.close_all_but(told)
        os.write(told, repr([os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]).encode())
        os.write(told, str([fd for fd in others if os.path.exists(f"/proc/self/fd/{fd}")]).encode())
        """
    )
    assert finished.stdout == "['/dev/null', '/dev/null', '/dev/null'][]"
