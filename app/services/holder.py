"""Who holds a lease: a process, named so that others on the same host can see whether it lives.

A name is `host/boot id/namespace of process ids/parent/pid/start ticks`. Ticks since boot, not a time of the
day: that moves with the clock, and a step of a second would make every live process look like another one.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this host, as far as they can be seen, in a `/proc` if there is one.

    What cannot be seen (other hosts, other containers, processes hidden from us) is never called dead.
    """

    host: str
    proc: Path

    @classmethod
    def of_this_host(cls, proc: Path = PROC) -> Self:
        """Two containers may share a name or a boot, not the namespace of their process ids as well."""
        boot_id = _read(proc / "sys/kernel/random/boot_id").strip()
        try:
            namespace = os.readlink(proc / "self/ns/pid")
        except OSError:
            namespace = ""
        return cls(f"{socket.gethostname()}/{boot_id}/{namespace}/", proc)

    def name_of_this(self) -> str:
        """Call it after a fork: a child is a holder of its own."""
        parent, pid = os.getppid(), os.getpid()
        return f"{self.host}{parent}.{self._start_ticks(parent)}/{pid}/{self._start_ticks(pid)}"

    def is_dead(self, holder: str) -> bool:
        """Whether the holder was a process of this host that has ended."""
        if not holder.startswith(self.host):
            return False
        _, pid, ticks = holder.removeprefix(self.host).split("/")
        return self._has_ended(int(pid), ticks)

    def is_alone_dead(self, holder: str) -> bool:
        """Whether the holder has ended and the process that started it lives on, as when one child of a pool
        is killed: then it was not the death of a whole worker.
        """
        if not self.is_dead(holder):
            return False
        parent, _, ticks = holder.removeprefix(self.host).split("/")[0].partition(".")
        return bool(ticks) and self._start_ticks(int(parent)) == ticks

    def _has_ended(self, pid: int, ticks: str) -> bool:
        stat = self._stat(pid)
        if stat:
            return stat[_STATE] in _ENDED or (bool(ticks) and stat[_START_TICKS] != ticks)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is there, but hidden and somebody else's
            return False
        return False

    def _start_ticks(self, pid: int) -> str:
        stat = self._stat(pid)
        return stat[_START_TICKS] if stat and stat[_STATE] not in _ENDED else ""

    def _stat(self, pid: int) -> list[str]:
        """The fields of `/proc/<pid>/stat` behind the program's name, which may hold anything (proc(5))."""
        return _read(self.proc / str(pid) / "stat").rpartition(")")[2].split()


def process_of(holder: str) -> tuple[str, int] | None:
    """The host and the process id in a name; None for one that is not of this version."""
    host, *_, pid, _ticks = (*holder.split("/"), "", "")[:6]
    return (host, int(pid)) if pid.isdecimal() else None


_STATE, _START_TICKS = 0, 19  # fields 3 and 22, counted from 1
_ENDED = frozenset("ZXx")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
