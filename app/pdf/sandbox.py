"""What a reading process may do: compute, read its libraries, write to the socket it was given.

Everything here needs no privilege, and what a kernel does not know is left out: Landlock came with Linux
5.13, filters of system calls with 3.5. Written on ctypes: of the packages for either, none was both
established and pure wheels when this was written, and the two calls are short.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 22, 38, 36
_SIGKILL = 9

# Numbers of system calls on (x86-64, arm64).
_DENIED_CALLS = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "prlimit64": (302, 261),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "keyctl": (250, 219),
}
_TGKILL = (234, 131)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Of the Berkeley packet filter: load a word, jump if equal, jump if greater or equal, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X32_CALLS = 0x40000000
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # refuse with EPERM


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


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
    }
    for what, (soft, hard) in limits.items():
        with suppress(ValueError):  # lower already; or macOS, which cannot limit memory
            resource.setrlimit(what, (soft, hard))


def limit_step(cpu_seconds: float) -> None:
    """From here on the process may use so much CPU time, also inside one call of a library; then SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def confine() -> None:
    """From here on: no new file, no network, no signal to others, no privilege. Cannot be undone."""
    if sys.platform != "linux":
        return
    libc = _libc()
    _drop_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _confine_files(libc)
    _confine_calls(libc)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    version_3 = struct.pack("Ii", 0x20080522, 0)
    libc.capset(version_3, bytes(24))


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights by version; 16 from version 5
_NO_TCP, _NO_SIGNALS_AND_SOCKETS_OUTSIDE = 0b11, 0b11


def _confine_files(libc: ctypes.CDLL) -> None:
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return
    handled = struct.pack("Q", (1 << _FILE_RIGHTS.get(version, 16)) - 1)
    if version >= 4:
        handled += struct.pack("Q", _NO_TCP)
    if version >= 6:
        handled += struct.pack("Q", _NO_SIGNALS_AND_SOCKETS_OUTSIDE)
    ruleset = libc.syscall(_LANDLOCK_CREATE, handled, len(handled), 0)
    for path, rights in _readable():
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", rights, folder), 0)
        os.close(folder)
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _readable() -> list[tuple[str, int]]:
    """Libraries, fonts and programs; not /etc, not /proc, not the folder with the service's settings."""
    package, project = (str(Path(__file__).parents[level]) for level in (1, 2))
    modules = {path for path in sys.path if path and path != project}
    folders = {package, *modules, sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/bin", "/etc/fonts"}
    tessdata = os.environ.get("TESSDATA_PREFIX")
    if tessdata:
        folders.add(tessdata)
    files = ("/etc/ld.so.cache", "/dev/urandom", "/dev/zero")
    return [
        *((folder, _EXECUTE | _READ_FILE | _READ_FOLDER) for folder in sorted(folders)),
        *((file, _READ_FILE) for file in files),
        ("/dev/null", _READ_FILE | _WRITE_FILE),
    ]


def _confine_calls(libc: ctypes.CDLL) -> None:
    if platform.machine() not in _ARCHITECTURES:
        return
    column, architecture = _ARCHITECTURES[platform.machine()]
    denied = [numbers[column] for numbers in _DENIED_CALLS.values()]
    # A signal to itself is how abort() ends a process; to others it is refused.
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 0, len(denied) + 5, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, len(denied) + 3, 0, _X32_CALLS),
        *((_IF_EQUAL, len(denied) + 2 - place, 0, number) for place, number in enumerate(denied)),
        (_IF_EQUAL, 0, 3, _TGKILL[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_IF_EQUAL, 1, 0, os.getpid()),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0)
