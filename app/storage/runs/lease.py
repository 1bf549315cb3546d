"""The fenced lease: who may work on a run, proven again inside every statement that writes for it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for an ingestion until the epoch changes.

    `language` (ISO 639-1) is what its collection says of all its documents.
    """

    ingestion_id: UUID
    epoch: int
    storage_key: str
    password: bytes | None
    retries: int
    document_id: UUID
    attempt: int
    filename: str
    language: str | None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class LostLease:
    """The lease of a dead holder. `is_own_death`: nothing else died with it."""

    ingestion_id: UUID
    epoch: int
    is_own_death: bool


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """How many chunks a run has stored, and a hash of them all."""

    count: int
    digest: bytes


@dataclass(slots=True)
class Progress:
    """How far a run has come; written with each heartbeat."""

    stage: str = "reading"
    pages_done: int = 0
    pages_total: int | None = None

    def advance(self, pages_done: int) -> None:
        """So many are stored; what was shown as done stays done."""
        self.pages_done = max(self.pages_done, pages_done)


async def write(connection: AsyncConnection, lease: Lease, statement: str, **parameters: Any) -> Any:
    """Run a fenced statement; the first column of its row. Raises LeaseLost when no row came back."""
    return (await write_row(connection, lease, statement, **parameters))[0]


async def write_row(connection: AsyncConnection, lease: Lease, statement: str, **parameters: Any) -> Row[Any]:
    found = await connection.execute(
        text(statement), {"id": lease.ingestion_id, "epoch": lease.epoch, **parameters}
    )
    row = found.one_or_none()
    if row is None:
        raise LeaseLost
    return row
