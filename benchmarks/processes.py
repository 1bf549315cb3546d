"""CPU time and memory of processes and of all they have started, from /proc (Linux only)."""

import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOOK_SECONDS = 0.5
READER = "reader"  # a group of its own, whoever has started it
_READER_COMMAND = b"app.pdf."


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc tells of one."""

    parent: int
    cpu_ticks: int
    """Its own, and those of its children that have ended and were waited for."""
    private_bytes: int
    """In memory and in no file: what it has written itself."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one group of processes."""

    cpu_seconds: float
    peak_mb: float
    largest_mb: float
    """The peak of the largest process."""


class Processes:
    """Watches process trees in a `with` block: `use` says what each group has used in it.

    Memory is looked at twice a second; CPU time is exact to a tick of 10 ms a process.
    """

    def __init__(self, **roots: int | None) -> None:
        """Names of groups, and the process at the root of each."""
        self._roots = {pid: group for group, pid in roots.items() if pid is not None}
        self._peaks: Counter[str] = Counter()
        self._largest: Counter[str] = Counter()
        self._is_over = threading.Event()
        self.use: dict[str, Use] = {}

    def __enter__(self) -> Self:
        self._begun = self._look()
        self._watch = threading.Thread(target=self._keep_looking, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watch.join()
        ended = self._look()
        self.use = {
            group: Use(
                (ended[group] - self._begun[group]) / TICKS_A_SECOND,
                self._peaks[group] / 1e6,
                self._largest[group] / 1e6,
            )
            for group in ended.keys() | set(self._roots.values())
        }

    def cpu_ms(self, group: str, count: int) -> float:
        """Of a group, for each of `count` things done in the block."""
        return 1000 * self.use[group].cpu_seconds / count if group in self.use else 0.0

    def _keep_looking(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> Counter[str]:
        """Ticks by group; notes the memory."""
        found = all_processes()
        ticks: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for pid, process in found.items():
            if (group := group_of(pid, found, self._roots)) is None:
                continue
            ticks[group] += process.cpu_ticks
            memory[group] += process.private_bytes
            self._largest[group] = max(self._largest[group], process.private_bytes)
        self._peaks |= memory
        return ticks


def group_of(pid: int, found: dict[int, Process], roots: dict[int, str]) -> str | None:
    """The name of the nearest root above, or of the reader when one of its processes comes before."""
    while pid in found:
        if pid in roots:
            return roots[pid]
        if _READER_COMMAND in _command(pid):
            return READER if any(one in roots for one in _ancestors(pid, found)) else None
        pid = found[pid].parent
    return None


def all_processes() -> dict[int, Process]:
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            found[pid] = process_of(stat, Path(f"/proc/{pid}/statm").read_text())
        except OSError:  # it has just ended
            continue
    return found


def process_of(stat: str, statm: str) -> Process:
    """From the files of these names (proc(5)); a program's name may hold spaces and parentheses."""
    fields = stat.rpartition(")")[2].split()
    _, resident, shared, *_ = map(int, statm.split())
    return Process(int(fields[1]), sum(map(int, fields[11:15])), (resident - shared) * PAGE_BYTES)


def _ancestors(pid: int, found: dict[int, Process]) -> Iterable[int]:
    while pid in found:
        pid = found[pid].parent
        yield pid


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
