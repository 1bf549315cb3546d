"""Whether the service can do its work right now, found out in a bounded time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

import structlog

from app.embeddings.base import URGENT_SECONDS
from app.errors import SandboxIncomplete, TenantRoleMissing, Unreadable
from app.pdf.escapes import verdict
from app.pdf.reader import PDFReader
from app.services.fresh import look_at_error
from app.storage.database import Database
from app.storage.embedding_budget import Pause, find_pause
from app.storage.outages import Outage, list_outages
from app.storage.readiness import (
    has_tenant_role,
    is_behind,
    is_read_only,
    read_left_since,
    read_live_space,
    read_revision,
)

CHECK_SECONDS = 2.0
READ_ONLY = "The database takes no writes: DATABASE_URL leads to a standby, or it was set to read only."
NO_WORKER = "Documents wait, and no worker asks for them. Start one, or look why it does not run."

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """`faults`: what is not in order, with a sentence each; `degraded`: what can be missing for a while.

    `outages` says of what is degraded why and since when, as far as the database knows it. The embedding
    server has asked for `embedder_pause`.
    """

    faults: dict[str, str]
    degraded: list[str]
    outages: Sequence[Outage] = ()
    embedder_pause: Pause | None = None

    def without_broker(self) -> Self:
        """Workers hear of nothing then: that they ask for nothing is not their fault."""
        degraded = ["broker", *(service for service in self.degraded if service != "workers")]
        outages = [outage for outage in self.outages if outage.service != "workers"]
        return replace(self, degraded=degraded, outages=outages)


async def check_sandbox(reader: PDFReader, *, is_required: bool) -> str:
    """Whether a reading process can break out, tried in one: `full`, `partial (what is missing)` or `none`.

    Raises SandboxIncomplete.
    """
    try:
        succeeded = await reader.open_doors()
    except Unreadable as error:
        log.warning("the sandbox could not be tried", error=error.message)
        found = "none"
    else:
        found = verdict(succeeded)
        told = log.info if found == "full" else log.warning
        told("sandbox tried", sandbox=found, succeeded=succeeded)
    if is_required and found != "full":
        raise SandboxIncomplete(f"SANDBOX=require, but the sandbox in which PDFs are read is {found}.")
    return found


async def check_readiness(
    database: Database, space_id: int, is_broker_up: Callable[[], Coroutine[Any, Any, bool]]
) -> Readiness:
    """Look at the database and the broker at the same time; takes CHECK_SECONDS at most."""
    found, is_up = await asyncio.gather(_in_time(_ask_database(database, space_id)), _in_time(is_broker_up()))
    if found is None:
        found = Readiness({"database": "The database cannot be reached, or does not answer in time."}, [])
    return found if is_up else found.without_broker()


async def _ask_database(database: Database, space_id: int) -> Readiness:
    """All but the broker."""
    async with database.transaction() as connection:
        revision = await read_revision(connection)
        if await asyncio.to_thread(is_behind, revision):
            return Readiness({"migrations": "The database is not migrated: run `pdf-ingest migrate`."}, [])
        if await read_live_space(connection) != space_id:
            fault = "The database belongs to another embedding model now: restart."
            return Readiness({"embedding_space": fault}, [])
        if await is_read_only(connection):
            return Readiness({"database": READ_ONLY}, [])
        outages = await list_outages(connection)
        if not outages and (since := await read_left_since(connection)):
            outages = [Outage("workers", NO_WORKER, since)]
        if not await has_tenant_role(connection):
            outages.append(Outage("tenant_role", TenantRoleMissing().message, datetime.now(UTC)))
        pause = await find_pause(connection)
    degraded = {outage.service for outage in outages}
    if pause and pause.urgent_seconds > URGENT_SECONDS:
        degraded.add("embedder")
    return Readiness({}, sorted(degraded), outages, pause)


async def _in_time(check: Coroutine[Any, Any, T]) -> T | None:
    """What the check found; None when it failed or did not end in CHECK_SECONDS.

    A late check is cancelled, not awaited: giving up a connection to a server that hangs takes long too.
    """
    checking = asyncio.create_task(check)
    await asyncio.wait((checking,), timeout=CHECK_SECONDS)
    if not checking.done():
        checking.cancel()
        checking.add_done_callback(look_at_error)
        return None
    if error := checking.exception():
        log.warning("readiness check failed", error=repr(error))
        return None
    return checking.result()
