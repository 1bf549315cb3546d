"""What clients do with documents: add, replace, retry, change, cancel, delete. `catalog` looks at them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from functools import partial
from typing import Any, Self
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from app.errors import (
    AlreadyInWork,
    CollectionNotFound,
    DocumentNotFound,
    FileGone,
    FileNotFound,
    PasswordNeedsKey,
    QueueFull,
    QuotaExceeded,
    StorageFailed,
    StoreFull,
    TaskNotFound,
)
from app.services.admission import Admission
from app.services.audit import audit
from app.services.catalog import Catalog
from app.services.idempotency import Answer, Claim, claiming
from app.services.keys import Caller
from app.services.quotas import Limits, lock_quota, within_quota
from app.services.uploads import (
    AcceptedFile,
    ReceivedFile,
    RefusedFile,
    Upload,
    UploadOptions,
    storage_key_of,
)
from app.storage import documents, runs
from app.storage.database import Connection, Database, beyond
from app.storage.document_views import DocumentView
from app.storage.documents import Change, FailedDocuments
from app.storage.files import FileStore
from app.storage.passwords import PasswordCipher
from app.storage.reach import Reach
from app.storage.runs import NewIngestion
from app.storage.tasks import has_task
from app.storage.title_words import store_title

log = structlog.get_logger()

AT_ONCE = 500  # documents that one transaction begins or ends


class DocumentService:
    """Rows first, files after; but a file that comes in is stored before its row exists.

    `enqueue` is called with each new task after the commit, without anybody waiting for it.
    """

    def __init__(
        self,
        *,
        database: Database,
        files: FileStore,
        enqueue: Callable[[UUID], Coroutine[Any, Any, object]],
        cipher: PasswordCipher | None,
        admission: Admission,
        max_upload_bytes: int,
        space_id: int,
    ) -> None:
        self._database = database
        self._files = files
        self._enqueue = enqueue
        self._cipher = cipher
        self._admission = admission
        self._max_queued = admission.max_queued
        self._space_id = space_id
        self._afterwards: set[asyncio.Task[object]] = set()
        self._caller = Caller()
        self.max_upload_bytes = max_upload_bytes

    def for_caller(self, caller: Caller) -> Self:
        """The same service: nothing is there but what is in his reach, and on his account is what he asks."""
        bound = copy(self)
        bound._caller = caller
        return bound

    @property
    def _reach(self) -> Reach:
        return self._caller.reach

    @property
    def _catalog(self) -> Catalog:
        return Catalog(self._database, self._files, self._reach)

    async def close(self) -> None:
        """Wait for what still runs after answers: messages and deleted files."""
        if self._afterwards:
            await asyncio.wait(self._afterwards)

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[Upload]:
        """Receives files; at the end those that no row has taken over are deleted."""
        upload = Upload(self._files, self.max_upload_bytes)
        try:
            yield upload
        finally:
            await upload.discard()

    @asynccontextmanager
    async def claiming(self, key: str | None, caller: str = "") -> AsyncIterator[Claim | None]:
        """Hold a caller's Idempotency-Key during a request. Raises IdempotencyKeyInWork."""
        async with claiming(self._database, key, caller) as claim:
            yield claim

    async def add(
        self,
        upload: Upload,
        arrived: Sequence[ReceivedFile | RefusedFile],
        options: UploadOptions,
        answer: Callable[[Sequence[AcceptedFile | RefusedFile]], Answer],
        claim: Claim | None = None,
    ) -> Answer:
        """Make documents of files, all in one transaction with the answer that an Idempotency-Key keeps.

        `answer` is asked before the commit. Raises CollectionNotFound, PasswordNeedsKey, IdempotencyKeyReused
        and IdempotencyKeyInWork; a full queue, and what is left to the caller, refuse a file only.
        """
        self._require_collection(options.collection)
        fingerprint = options.fingerprint(arrived)
        if claim is not None and (first := claim.replay(fingerprint)):
            return first
        password = self._encrypt(options.password)
        async with self._database.transaction_in_turn(self._reach) as connection:
            await lock_quota(connection, *self._account)
            outcomes = await self._add_all(connection, arrived, options, password)
            answered = answer(outcomes)
            if claim is not None and answered.status < 400:  # what was refused may be sent again
                async with beyond(connection, self._reach):  # claims belong to callers, not to collections
                    await claim.keep(connection, fingerprint, answered)
            begun = [file for file in outcomes if isinstance(file, AcceptedFile) and file.is_new_task]
            upload.release(*(storage_key_of(file.task_id) for file in begun))
        if claim is not None:
            claim.is_answered = answered.status < 400
        for file in begun:
            audit("document.upload", document_id=file.document_id, collection=options.collection)
        self._announce(*begun)
        for received, outcome in zip(arrived, outcomes, strict=True):
            if isinstance(received, ReceivedFile) and isinstance(outcome, AcceptedFile) and outcome.known_as:
                await self._put_back(received, outcome.known_as)
        return answered

    async def require_room(self, announced_bytes: int) -> None:
        """Better before a large body arrives than after. Raises QueueFull and StoreFull."""
        try:
            await self._admission.require_room(announced_bytes)
        except StoreFull as error:
            raise self._about_all(error) from error

    async def require(self, document_id: UUID) -> None:
        """Raises DocumentNotFound: better before a large body arrives than after."""
        async with self._database.transaction(self._reach) as connection:
            await documents.find_collection(connection, document_id, self._reach)

    async def replace(
        self,
        document_id: UUID,
        upload: Upload,
        file: ReceivedFile,
        metadata: dict[str, Any] | None = None,
        password: str | None = None,
    ) -> AcceptedFile:
        """A new version; the old one is served until it is published. Raises DocumentNotFound, QueueFull."""
        new = self._new_ingestion(file, self._encrypt(password))
        async with self._database.transaction_in_turn(self._reach) as connection:
            await lock_quota(connection, *self._account)
            await _lock_content(connection, document_id, file.sha256, self._reach)
            async with within_quota(connection, *self._account):
                await self._add_version(connection, document_id, new, metadata)
            upload.release(new.storage_key)
        accepted = AcceptedFile(document_id, new.ingestion_id, new.filename)
        audit("document.replace", document_id=document_id)
        self._announce(accepted)
        return accepted

    async def retry(self, document_id: UUID, password: str | None = None) -> AcceptedFile:
        """Ingest the newest file again. Raises AlreadyInWork, DocumentNotFound, FileGone, QueueFull."""
        secret = self._encrypt(password)
        async with self._database.transaction(self._reach) as connection:
            await lock_quota(connection, *self._account)
            document = await documents.lock_document(connection, document_id, self._reach)
            if document is None:
                raise DocumentNotFound
            last = await documents.find_run(connection, document.latest_ingestion_id)
            if last is None or last.storage_key is None:
                raise FileGone
            if last.is_open:
                raise AlreadyInWork
            new = NewIngestion(
                *(uuid7(), last.filename, last.sha256, last.byte_size, last.storage_key, secret),
                asked_by=self._caller.account,
                request_id=_request_id(),
            )
            is_served = bool(document.live_ingestion_id == last.id)
            if not is_served:
                async with within_quota(connection, *self._account):
                    await documents.release_file(connection, last.id)
                    await self._add_version(connection, document_id, new)
        audit("document.retry", document_id=document_id)
        if is_served:
            return await self._ingest_copy(document_id, new, password)
        accepted = AcceptedFile(document_id, new.ingestion_id, new.filename)
        self._announce(accepted)
        return accepted

    async def change(self, document_id: UUID, change: Change) -> DocumentView:
        """Give it another title, other metadata or another collection, as it is.

        Raises DocumentNotFound and CollectionNotFound.
        """
        async with self._database.transaction(self._reach) as connection:
            if change.collection is not None:
                await _lock_contents_to_move(connection, document_id, change.collection, self._reach)
                self._require_collection(change.collection)
            if await documents.lock_document(connection, document_id, self._reach) is None:
                raise DocumentNotFound
            await documents.change_document(connection, document_id, change)
            if change.is_title_given:
                await store_title(connection, document_id, change.title)
        audit("document.change", document_id=document_id, collection=change.collection)
        return await self._catalog.find(document_id)

    async def retry_failed(self, wanted: FailedDocuments) -> int:
        """Ingest failed documents again; how many.

        Raises QueueFull and QuotaExceeded when none could be begun. The sweeper announces them.
        """
        count = 0
        at_once = AT_ONCE
        while True:
            new_ids = [uuid7() for _ in range(at_once)]
            try:
                async with (
                    self._database.transaction(self._reach) as connection,
                    within_quota(connection, *self._account),
                ):
                    begun = await documents.retry_failed(
                        connection, wanted, new_ids, self._max_queued, self._reach, self._caller.account
                    )
            except (QueueFull, QuotaExceeded):
                if at_once > 1:  # fewer may fit
                    at_once //= 2
                    continue
                if count == 0:
                    raise
                begun = 0
            count += begun
            if begun < at_once:
                log.info("retried", count=count, collection=wanted.collection, codes=wanted.codes)
                audit("documents.retry", count=count, collection=wanted.collection)
                return count

    async def cancel(self, task_id: UUID) -> None:
        """End a task that is not finished, and remove its chunks; a finished one stays as it is.

        Raises TaskNotFound.
        """
        async with self._database.autocommit(self._reach) as connection:
            if self._reach.is_bound and not await has_task(connection, task_id, self._reach):
                raise TaskNotFound
            if not await runs.cancel(connection, task_id, self._space_id):
                raise TaskNotFound
        audit("task.cancel", task_id=task_id)

    async def cancel_waiting(self, collection: str | None) -> int:
        """End all tasks that wait, of a collection if one is named; how many."""
        count = 0
        while True:
            async with self._database.transaction(self._reach) as connection:
                ended = await runs.cancel_unclaimed(
                    connection, collection, AT_ONCE, self._space_id, self._reach
                )
            count += ended
            if ended < AT_ONCE:
                audit("tasks.cancel", count=count, collection=collection)
                return count

    async def delete_all(self, document_ids: Collection[UUID]) -> int:
        """Delete those that are there; how many."""
        count = 0
        for document_id in dict.fromkeys(document_ids):
            with suppress(DocumentNotFound):
                await self.delete(document_id)
                count += 1
        return count

    async def delete(self, document_id: UUID) -> None:
        """Rows at once, the files right after. Raises DocumentNotFound."""
        async with self._database.transaction(self._reach) as connection:
            if await documents.lock_document(connection, document_id, self._reach) is None:
                raise DocumentNotFound
            storage_keys = await documents.delete_documents(connection, self._space_id, [document_id])
        audit("document.delete", document_id=document_id)
        self._do_afterwards(self._delete_files(storage_keys))

    async def _add_all(
        self,
        connection: Connection,
        arrived: Sequence[ReceivedFile | RefusedFile],
        options: UploadOptions,
        password: bytes | None,
    ) -> Sequence[AcceptedFile | RefusedFile]:
        if options.on_duplicate != "keep":
            hashes = {file.sha256 for file in arrived if isinstance(file, ReceivedFile)}
            await documents.lock_contents(connection, options.collection, hashes)
        outcomes: list[AcceptedFile | RefusedFile] = []
        for file in arrived:
            try:
                outcomes.append(
                    file
                    if isinstance(file, RefusedFile)
                    else await self._add_within_quota(connection, file, options, password)
                )
            except (QueueFull, QuotaExceeded) as error:  # nothing is written: the transaction goes on
                outcomes.append(RefusedFile(file.filename, error))
        return outcomes

    async def _add_within_quota(
        self, connection: Connection, file: ReceivedFile, options: UploadOptions, password: bytes | None
    ) -> AcceptedFile:
        async with within_quota(connection, *self._account):
            return await self._add_one(connection, file, options, password)

    async def _add_one(
        self, connection: Connection, file: ReceivedFile, options: UploadOptions, password: bytes | None
    ) -> AcceptedFile:
        document_id = uuid7()
        new = self._new_ingestion(file, password, is_bulk=options.priority == "bulk")
        add_document = partial(
            documents.add_document,
            *(connection, document_id, options.collection, options.metadata, new, self._max_queued),
        )
        known = await add_document(unless_known=options.on_duplicate != "keep")
        if known is None:
            return AcceptedFile(document_id, new.ingestion_id, new.filename)
        if options.on_duplicate == "return" and (known.is_live or known.is_in_work):
            return AcceptedFile(
                known.document_id,
                known.ingestion_id,
                file.filename,
                known.status,
                is_duplicate=True,
                is_new_task=False,
                known_as=known.storage_key,
            )
        if await documents.lock_document(connection, known.document_id):
            await self._add_version(connection, known.document_id, new, options.metadata)
            return AcceptedFile(known.document_id, new.ingestion_id, file.filename, is_duplicate=True)
        await add_document(unless_known=False)  # the known one was deleted in between
        return AcceptedFile(document_id, new.ingestion_id, new.filename)

    async def _add_version(
        self,
        connection: Connection,
        document_id: UUID,
        new: NewIngestion,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """The document's row must be locked. Raises QueueFull."""
        await runs.ask(connection, document_id, new, self._max_queued)
        await documents.make_latest(connection, self._space_id, document_id, new.ingestion_id, metadata)

    async def _ingest_copy(
        self, document_id: UUID, served: NewIngestion, password: str | None
    ) -> AcceptedFile:
        """A new version with the bytes of the served one, which keeps its own file.

        Raises FileGone and StoreFull.
        """
        try:
            await self._admission.require_store_room(served.byte_size)
        except StoreFull as error:
            raise self._about_all(error) from error
        async with self.uploading() as upload:
            kept = self._catalog.read(served.storage_key, 0, served.byte_size)
            file = await upload.receive(served.filename, kept)
            return await self.replace(document_id, upload, file, password=password)

    @property
    def _account(self) -> tuple[Reach, str, Limits]:
        """Whose runs count for what he may ask for."""
        return self._reach, self._caller.account, self._caller.limits

    def _new_ingestion(
        self, file: ReceivedFile, password: bytes | None, *, is_bulk: bool = False
    ) -> NewIngestion:
        return NewIngestion(
            *(file.ingestion_id, file.filename, file.sha256, file.byte_size, file.storage_key, password),
            asked_by=self._caller.account,
            is_bulk=is_bulk,
            request_id=_request_id(),
        )

    def _require_collection(self, collection: str) -> None:
        if not self._reach.has_collection(collection):
            raise CollectionNotFound

    def _about_all(self, error: StoreFull) -> StoreFull:
        """How much all have stored is told to those only who may see it."""
        return StoreFull() if self._reach.is_bound else error

    def _encrypt(self, password: str | None) -> bytes | None:
        if password is None:
            return None
        if self._cipher is None:
            raise PasswordNeedsKey
        return self._cipher.encrypt(password)

    async def _put_back(self, received: ReceivedFile, key: str) -> None:
        """What a document has lost, as in a file store that came from an older backup, is here again.

        Should the store fail, it stays lost until the next time.
        """
        with suppress(StorageFailed):
            try:
                await self._files.size(key)
            except FileNotFound:
                await self._files.move(received.storage_key, key)
                log.info("file_put_back", storage_key=key)

    async def _delete_files(self, storage_keys: Sequence[str]) -> None:
        """What fails here is left to the sweeper."""
        for storage_key in storage_keys:
            try:
                await self._files.delete(storage_key)
            except StorageFailed:
                log.warning("file_not_deleted", storage_key=storage_key)

    def _announce(self, *begun: AcceptedFile) -> None:
        for file in begun:
            log.info("accepted", task_id=str(file.task_id), document_id=str(file.document_id))
            self._do_afterwards(self._enqueue(file.task_id))

    def _do_afterwards(self, work: Coroutine[Any, Any, object]) -> None:
        """Without letting the answer wait; a task that nobody holds could be collected half-way."""
        task = asyncio.create_task(work)
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)


async def _lock_content(connection: Connection, document_id: UUID, sha256: bytes, reach: Reach) -> None:
    """Lock these bytes in the document's collection, then the document. Raises DocumentNotFound."""
    collection = await documents.find_collection(connection, document_id, reach)
    while True:
        await documents.lock_contents(connection, collection, [sha256])
        document = await documents.lock_document(connection, document_id, reach)
        if document is None:
            raise DocumentNotFound
        if document.collection == collection:
            return
        collection = document.collection  # moved between the two


async def _lock_contents_to_move(
    connection: Connection, document_id: UUID, collection: str, reach: Reach
) -> None:
    """Nobody decides meanwhile about the document's bytes, where it is and where it goes.

    Collections in their order: who locks two cannot wait for another who does. Raises DocumentNotFound.
    """
    there = await documents.find_collection(connection, document_id, reach)
    hashes = await documents.list_hashes(connection, document_id)
    for one in sorted({collection, there}):
        await documents.lock_contents(connection, one, hashes)


def _request_id() -> str | None:
    """Of the request that is being answered, for the lines of who works on it later."""
    request_id: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return request_id
