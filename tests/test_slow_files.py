"""Files that take long do not hold up the others: a whole stack, bombs, and good files among them."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.pdfs.builder import pages, shown
from tests.pdfs.hostile import billion_laughs, prose
from tests.stacks import Up, until

WORKERS = 2
BOMBS = 20
SECONDS = 60
MEGABYTE = 2**20


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with Up(tmp_path / "stack", workers=WORKERS) as running:
        yield running


@pytest.fixture
def api(stack: Up) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=70) as client:
        yield client


def upload(api: httpx.Client, content: bytes, number: int) -> str:
    """The task's id. The number makes it a file of its own."""
    content += f"\n%{number}".encode()
    accepted = api.post("/documents", files={"file": (f"{number}.pdf", content)})
    return str(accepted.raise_for_status().json()["task_id"])


def task_of(api: httpx.Client, task_id: str, wait: int = 60) -> dict[str, Any]:
    return dict(api.get(f"/tasks/{task_id}", params={"wait": wait}).json())


def seconds_between(task: dict[str, Any], start: str, end: str) -> float:
    took: timedelta = datetime.fromisoformat(task[end]) - datetime.fromisoformat(task[start])
    return took.total_seconds()


def readers(stack: Up) -> list[psutil.Process]:
    """The reading processes, without the parents that fork them."""
    worker = psutil.Process(stack.pid_of("worker"))
    return [
        reader
        for child in worker.children()
        for parent in child.children()
        for reader in parent.children(recursive=True)
    ]


def temporary_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "metrics" not in str(path)}


@pytest.mark.heavy
def test_bombs_do_not_hold_up_good_files(stack: Up, api: httpx.Client, tmp_path: Path) -> None:
    # What each process opens once, it has open from here on. The model that tells languages apart, 75 MB,
    # is loaded for what is not English, as a bomb's text is not.
    foreign = pages([shown("Die Fischer fahren mit der Flut hinaus und kommen erst am Abend heim.")] * 200)
    for task_id in [upload(api, foreign, -number - 1) for number in range(6)]:
        assert task_of(api, task_id)["status"] == "success"
    processes = psutil.Process(stack.pid_of("worker")).children()
    before = [(process.pid, process.num_fds(), process.memory_info().rss) for process in processes]
    files_before = temporary_files(tmp_path / "temporary")

    slow = [upload(api, billion_laughs(), number) for number in range(BOMBS)]
    good = []
    for number in range(SECONDS):
        good.append(upload(api, prose(3), number))
        time.sleep(1)
    tasks = [task_of(api, task_id) for task_id in good]
    assert [task["status"] for task in tasks] == ["success"] * SECONDS
    assert max(seconds_between(task, "started_at", "finished_at") for task in tasks) < 5
    assert any(task_of(api, task_id, wait=0)["status"] in ("queued", "processing") for task_id in slow)
    # By the end all bombs are known: one of them is worked on, and the others wait for it.
    assert seconds_between(tasks[-1], "created_at", "started_at") < 5

    for task_id in slow:
        api.post(f"/tasks/{task_id}/cancel").raise_for_status()
        assert task_of(api, task_id)["status"] in ("cancelled", "success", "error")
    until(lambda: not readers(stack))
    after = [(process.pid, process.num_fds(), process.memory_info().rss) for process in processes]
    assert [pid for pid, _, _ in after] == [
        child.pid for child in psutil.Process(stack.pid_of("worker")).children()
    ]
    # Pools of connections may have grown; it would show if each bomb left a descriptor.
    assert sum(fds for _, fds, _ in after) - sum(fds for _, fds, _ in before) < BOMBS
    for (_, _, bytes_before), (_, _, bytes_after) in zip(before, after, strict=True):
        assert bytes_after - bytes_before < 50 * MEGABYTE
    assert temporary_files(tmp_path / "temporary") <= files_before


@pytest.mark.heavy
def test_a_slow_file_ends_although_others_never_stop_coming(stack: Up, api: httpx.Client) -> None:
    for task_id in [upload(api, prose(20), -number - 1) for number in range(4)]:
        task_of(api, task_id)
    slow = upload(api, billion_laughs(), 1)
    deadline = time.monotonic() + 60
    number = 2
    while task_of(api, slow, wait=0)["status"] not in ("success", "error"):
        assert time.monotonic() < deadline, task_of(api, slow, wait=0)
        upload(api, prose(20), number := number + 1)
        time.sleep(0.1)
    task = task_of(api, slow)
    assert task["attempt"] == 1, "making way is no attempt"
