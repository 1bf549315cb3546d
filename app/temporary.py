"""Folders for a while, that are found out and removed should their process be killed.

The process that makes one holds a lock on it, and so do the children it forks; the kernel gives it up with
the last of them. What nobody holds is nobody's.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

Purpose = Literal["copy", "metrics", "probe"]
YOUNG_SECONDS = 60.0  # so young a folder may not be locked yet


class TemporaryFolder:
    """A new folder, locked."""

    def __init__(self, purpose: Purpose) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"pdf-ingest-{purpose}-"))
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Takes a while when much is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._descriptor)


@contextmanager
def temporary_folder(purpose: Purpose) -> Iterator[Path]:
    folder = TemporaryFolder(purpose)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_abandoned() -> list[str]:
    """Remove the folders of processes that were killed; their names."""
    names = []
    temporary = Path(tempfile.gettempdir())
    for path in (path for purpose in get_args(Purpose) for path in temporary.glob(f"pdf-ingest-{purpose}-*")):
        with suppress(OSError):  # somebody else's, or just removed
            if path.stat().st_mtime < time.time() - YOUNG_SECONDS and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
                names.append(path.name)
    return names


def _is_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
