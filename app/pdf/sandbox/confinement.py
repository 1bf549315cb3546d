"""What a reading process may do: compute, read its libraries, write to the socket it was given.

Nothing here needs a privilege, root gives its own up, and what a kernel does not know is left out: Landlock
came with Linux 5.13, filters of system calls with 3.5. What is left is found out by trying: `escapes`.
Written on ctypes: of the packages for either, none was both established and pure wheels when this was
written, and the two calls are short.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

from app.pdf.sandbox.system_calls import OWN_PID, filter_of_calls

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 22, 38, 36
_PR_SET_KEEPCAPS = 8
_CAP_DAC_READ_SEARCH = 1 << 2
_SIGKILL = 9
_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
# Numbers from here to 2**31 belong to no user on any system that keeps to systemd's table of them.
FIRST_OWN_USER = 0x7000_0000


@cache
def _libc() -> ctypes.CDLL:
    """Found once, before the first fork: looking for it in each child takes 0.3 ms."""
    return ctypes.CDLL(None, use_errno=True)


def prepare() -> None:
    """For a process and its children: they see no network and no shared memory of others, where they may."""
    if sys.platform == "linux":
        for may_execute in (False, True):
            filter_of_calls(os.uname().machine, may_execute)
        new_user = _NEW_USER if os.geteuid() else 0
        _libc().unshare(new_user | _NEW_NETWORK | _NEW_IPC)


def become_own_user(*, keeps_reading: bool) -> None:
    """Root becomes a user that owns nothing and is nobody else's; it stays root where that is refused.

    Before `die_with_parent`: the kernel forgets that with the change. `keeps_reading`, for a service that is
    installed for root alone: the right to read all files stays, and Landlock is all that limits it.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    number = FIRST_OWN_USER + os.getpid()
    _libc().prctl(_PR_SET_KEEPCAPS, keeps_reading, 0, 0, 0)
    with suppress(OSError):
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)


def can_all_read_our_folders() -> bool:
    """Whether the folders of our modules, and those that hold them, are open to every user."""
    folders = {Path(folder) for folder, _ in _readable() if os.path.isdir(folder)}
    above = {holder for folder in folders for holder in folder.resolve().parents}
    return all(folder.stat().st_mode & 0o5 == 0o5 for folder in folders) and all(
        folder.stat().st_mode & 0o1 for folder in above
    )


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread that started it ends, even by SIGKILL."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Processes left behind by a child become children of this one, which reaps them."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close_all_but(*kept: int) -> None:
    """Closes every other descriptor; standard input, output and errors lead nowhere."""
    edges = [-1, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for before, after in pairwise(edges):
        os.closerange(before + 1, after)
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """At the limit of CPU time comes SIGXCPU; a second later SIGKILL."""
    limits = {
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + 1),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_NPROC: (0, 0),  # so it starts none; which holds for all but root
    }
    for what, (soft, hard) in limits.items():
        with suppress(ValueError):  # lower already; or macOS, which cannot limit memory
            resource.setrlimit(what, (soft, hard))


def limit_step(cpu_seconds: float) -> None:
    """From here on the process may use so much CPU time, also inside one call of a library; then SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def confine(*, may_execute: bool = False) -> None:
    """From here on: no new file or process, no network, no signal to others, no privilege; for good.

    `may_execute`: the process becomes a program of the system, which is confined as it was.
    """
    if sys.platform != "linux":
        return
    libc = _libc()
    _drop_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _confine_files(libc, may_execute)
    _confine_calls(libc, may_execute)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """All, but for the right to read that an own user has only if it needs it."""
    kept = _CAP_DAC_READ_SEARCH if os.geteuid() >= FIRST_OWN_USER else 0
    version_3 = struct.pack("Ii", 0x20080522, 0)
    if libc.capset(version_3, struct.pack("IIIIII", kept, kept, 0, 0, 0, 0)) != 0:
        libc.capset(version_3, bytes(24))


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights by version; 16 from version 5
_NO_TCP, _NO_SIGNALS_AND_SOCKETS_OUTSIDE = 0b11, 0b11


def _confine_files(libc: ctypes.CDLL, may_execute: bool) -> None:
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return
    handled = struct.pack("Q", (1 << _FILE_RIGHTS.get(version, 16)) - 1)
    if version >= 4:
        handled += struct.pack("Q", _NO_TCP)
    if version >= 6:
        handled += struct.pack("Q", _NO_SIGNALS_AND_SOCKETS_OUTSIDE)
    ruleset = libc.syscall(_LANDLOCK_CREATE, handled, len(handled), 0)
    for path, rights in _readable(_EXECUTE if may_execute else 0):
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, folder), 0)
        os.close(folder)
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _readable(more_rights: int = 0) -> list[tuple[str, int]]:
    """Libraries, fonts and programs; not /etc, not /proc, not the folder with the service's settings."""
    package, project = (str(Path(__file__).parents[level]) for level in (2, 3))
    modules = {path for path in sys.path if path and path != project}
    folders = {package, *modules, sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/bin", "/etc/fonts"}
    tessdata = os.environ.get("TESSDATA_PREFIX")
    if tessdata:
        folders.add(tessdata)
    files = ("/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/dev/zero")
    return [
        *((folder, _READ_FILE | _READ_FOLDER | more_rights) for folder in sorted(folders)),
        *((file, _READ_FILE) for file in files),
    ]


def _confine_calls(libc: ctypes.CDLL, may_execute: bool) -> None:
    program = filter_of_calls(os.uname().machine, may_execute)
    if program is not None:
        program = program.replace(OWN_PID, struct.pack("I", os.getpid()))
        buffer = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
        libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0)
