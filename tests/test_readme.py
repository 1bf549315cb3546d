"""What the README tells people to type works as written."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from app.config import Settings
from tests.stacks import PROJECT, Up

README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
VARIABLE = r"\b[A-Z]+(?:_[A-Z]+)+\b"


@pytest.mark.program("curl")
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
    tables = README.split("## Settings")[1].split("## Where")[0]
    tables += (PROJECT / "docs" / "running.md").read_text().split("## Docker")[0]
    named = set(re.findall(r"`([A-Z_]+)`", tables))
    assert len(named) > 20
    assert named <= {name.upper() for name in Settings.model_fields}
    targets = set(re.findall(r"^([a-z-]+):.*##", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_paths_it_names_exist() -> None:
    table = README.split("## Where things are")[1].split("## Contribute")[0]
    paths = [path for row in table.split("\n") for path in re.findall(r"`([a-z_/.]+)`", row.split(" | ")[0])]
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_or_a_heading_leads_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", page.read_text()):
        target, _, heading = "".join(link).partition("#")
        if not target.startswith("https://"):
            file = page.parent / target if target else page
            assert file.exists(), link
            assert not heading or heading in headings_of(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_every_variable_it_names_is_there(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"`((?:app|benchmarks|tests)/[\w./]+)`", text)
    assert [file for file in files if not (PROJECT / file).exists()] == []
    known = {name.upper() for name in Settings.model_fields}
    sources = [PROJECT / "docker-compose.yml", *(PROJECT / "app").rglob("*.py")]
    for source in sources:
        known.update(re.findall(VARIABLE, source.read_text()))
    assert set(re.findall(VARIABLE, text)) <= known


def headings_of(page: Path) -> set[str]:
    """As GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
