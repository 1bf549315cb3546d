"""What the README tells people to type works as written."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.config import Settings
from tests.stacks import PROJECT, Up

README = (PROJECT / "README.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_examples_upload_poll_and_search(up: Up, tmp_path: Path) -> None:
    script = re.search(r"run by tests/test_readme\.py -->\n```sh\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "samples").symlink_to(PROJECT / "samples")
    finished = subprocess.run(
        ["sh", "-eu", "-c", script.replace("http://127.0.0.1:8000", up.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    accepted, task, found = map(
        json.loads, re.findall(r"\{.*?\}(?=\{\"|$)", finished.stdout.replace("\n", ""))
    )
    assert task["task_id"] == accepted["task_id"]
    assert task["status"] == "success", task
    assert "eagle" in found["data"][0]["text"]


def test_the_settings_it_names_exist_and_the_targets_too() -> None:
    table = README.split("## Settings")[1].split("## Where")[0]
    named = set(re.findall(r"`([A-Z_]+)`", table)) - {"PDF_INGEST_URL", "PDF_INGEST_API_KEY"}
    assert named <= {name.upper() for name in Settings.model_fields}
    targets = set(re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_paths_it_names_exist() -> None:
    table = README.split("## Where things are")[1].split("## Contribute")[0]
    paths = [path for row in table.split("\n") for path in re.findall(r"`([a-z_/.]+)`", row.split(" | ")[0])]
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).exists()] == []
