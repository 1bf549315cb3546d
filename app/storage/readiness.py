"""Whether the database is as this version of the program needs it, and whether its work is taken up."""

import re
from datetime import datetime
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage.reach import TENANT_ROLE
from app.storage.runs.conditions import IS_DUE

WORKERS_SILENT_SECONDS = 30  # a message for a worker that is there is answered in one
_MIGRATIONS = Path(__file__).parents[2] / "alembic"
_REVISION = re.compile(r'^(revision|down_revision) = (?:"(\w+)"|None)$', re.MULTILINE)


@cache
def _revisions() -> tuple[str, ...]:
    """All migrations of this version of the program, newest first. Reads files.

    Alembic says the same, as a test sees to; to load it and all the migrations takes 0.4 s of a start.
    """
    next_after: dict[str, str] = {}
    for file in (_MIGRATIONS / "versions").glob("*.py"):
        names = dict(_REVISION.findall(file.read_text()))
        next_after[names["down_revision"]] = names["revision"]
    revisions = [next_after[""]]
    while revisions[0] in next_after:
        revisions.insert(0, next_after[revisions[0]])
    return tuple(revisions)


def is_behind(revision: str | None) -> bool:
    """Whether migrations are missing."""
    return revision is None or revision in _revisions()[1:]


def is_ahead(revision: str | None) -> bool:
    """Whether a newer version has migrated: an upgrade is under way, or was gone back from."""
    return revision is not None and revision not in _revisions()


async def read_revision(connection: AsyncConnection) -> str | None:
    """The migration the database is at; None for a database without any."""
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = await connection.scalar(text("SELECT max(version_num) FROM alembic_version"))
    return revision


async def is_read_only(connection: AsyncConnection) -> bool:
    """Whether the server takes no writes: a standby, or set so."""
    return bool(await connection.scalar(text("SELECT current_setting('transaction_read_only')::boolean")))


async def has_tenant_role(connection: AsyncConnection) -> bool:
    """Whether requests of bound keys can be answered: the role is there, ours to take, and has its rights."""
    found = await connection.scalar(
        text(
            "SELECT pg_has_role(session_user, oid, 'MEMBER')"
            " AND has_table_privilege(oid, 'documents', 'SELECT') FROM pg_roles WHERE rolname = :role"
        ),
        {"role": TENANT_ROLE},
    )
    return bool(found)


async def read_live_space(connection: AsyncConnection) -> int | None:
    """The id of the embedding space that is live."""
    space_id: int | None = await connection.scalar(text("SELECT id FROM embedding_spaces WHERE is_live"))
    return space_id


async def read_left_since(connection: AsyncConnection) -> datetime | None:
    """Since when work has waited that no worker has asked for; None where one has, or has some in hand."""
    silent = f"clock_timestamp() - interval '{WORKERS_SILENT_SECONDS} seconds'"
    since: datetime | None = await connection.scalar(
        text(f"""
        SELECT CASE WHEN NOT EXISTS (SELECT FROM workers WHERE seen_at > {silent})
            AND NOT EXISTS (SELECT FROM ingestions WHERE status = 'processing')
        THEN (
            SELECT coalesce(next_attempt_at, created_at) AS due_at FROM ingestions
            WHERE {IS_DUE} AND coalesce(next_attempt_at, created_at) < {silent} ORDER BY 1 LIMIT 1
        ) END
        """)
    )
    return since
