"""Whether the database is as this version of the program needs it."""

from functools import cache
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_MIGRATIONS = Path(__file__).parents[2] / "alembic"


@cache
def _revisions() -> tuple[str, ...]:
    """All migrations of this version of the program, newest first. Reads files."""
    return tuple(script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions())


def newest_revision() -> str:
    return _revisions()[0]


def is_behind(revision: str | None) -> bool:
    """Whether migrations are missing. One that is not known is newer: an upgrade is under way."""
    return revision is None or revision in _revisions()[1:]


async def read_revision(connection: AsyncConnection) -> str | None:
    """The migration the database is at; None for a database without any."""
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = await connection.scalar(text("SELECT max(version_num) FROM alembic_version"))
    return revision


async def read_live_space(connection: AsyncConnection) -> int | None:
    """The id of the embedding space that is live."""
    space_id: int | None = await connection.scalar(text("SELECT id FROM embedding_spaces WHERE is_live"))
    return space_id
