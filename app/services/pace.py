"""How fast a document is read: what is slow may not hold every worker."""

from app.pdf.processes import cpu_seconds_of

SLOW_SECONDS = 10.0
# Reading a page takes milliseconds, opening a document tens of them: so long a step is a bad sign.
SILENT_SECONDS = 0.5


class ReadingPace:
    """Counts the CPU time of the reading processes: by the clock everything is slow on a busy machine."""

    def __init__(self) -> None:
        self._pid = 0
        self._before = 0.0  # what processes that have ended had used
        self._used = 0.0
        self._used_by_last_note = 0.0
        self._is_noted = False
        self._is_stopped = False

    def note(self, pid: int) -> None:
        """The reading goes on, in this process."""
        if pid and pid != self._pid:
            self._pid, self._before = pid, self._before + self._used
            self._used = self._used_by_last_note = 0.0
        self._is_noted = True

    def stop(self) -> None:
        """All is read: from here on nothing is slow."""
        self._is_stopped = True

    def is_slow(self) -> bool:
        """Ask often: what was used since the last note is known as exactly as that."""
        if not self._pid or self._is_stopped:
            return False
        self._used = max(self._used, cpu_seconds_of(self._pid))
        if self._is_noted:
            self._is_noted, self._used_by_last_note = False, self._used
        is_silent = self._used - self._used_by_last_note > SILENT_SECONDS
        return is_silent or self._before + self._used > SLOW_SECONDS
