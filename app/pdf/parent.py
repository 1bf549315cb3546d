"""The reader's parent: it loads what reading needs once, then forks a process for each document.

`python -m app.pdf.parent OWNER_PID`, with a socket as standard input. One byte over it, with three
descriptors (the file, a socket for the reading process, a socket for the owner), starts a document.
The number of the process goes to the owner's socket, and when it ends, its exit; when the owner hangs up,
the process and all it started are killed. When the owner itself is gone, so is everything here.
"""

import gc
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import NoReturn

from app.pdf import child, sandbox
from app.pdf.engines import engine_called

PID = struct.Struct("=i")
EXIT = struct.Struct("=iqd")
"""Wait status, the most memory the process used, in bytes, and its CPU time in seconds."""
DESCRIPTORS = 3
FIRST_IDLE_SECONDS = 0.5
"""Then the second engine is loaded too: 0.2 s that no document has to wait for."""
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Parent:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._owners: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._wake_up, alarm = socket.socketpair()
        alarm.setblocking(False)
        self._wake_up.setblocking(False)
        self._alarm = alarm
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm.fileno())
        self._selector.register(self._wake_up, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the owner closes the control socket."""
        idle_seconds: float | None = FIRST_IDLE_SECONDS
        while True:
            ready = self._selector.select(idle_seconds)
            if not ready:
                idle_seconds = None
                engine_called("pypdf")
                gc.freeze()
            for key, _ in ready:
                if key.fileobj is self._control:
                    if not self._begin():
                        return self._end_all()
                elif key.fileobj is self._wake_up:
                    self._wake_up.recv(4096)
                    self._reap()
                else:
                    self._kill(key.data)

    def _begin(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, DESCRIPTORS)
        if len(descriptors) != DESCRIPTORS:
            return bool(message)
        file, channel, owner = descriptors
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_child(parent, file, channel)
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)
        os.close(file)
        os.close(channel)
        self._owners[pid] = socket.socket(fileno=owner)
        with suppress(OSError):
            self._owners[pid].send(PID.pack(pid))
        self._selector.register(self._owners[pid], selectors.EVENT_READ, pid)
        return True

    def _kill(self, pid: int) -> None:
        """The process and all it started, unless it is reaped; its exit still goes to the owner."""
        if pid in self._owners:
            self._selector.unregister(self._owners[pid])
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while (pid := _exited_child()) is not None:
            owner = self._owners.pop(pid, None)
            if owner is not None:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            if owner is not None:
                with suppress(KeyError):
                    self._selector.unregister(owner)
                with owner, suppress(OSError):
                    cpu_seconds = usage.ru_utime + usage.ru_stime
                    owner.send(EXIT.pack(status, usage.ru_maxrss * _RSS_UNIT, cpu_seconds))

    def _end_all(self) -> None:
        for pid in self._owners:
            os.killpg(pid, signal.SIGKILL)


def _exited_child() -> int | None:
    """One that has ended and is not reaped yet, so that its process group can still be named."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def _become_child(parent: int, file: int, channel: int) -> NoReturn:
    is_done = False
    try:
        sandbox.die_with_parent(parent)
        with suppress(PermissionError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sandbox.close_all_but(file, channel)
        child.live(file, channel)
        is_done = True
    finally:
        os._exit(0 if is_done else 1)


def main() -> None:
    sandbox.die_with_parent(int(sys.argv[1]))
    sandbox.adopt_orphans()
    gc.freeze()
    Parent(socket.socket(fileno=0)).serve()


if __name__ == "__main__":
    main()
