"""A rolling upgrade: a worker of the next version, whose migration has run, beside one of this version."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from alembic.script import ScriptDirectory
from celery import Celery

from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.storage.database import Database
from tests.databases import empty_broker, migrated
from tests.processes import PROJECT, WorkerProcess
from tests.test_worker import ingest, row_of, write_pdf

NEXT_MIGRATION = f'''
"""expand: a column that this version does not know"""

from alembic import op

revision = "29990101a"
down_revision = "{ScriptDirectory("alembic").get_current_head()}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE ingestions ADD COLUMN shelf text NOT NULL DEFAULT 'unknown'")


def downgrade() -> None:
    op.execute("ALTER TABLE ingestions DROP COLUMN shelf")
'''


def copy_of_next_version(folder: Path) -> Path:
    for part in ("app", "alembic"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "alembic.ini", folder)
    (folder / "alembic" / "versions" / "2999-01-01_expand.py").write_text(NEXT_MIGRATION)
    return folder


@pytest.mark.heavy
async def test_workers_of_two_versions_share_the_work(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    newer = copy_of_next_version(tmp_path / "next")
    broker_url = empty_broker(valkey, 13)
    (tmp_path / "incoming").mkdir()
    environment = {
        "DATABASE_URL": await migrated(postgres, f"versions_{uuid4().hex}"),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": broker_url,
        "STORAGE_URL": (tmp_path / "files").as_uri(),
        "INGEST_FOLDERS": str(tmp_path / "incoming"),
        "PYTHONPATH": "",
    }
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=newer,
        env=environment | {"PYTHONPATH": str(newer)},
        check=True,
    )
    options = ("--concurrency", "1", "--hostname")
    with (
        Celery(broker=broker_url, backend=broker_url) as client,
        WorkerProcess(environment, tmp_path / "old.log", *options, "old@here") as old,
        WorkerProcess(environment, tmp_path / "new.log", *options, "new@here", folder=newer) as new,
    ):
        while len(await asyncio.to_thread(lambda: client.control.inspect(timeout=0.5).ping() or {})) < 2:
            for worker in (old, new):
                assert psutil.pid_exists(worker.pid), worker.output()
        pids = {worker: {child.pid for child in worker.children()} for worker in (old, new)}
        paths = [write_pdf(tmp_path / "incoming" / f"{number}.pdf", pages=6) for number in range(16)]
        task_ids = [str(uuid4()) for _ in paths]
        results = await asyncio.gather(*(ingest(client, *task) for task in zip(paths, task_ids, strict=True)))
    database = Database(environment["DATABASE_URL"])
    holders = {int((await row_of(database, task_id)).worker.split("/")[-2]) for task_id in task_ids}
    await database.close()
    assert {result["status"] for result in results} == {"success"}
    assert holders & pids[old]
    assert holders & pids[new]
