"""Programs of the system: a test finds those that its marker `program` names, and of the others these few."""

import os
import shutil
from pathlib import Path

PATH = f"{os.environ['PATH']}:/usr/sbin"  # Debian's place for pgbouncer
TAKEN_FOR_GRANTED = ("sh", "true", "unshare", "setpriv", "mount")
"""A shell, and what lets root run a Postgres and fill a disk."""


def find_program(name: str) -> str | None:
    return shutil.which(name, path=PATH)


def link_what_is_taken_for_granted(folder: Path) -> None:
    for name in TAKEN_FOR_GRANTED:
        if (program := find_program(name)) is not None:
            (folder / name).symlink_to(program)
