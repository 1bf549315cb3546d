"""The reader's parent: it loads what reading needs once, then forks a process for each document.

`python -m app.pdf.sandbox.parent OWNER_PID MEMORY_BYTES OCR_PAGE_SECONDS OCR_LANGUAGES`, with a socket as
standard input. One byte over it, with three descriptors (the file, a socket for the reading process, a
socket for the owner), starts a document. The number of the process goes to the owner's socket, and when it
ends, its exit; when the owner hangs up, the process is killed. When the owner itself is gone, so is
everything here.

A reading process can start none. For a page to recognise it asks here, and gets two pipes to a tesseract
that is confined as it is.
"""

import codecs
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from app.pdf.sandbox import child, confinement
from app.pdf.sandbox.engines import engine_called
from app.pdf.sandbox.ocr import DPI, PATIENCE, STATUS, command
from app.pdf.wire import EXIT, PID, Recognition

DESCRIPTORS = 3
# Then the second engine is loaded too: 0.2 s that no document has to wait for.
FIRST_IDLE_SECONDS = 0.5
# Python loads a codec when it is first asked for, and a reading process may be unable to.
CODECS = ("ascii", "charmap", "latin-1", "utf-16", "utf-16-be", "utf-16-le")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class _Reader:
    """A reading process: who waits for it, where it asks for tesseract, and whether one is at work.

    `is_refused`: it has asked for what it may not.
    """

    def __init__(self, owner: socket.socket, asking: socket.socket) -> None:
        self.owner = owner
        self.asking = asking
        self.is_served = False
        self.is_refused = False
        asking.setblocking(False)


class Parent:
    def __init__(self, control: socket.socket, recognition: Recognition) -> None:
        self._control = control
        self._recognition = recognition
        self._is_private = not confinement.can_all_read_our_folders()
        self._readers: dict[int, _Reader] = {}
        self._recognisers: dict[int, int] = {}
        self._is_ended = False
        self._selector = selectors.DefaultSelector()
        self._wake_up, self._alarm = socket.socketpair()
        self._alarm.setblocking(False)
        self._wake_up.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._alarm.fileno())
        self._when_readable(control, self._begin)
        self._when_readable(self._wake_up, self._reap)

    def serve(self) -> None:
        """Until the owner closes the control socket."""
        idle_seconds: float | None = FIRST_IDLE_SECONDS
        while not self._is_ended:
            ready = self._selector.select(idle_seconds)
            if not ready:
                idle_seconds = None
                engine_called("pypdf")
                gc.freeze()
            for key, _ in ready:
                key.data()
        for pid in self._readers:
            os.killpg(pid, signal.SIGKILL)

    def _when_readable(self, source: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, act)

    def _ignore(self, source: socket.socket) -> None:
        with suppress(KeyError):
            self._selector.unregister(source)

    def _begin(self) -> None:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, DESCRIPTORS)
        if len(descriptors) != DESCRIPTORS:
            self._is_ended = not message
            return
        file, channel, owner = descriptors
        asking, far_asking = socket.socketpair()
        kept = (file, channel, far_asking.fileno())
        pid = self._forked(0, partial(child.live, *kept), *kept)
        far_asking.close()
        os.close(file)
        os.close(channel)
        reader = self._readers[pid] = _Reader(socket.socket(fileno=owner), asking)
        with suppress(OSError):
            reader.owner.send(PID.pack(pid))
        self._when_readable(reader.owner, partial(self._kill, pid))
        self._when_readable(asking, partial(self._recognise, pid))

    def _forked(self, group: int, live: Callable[[], None], *kept: int) -> int:
        """A child with a group of its own (0) or in another's, which keeps only these descriptors."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_child(parent, group, live, kept)
        with suppress(OSError):  # it did so itself, and has ended or become tesseract since
            os.setpgid(pid, group or pid)
        return pid

    def _become_child(
        self, parent: int, group: int, live: Callable[[], None], kept: tuple[int, ...]
    ) -> NoReturn:
        is_done = False
        try:
            with suppress(PermissionError):
                os.setpgid(0, group)
            confinement.become_own_user(keeps_reading=self._is_private)
            confinement.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            confinement.close_all_but(*kept)
            live()
            is_done = True
        finally:
            os._exit(0 if is_done else 1)

    def _recognise(self, pid: int) -> None:
        """Starts a tesseract for a reading process, one at a time; whoever asks otherwise is killed."""
        if (reader := self._readers.get(pid)) is None:
            return
        try:
            asked = reader.asking.recv(DPI.size + 1)
            if not asked:
                self._ignore(reader.asking)
            elif len(asked) != DPI.size or reader.is_served or not self._recognition.languages:
                reader.is_refused = True
                self._kill(pid)
            else:
                self._serve(pid, reader, *DPI.unpack(asked))
        except OSError:
            self._kill(pid)

    def _serve(self, pid: int, reader: _Reader, dpi: int) -> None:
        picture, far_picture = os.pipe()
        far_table, table = os.pipe()
        try:
            live = partial(_become_tesseract, self._recognition, dpi, picture, table)
            self._recognisers[self._forked(pid, live, picture, table)] = pid
            reader.is_served = True
            socket.send_fds(reader.asking, [b"+"], [far_picture, far_table])
        finally:
            for descriptor in (picture, far_picture, far_table, table):
                os.close(descriptor)

    def _kill(self, pid: int) -> None:
        """The process and its tesseract, unless it is reaped; its exit still goes to the owner."""
        if reader := self._readers.get(pid):
            self._ignore(reader.owner)
            self._ignore(reader.asking)
            os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        self._wake_up.recv(4096)
        while (pid := _exited_child()) is not None:
            reader = self._readers.pop(pid, None)
            if reader is not None:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            if reader is not None:
                status = signal.SIGSYS if reader.is_refused else status  # SIGKILL is what others end it with
                memory_bytes, cpu_seconds = usage.ru_maxrss * _RSS_UNIT, usage.ru_utime + usage.ru_stime
                self._tell(reader, EXIT.pack(status, memory_bytes, cpu_seconds))
            elif served := self._readers.get(self._recognisers.pop(pid, 0)):
                served.is_served = False
                with suppress(OSError):
                    served.asking.send(STATUS.pack(status))

    def _tell(self, reader: _Reader, how: bytes) -> None:
        self._ignore(reader.owner)
        self._ignore(reader.asking)
        with reader.asking, reader.owner, suppress(OSError):
            reader.owner.send(how)


def _exited_child() -> int | None:
    """One that has ended and is not reaped yet, so that its process group can still be named."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def _become_tesseract(recognition: Recognition, dpi: int, picture: int, table: int) -> None:
    program, *arguments = command(recognition.languages, dpi)
    os.dup2(picture, 0)
    os.dup2(table, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Both outlive exec: SIGPROF ends it by its CPU time, SIGALRM should it get none.
    signal.setitimer(signal.ITIMER_PROF, recognition.page_seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * recognition.page_seconds)
    confinement.limit(recognition.memory_bytes, int(recognition.page_seconds) + 1)
    confinement.confine(may_execute=True)
    os.execv(program, [program, *arguments])  # noqa: S606 - a fixed program and our own settings


def main() -> None:
    owner, memory_bytes, page_seconds, languages = sys.argv[1:]
    confinement.prepare()
    confinement.die_with_parent(int(owner))
    confinement.adopt_orphans()
    for name in CODECS:
        codecs.lookup(name)
    gc.freeze()
    recognition = Recognition(int(memory_bytes), float(page_seconds), languages)
    Parent(socket.socket(fileno=0), recognition).serve()


if __name__ == "__main__":
    main()
