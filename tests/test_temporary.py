"""Folders that a killed process leaves behind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.temporary import YOUNG_SECONDS, remove_abandoned, temporary_folder
from tests.processes import PROJECT

MAKE = """
import sys
from app.temporary import TemporaryFolder
folder = TemporaryFolder("copy")
(folder.path / "a.pdf").touch()
print(folder.path, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def make_old(path: Path) -> None:
    then = path.stat().st_mtime - YOUNG_SECONDS - 1
    os.utime(path, (then, then))


def test_a_folder_is_there_for_the_block_only() -> None:
    with temporary_folder("copy") as path:
        (path / "a.pdf").touch()
        make_old(path)
        assert remove_abandoned() == []
    assert not path.exists()


def test_what_a_killed_process_leaves_is_removed_and_what_a_living_one_has_is_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKE], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        make_old(path)
        assert remove_abandoned() == []
        process.kill()
        process.wait()
        assert remove_abandoned() == [path.name]
    assert not path.exists()


def test_what_is_new_or_somebody_elses_stays(tmp_path: Path) -> None:
    (tmp_path / "pdf-ingest-copy-young").mkdir()
    (tmp_path / "pdf-ingest-demo-1").mkdir()
    make_old(tmp_path / "pdf-ingest-demo-1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "pdf-ingest-copy-link").symlink_to(tmp_path / "outside")
    make_old(tmp_path / "outside")
    assert remove_abandoned() == []
    assert (tmp_path / "outside").exists()
