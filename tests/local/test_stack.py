"""`pdf-ingest up`, started and stopped like a user does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from app.local.embedded import free_port
from tests.processes import api_processes
from tests.stacks import PROJECT, Up, until


def are_gone(processes: list[psutil.Process]) -> bool:
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def run_up(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.local.cli", "up", *options]
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


@pytest.mark.parametrize("part", ["worker", "api", "valkey", "postgres"])
def test_a_part_that_is_killed_is_started_again_and_that_is_said(up: Up, part: str) -> None:
    killed = up.pid_of(part)
    os.kill(killed, signal.SIGKILL)
    up.wait_for(f"{part} was ended by SIGKILL; starting it again")
    until(lambda: up.pid_of(part) != killed and up.is_ready())
    up.ingest("salt-marsh-article.pdf", on_duplicate="keep")


@pytest.mark.heavy
def test_a_stack_beside_another_keeps_its_documents_through_ctrl_c_and_kill(up: Up, tmp_path: Path) -> None:
    with Up(tmp_path / "second") as first:
        document_id = first.ingest("wildbienen.pdf")
        assert httpx.get(f"{up.url}/documents/{document_id}").status_code == 404
        key = (first.data_dir / "secret.key").read_text()
        family = first.family()
        assert first.stop(signal.SIGINT) == 0
        assert are_gone(family)
    with Up(first.data_dir, port=first.port) as second:
        assert second.has(document_id)
        family = second.family()
        second.process.kill()
        second.process.wait()
        with Up(first.data_dir, port=first.port) as third:
            assert are_gone(family)
            assert third.has(document_id)
            assert (first.data_dir / "secret.key").read_text() == key


@pytest.mark.heavy
def test_a_stack_with_two_api_processes_ends_whole_whether_told_to_or_killed(tmp_path: Path) -> None:
    with Up(tmp_path, API_PROCESSES="2") as first:
        document_id = first.ingest("wildbienen.pdf")
        parent = psutil.Process(first.pid_of("api"))
        (api, other) = api_processes(parent)
        api.kill()
        until(lambda: api not in (now := api_processes(parent)) and len(now) == 2)
        assert other in api_processes(parent)
        assert first.has(document_id)
        family = first.family()
        assert first.stop() == 0
        assert are_gone(family)
    with Up(tmp_path, port=first.port, API_PROCESSES="2") as second:
        family = second.family()
        second.process.kill()
        second.process.wait()
        with Up(tmp_path, port=first.port, API_PROCESSES="2") as third:
            assert are_gone(family)
            assert third.has(document_id)


def test_what_the_environment_has_for_other_servers_and_programs_is_not_taken(tmp_path: Path) -> None:
    for_others = {
        "DATABASE_URL": "postgres://somebody@nowhere/x",
        "CELERY_BROKER_URL": "kafka://nowhere",
        "STORAGE_URL": "/nowhere",
        "SECRET_KEY_FILE": str(tmp_path),
        "PGSERVICE": "nowhere",
        "PGSSLMODE": "verify-full",
    }
    with Up(tmp_path / "data", **for_others) as stack:
        stack.ingest("wildbienen.pdf")


def test_where_no_worker_could_start_that_is_said_instead_of_trying_for_ever(tmp_path: Path) -> None:
    """Without a /dev/shm that can be written, the processes of a worker can share no locks."""
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    read_only = "mount -t tmpfs -o ro tmpfs /dev/shm"
    if subprocess.run([*own_mounts, read_only], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    up = f'{read_only} && exec "$0" -m app.local.cli up --port {free_port()} --data-dir "$1"'
    refused = subprocess.run(
        [*own_mounts, up, sys.executable, tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "The worker's processes cannot share locks: Read-only file system." in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.program("make")
def test_make_is_not_led_astray_by_another_python(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('that of another')")
    made = subprocess.run(
        ["make", "-o", ".venv/installed", "up", "ARGS=--help", f"PYTHON={sys.executable}"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONHOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Run the whole service here" in made.stdout, made.stderr


def test_a_stack_that_cannot_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("not a folder")
    refused = run_up("--port", str(free_port()), "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"The stack cannot be started in {tmp_path}: ")
    assert refused.stderr.count("\n") == 1
    folders = [process.info["cwd"] or "" for process in psutil.process_iter(["cwd"])]
    assert not [folder for folder in folders if folder.startswith(str(tmp_path))]
