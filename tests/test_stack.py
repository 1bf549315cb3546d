"""`pdf-ingest up`, started and stopped like a user does."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from app.embedded import free_port
from tests.stacks import PROJECT, Up, until


def are_gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def run_up(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "up", *options]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)


def test_a_document_goes_all_the_way_through(up: Up) -> None:
    up.ingest("annual-report.pdf")
    hits = httpx.post(f"{up.url}/search", json={"query": "sheep on the meadow"}).json()["data"]
    assert hits[0]["filename"] == "annual-report.pdf"


def test_secrets_in_the_data_folder_are_the_owners_alone(up: Up) -> None:
    for name in ("secret.key", "processes.json", "postgres/password", "valkey/password"):
        assert (up.data_dir / name).stat().st_mode & 0o777 == 0o600
    assert up.data_dir.stat().st_mode & 0o777 == 0o700


def test_another_stack_refuses_the_same_folder_in_one_sentence(up: Up) -> None:
    refused = run_up("--port", str(free_port()), "--data-dir", str(up.data_dir))
    assert refused.returncode == 1
    assert "is in use by another running stack" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert up.is_ready()


def test_another_stack_refuses_the_same_port_in_one_sentence(up: Up, tmp_path: Path) -> None:
    refused = run_up("--port", str(up.port), "--data-dir", str(tmp_path / "other"))
    assert refused.returncode == 1
    assert refused.stderr == f"Port {up.port} is in use. Choose another one with --port.\n"
    assert not (tmp_path / "other" / "postgres").exists()


def test_two_stacks_run_side_by_side(up: Up, tmp_path: Path) -> None:
    document_id = up.ingest("wildbienen.pdf")
    with Up(tmp_path / "second") as second:
        second.ingest("salt-marsh-article.pdf")
        assert httpx.get(f"{second.url}/documents/{document_id}").status_code == 404
        assert len(httpx.get(f"{second.url}/documents").json()["data"]) == 1


@pytest.mark.parametrize(
    ("part", "sign"),
    [("worker", "celery"), ("api", "uvicorn"), ("valkey", "valkey.conf"), ("postgres", r"-D cluster")],
)
def test_a_part_that_is_killed_is_started_again_and_that_is_said(up: Up, part: str, sign: str) -> None:
    killed = up.part(sign)
    killed.kill()
    up.wait_for(f"{part} was ended by SIGKILL; starting it again")
    until(lambda: up.part(sign).pid != killed.pid and up.is_ready())
    up.ingest("salt-marsh-article.pdf", on_duplicate="keep")


def test_ctrl_c_stops_everything_and_the_next_start_finds_all_documents(tmp_path: Path) -> None:
    data_dir = tmp_path / "kept"
    with Up(data_dir) as first:
        document_id = first.ingest("wildbienen.pdf")
        key = (data_dir / "secret.key").read_text()
        family = first.family()
        assert len(family) > 4
        assert first.stop(signal.SIGINT) == 0
        assert are_gone(family)
    with Up(data_dir, port=first.port) as second:
        document = httpx.get(f"{second.url}/documents/{document_id}").json()
        assert document["status"] == "ready"
        assert (data_dir / "secret.key").read_text() == key


def test_a_killed_stack_takes_its_processes_with_it_and_can_be_started_again(tmp_path: Path) -> None:
    with Up(tmp_path / "killed") as first:
        document_id = first.ingest("wildbienen.pdf")
        family = first.family()
        first.process.kill()
        first.process.wait()
        with Up(tmp_path / "killed", port=first.port) as second:
            assert are_gone(family)
            assert httpx.get(f"{second.url}/documents/{document_id}").json()["status"] == "ready"


def test_a_stack_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    before = set(psutil.pids())
    (tmp_path / "postgres").write_text("not a folder")
    refused = run_up("--port", str(free_port()), "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    born = [psutil.Process(pid) for pid in set(psutil.pids()) - before if psutil.pid_exists(pid)]
    assert not [process for process in born if str(tmp_path) in " ".join(process.cmdline())]
