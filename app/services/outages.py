"""The breaker: whether a service that all work needs is out, found by a probe and known to the fleet."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from app.errors import DatabaseUnavailable, PDFIngestError, StorageFailed
from app.storage import outages, sweep
from app.storage.database import Database
from app.storage.files import FileStore

PROBE_SECONDS = 10.0
LOOK_SECONDS = 1.0
NEWEST_FILES = 9
FEW_FILES = 3  # one or two may have been deleted by hand
ANOTHER_STORE = (
    "Most of the newest files are not in the file store: its disk is not mounted, or the STORAGE_URL of a "
    "program leads to another place than that of the others."
)

log = structlog.get_logger(__name__)

Probe = Callable[[], Awaitable[object]]


async def probe_file_store(database: Database, files: FileStore) -> None:
    """Whether it does its work, and is the one that has the files of this database. Raises StorageFailed."""
    async with database.autocommit() as connection:
        newest = await sweep.newest_files(connection, NEWEST_FILES)
    await files.probe(is_new=not newest)
    found = [key for key in newest if await files.has(key)]
    if len(newest) >= FEW_FILES and len(found) * 2 < len(newest):
        raise StorageFailed(ANOTHER_STORE)


class Outages:
    """`probes` tries each service with something that no document has a part in, and raises if it fails."""

    def __init__(self, database: Database, probes: Mapping[str, Probe]) -> None:
        self._database = database
        self._probes = probes

    async def report(self, service: str, error: PDFIngestError) -> bool:
        """Whether the service is out: what one document meets and a probe does not is no outage."""
        if service not in self._probes:
            return False
        if await self.has_any(service):
            return True
        failure = await self._failure(service)
        if failure is None:
            return False
        async with self._database.autocommit() as connection:
            is_new = await outages.begin_outage(connection, service, failure)
        if is_new:
            log.error("outage", service=service, reason=failure, met=error.message)
        return True

    async def has_any(self, *services: str) -> bool:
        """Whether one of these is out, or any at all."""
        found = await outages.services_out(self._database)
        return bool(found.intersection(services) if services else found)

    async def wait(self) -> None:
        """Until nothing is out."""
        while await self.has_any():  # noqa: ASYNC110 - it ends in the database
            await asyncio.sleep(LOOK_SECONDS)

    async def probe(self) -> None:
        """Try what is out and due for a try; what works again is an outage no more."""
        if not await self.has_any():
            return
        async with self._database.autocommit() as connection:
            services = await outages.take_probes(connection)
        for service in services:
            failure = await self._failure(service) if service in self._probes else None
            async with self._database.autocommit() as connection:
                if failure is not None:
                    await outages.note_reason(connection, service, failure)
                elif (seconds := await outages.end_outage(connection, service)) is not None:
                    log.info("outage over", service=service, seconds=round(seconds, 1))

    async def _failure(self, service: str) -> str | None:
        """Why the service does not do its work; None when it does."""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._probes[service]()
        except DatabaseUnavailable:  # nothing is known of the service, nor could it be told
            raise
        except TimeoutError:
            return f"It did not answer within {PROBE_SECONDS:.0f} seconds."
        except PDFIngestError as error:
            return error.message
        return None
