"""How fast a document is read: what is slow may not hold every worker."""

import time

SLOW_SECONDS = 10.0
SILENT_SECONDS = 0.5
"""Reading a page takes milliseconds, opening a document tens of them: so long a step is a bad sign."""


class ReadingPace:
    """Counts from the first note, which comes when the reading process has begun."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._noted = 0.0

    def note(self) -> None:
        """The reading goes on."""
        self._noted = time.monotonic()
        if self._began is None:
            self._began = self._noted

    @property
    def is_slow(self) -> bool:
        now = time.monotonic()
        return self._began is not None and (
            now - self._began > SLOW_SECONDS or now - self._noted > SILENT_SECONDS
        )
