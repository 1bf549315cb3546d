"""A document service with its own file store, and the worker's statements to move its tasks along."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import Row, text

from app.errors import Corrupted, PDFIngestError
from app.pdf.pages import DocumentFacts
from app.services.admission import Admission
from app.services.catalog import Catalog
from app.services.document_service import DocumentService
from app.services.idempotency import Answer, Claim
from app.services.uploads import AcceptedFile, ReceivedFile, RefusedFile, UploadOptions
from app.storage import runs
from app.storage.chunks import Chunk, embeddings_table
from app.storage.database import Database
from app.storage.files import FileStore
from app.storage.languages import TextLanguage
from app.storage.passwords import PasswordCipher
from app.storage.reach import EVERYTHING
from app.storage.runs import Lease, Progress

ENGLISH = TextLanguage("en", "english")


def pdf(content: str = "") -> bytes:
    """Bytes that pass for a PDF at the door; different each time unless `content` is given."""
    return f"%PDF-1.7\n{content or uuid4()}\n%%EOF\n".encode()


async def in_parts(content: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    for _ in range(int(seconds / 0.02)):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s")


def outcomes_as_answer(outcomes: Sequence[AcceptedFile | RefusedFile]) -> Answer:
    return Answer(202, {"outcomes": [repr(outcome) for outcome in outcomes]})


@dataclass
class Workshop:
    database: Database
    space_id: int
    folder: Path
    cipher: PasswordCipher | None = field(
        default_factory=lambda: PasswordCipher(SecretStr(Fernet.generate_key().decode()))
    )
    max_queued: int = 1_000_000
    max_store_bytes: int = 0
    collection: str = field(default_factory=lambda: f"c-{uuid4()}")

    def __post_init__(self) -> None:
        self.announced: list[UUID] = []
        self.files = FileStore(self.folder.as_uri())
        self.admission = Admission(
            self.database, max_queued=self.max_queued, max_store_bytes=self.max_store_bytes
        )
        self.service = DocumentService(
            database=self.database,
            files=self.files,
            enqueue=self._enqueue,
            cipher=self.cipher,
            admission=self.admission,
            max_upload_bytes=1_000_000,
            space_id=self.space_id,
        )
        self.catalog = Catalog(self.database, self.files, EVERYTHING)

    async def _enqueue(self, ingestion_id: UUID) -> None:
        self.announced.append(ingestion_id)

    def stored(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    def options(self, **options: Any) -> UploadOptions:
        return UploadOptions(**{"collection": self.collection, **options})

    async def add_all(
        self,
        contents: Sequence[bytes],
        claim: Claim | None = None,
        together: asyncio.Barrier | None = None,
        **options: Any,
    ) -> Sequence[AcceptedFile | RefusedFile]:
        """Outcomes in the order of the contents; with a barrier, the rows of all are made at one moment."""
        shown: list[AcceptedFile | RefusedFile] = []

        def answer(outcomes: Sequence[AcceptedFile | RefusedFile]) -> Answer:
            shown.extend(outcomes)
            return outcomes_as_answer(outcomes)

        async with self.service.uploading() as upload:
            arrived: list[ReceivedFile | RefusedFile] = [
                await upload.receive("report.pdf", in_parts(content)) for content in contents
            ]
            if together is not None:
                await together.wait()
            await self.service.add(upload, arrived, self.options(**options), answer, claim)
        return shown

    async def add(self, content: bytes, **options: Any) -> AcceptedFile:
        (outcome,) = await self.add_all([content], **options)
        if isinstance(outcome, RefusedFile):
            raise outcome.error
        return outcome

    async def replace(self, document_id: UUID, content: bytes, **options: Any) -> AcceptedFile:
        async with self.service.uploading() as upload:
            file = await upload.receive("newer.pdf", in_parts(content))
            return await self.service.replace(document_id, upload, file, **options)

    async def row(self, ingestion_id: UUID) -> Row[Any]:
        async with self.database.transaction() as connection:
            row = await runs.find(connection, ingestion_id)
        assert row is not None
        return row

    async def scalars(self, statement: str, **parameters: Any) -> Sequence[Any]:
        async with self.database.transaction() as connection:
            return (await connection.execute(text(statement), parameters)).scalars().all()

    async def count_documents(self) -> int:
        (count,) = await self.scalars(
            "SELECT count(*) FROM documents WHERE collection = :collection", collection=self.collection
        )
        return count

    async def count_chunks(self, ingestion_id: UUID) -> tuple[int, int]:
        """Chunks and vectors of an ingestion."""
        counts = [
            (
                await self.scalars(
                    f"SELECT count(*) FROM {table} WHERE ingestion_id = :id",
                    id=ingestion_id,
                )
            )[0]
            for table in ("chunks", embeddings_table(self.space_id))
        ]
        return counts[0], counts[1]

    async def begin(self, ingestion_id: UUID) -> Lease:
        """As a worker: take the lease and read the first page."""
        lease = await self.claim(ingestion_id)
        await self.begin_reading(lease)
        return lease

    async def claim(self, ingestion_id: UUID) -> Lease:
        async with self.database.autocommit() as connection:
            lease = await runs.claim(connection, ingestion_id, "test")
        assert lease is not None
        return lease

    async def begin_reading(self, lease: Lease) -> None:
        facts = DocumentFacts(engine="pdfium", pages_total=3, title="Title")
        async with self.database.autocommit() as connection:
            await runs.begin(connection, lease, self.space_id, facts, "recipe")

    async def store(self, lease: Lease, first: int = 0, count: int = 2) -> None:
        chunks = [
            Chunk(ordinal=ordinal, page_start=1, page_end=1, text=f"chunk {ordinal}", tokens=2)
            for ordinal in range(first, first + count)
        ]
        vectors = np.eye(count, 256, k=first % 200, dtype=np.float32)
        async with self.database.autocommit() as connection:
            await runs.store(
                *(connection, lease, self.space_id, chunks, vectors, Progress("embedding", 1)),
                language=ENGLISH,
                digest=b"digest",
            )

    async def publish(self, lease: Lease) -> None:
        async with self.database.autocommit() as connection:
            await runs.publish(
                connection,
                lease,
                self.space_id,
                engines=["pdfium"],
                pages_failed=[],
                pages_without_text=[3],
                stage_seconds={},
            )

    async def ingest(self, ingestion_id: UUID) -> None:
        lease = await self.begin(ingestion_id)
        await self.store(lease)
        await self.publish(lease)

    async def fail(self, ingestion_id: UUID, error: PDFIngestError | None = None) -> None:
        lease = await self.begin(ingestion_id)
        async with self.database.autocommit() as connection:
            await runs.fail(connection, lease, self.space_id, error or Corrupted())
