"""What a reading process that was taken over would try; a real one tries it all when the service starts.

Nothing here does harm where it succeeds. A call is refused when the kernel says so before it looks at what
it was asked: many are made with arguments that could not be served.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import socket
from collections.abc import Callable, Collection
from typing import NamedTuple

from app.pdf.wire import ProbeRequest

_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAGAIN, errno.ENOMEM)
_NEW_USER, _SIGCHLD, _PTRACE_SEIZE, _SET_OWNER = 0x10000000, 17, 0x4206, 0x8901
_THREAD = 0x00010000  # without what threads must share, which is found out after it is allowed
_IMPOSSIBLE = 1
_COLUMNS = {"x86_64": 0, "aarch64": 1}


class Target(NamedTuple):
    """The process `owner` has a file at `path`, which is open for reading as `file`."""

    owner: int
    path: str
    file: int
    memory_bytes: int


Attempt = Callable[[Target], object]


def open_doors(request: ProbeRequest, file: int) -> list[str]:
    """Names of the attempts that succeed."""
    target = Target(request.owner, request.path, file, request.limits.memory_bytes)
    attempts = [named for attempts in DOORS.values() for named in attempts.items()]
    return [name for name, attempt in attempts if not _is_refused(attempt, target)]


def verdict(succeeded: Collection[str]) -> str:
    """`full`, `partial (what is missing)`, or `none` when neither lock of the kernel holds."""
    doors = [door for door, attempts in DOORS.items() if not attempts.keys().isdisjoint(succeeded)]
    if not doors:
        return "full"
    return "none" if {"files", "network", "kernel"} <= set(doors) else f"partial ({', '.join(doors)})"


def _is_refused(attempt: Attempt, target: Target) -> bool:
    try:
        attempt(target)
    except OSError as error:
        return error.errno in _REFUSALS
    return False


def _call(numbers: tuple[int, int], *arguments: int) -> int:
    """A system call by its number on (x86-64, arm64). Raises OSError."""
    if platform.machine() not in _COLUMNS:
        raise OSError(errno.ENOSYS, "unknown here")
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.syscall(numbers[_COLUMNS[platform.machine()]], *map(ctypes.c_long, arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return answer


def _calls(*numbers: int) -> Attempt:
    """One call, without sensible arguments."""
    return lambda _: _call((numbers[0], numbers[-1]), 0, 0, 0, 0, 0, 0)


def _open(flags: int) -> Attempt:
    return lambda target: os.close(os.open(target.path, flags))


def _read(path: str) -> Attempt:
    return lambda target: os.close(os.open(path.format(owner=target.owner), os.O_RDONLY))


def _fork(_: Target) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)


def _clone(flags: int) -> Attempt:
    def clone(_: Target) -> None:
        if _call((56, 220), flags | _SIGCHLD, 0, 0, 0, 0) == 0:
            os._exit(0)

    return clone


def _keep_root(_: Target) -> None:
    if os.geteuid() != 0:
        raise PermissionError(errno.EPERM, "not root")


def _trace(pid: int) -> None:
    _call((101, 117), _PTRACE_SEIZE, pid, _IMPOSSIBLE, 0)


def _set_owner(target: Target) -> None:
    fcntl.fcntl(target.file, fcntl.F_SETOWN, target.owner)


# Attempts by what stands open when one is not refused.
DOORS: dict[str, dict[str, Attempt]] = {
    "files": {
        "read a stored file": _open(os.O_RDONLY),
        "open a stored file to write": _open(os.O_WRONLY),
        "make a file": lambda it: os.mknod(f"{it.path}.new"),
        "list the store": lambda it: os.listdir(os.path.dirname(it.path)),
        "read /etc/passwd": _read("/etc/passwd"),
        "read the environment of its owner": _read("/proc/{owner}/environ"),
        "read the environment of its parent": _read("/proc/self/environ"),
        "chmod of a stored file": lambda it: os.chmod(it.path, 0o600),
        "chmod of the store": lambda it: os.chmod(os.path.dirname(it.path), 0o700),
        "chmod of the open file": lambda it: os.fchmod(it.file, 0o600),
        "chown of a stored file": lambda it: os.chown(it.path, os.getuid(), -1),
        "chown of the open file": lambda it: os.fchown(it.file, os.getuid(), -1),
        "set the times of a stored file": lambda it: os.utime(it.path),
        "set the times of the open file": lambda it: os.utime(it.file),
        "set an attribute of a stored file": lambda it: os.setxattr(it.path, "user.x", b""),
        "truncate a stored file": lambda it: os.truncate(it.path, 0),
        "link a stored file": lambda it: os.link(it.path, f"{it.path}.link"),
        "rename a stored file": lambda it: os.rename(it.path, f"{it.path}.moved"),
        "remove a stored file": lambda it: os.unlink(it.path),
        "make a folder": lambda it: os.mkdir(f"{it.path}.folder"),
    },
    "network": {
        "open a socket": lambda _: socket.socket().close(),
        "open a pair of sockets": lambda _: socket.socketpair(),
        "connect": _calls(42, 203),
        "send a descriptor": _calls(46, 211),
    },
    "processes": {
        "fork": _fork,
        "clone": _clone(0),
        "start a thread": _clone(_THREAD),
        "run a program": _calls(59, 221),
    },
    "signals": {
        "signal its owner": lambda it: os.kill(it.owner, 0),
        "signal its parent": lambda _: os.kill(os.getppid(), 0),
        "signal a sibling": lambda _: os.kill(-1, 0),
        "signal a thread": lambda it: _call((234, 131), it.owner, it.owner, 0),
        "signal by a descriptor": _set_owner,
        "signal by a device": lambda it: fcntl.ioctl(it.file, _SET_OWNER, b"1234"),
        "leave its group": lambda _: os.setpgid(0, 0),
    },
    "memory of others": {
        "trace its owner": lambda it: _trace(it.owner),
        "trace its parent": lambda _: _trace(os.getppid()),
        "read the memory of its owner": lambda it: _call((310, 270), it.owner, 0, 0, 0, 0, 0),
        "open its owner as a descriptor": lambda it: _call((434, 434), it.owner, 0),
        "take a descriptor of another": _calls(438),
    },
    "memory": {
        "map more memory than it may": lambda it: mmap.mmap(-1, it.memory_bytes).close(),
    },
    "shared memory": {
        "shared memory of System V": _calls(29, 194),
        "semaphores of System V": _calls(64, 190),
        "messages of System V": _calls(68, 186),
        "a message queue": _calls(240, 180),
        "memfd_create": _calls(319, 279),
        "memfd_secret": _calls(447),
    },
    "kernel": {
        "unshare": lambda _: _call((272, 97), _NEW_USER | _IMPOSSIBLE),
        "clone with namespaces": _clone(_NEW_USER),
        "clone3": _calls(435),
        "setns": _calls(308, 268),
        "mount": _calls(165, 40),
        "fsopen": _calls(430),
        "fsconfig": _calls(431),
        "move_mount": _calls(429),
        "open_tree": _calls(428),
        "mount_setattr": _calls(442),
        "io_uring_setup": _calls(425),
        "bpf": _calls(321, 280),
        "perf_event_open": _calls(298, 241),
        "userfaultfd": _calls(323, 282),
        "keyctl": _calls(250, 219),
        "add_key": _calls(248, 217),
    },
    "user": {
        "keep the rights of root": _keep_root,
    },
}
