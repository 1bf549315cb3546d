"""Bringing data of older versions along, in steps, while the service runs."""

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import structlog

from app.services.detection import LanguageDetector
from app.storage import backfill as storage
from app.storage.canonical import canonical
from app.storage.collections import note_collections
from app.storage.database import Database
from app.storage.document_words import count_words
from app.storage.languages import TextLanguage, TextSearch
from app.storage.title_words import LACKS_TITLE, count_title

DOCUMENTS_AT_ONCE = 100
NAMES_AT_ONCE = 500
CHUNKS_AT_ONCE = 200  # 0.1-0.3 s in the database

log = structlog.get_logger(__name__)


class Duty(Protocol):
    """Something that published versions of documents may lack."""

    lacks: str
    """A condition on `documents d` and `ingestions i`, for storage/backfill.py."""

    async def fill(self, ingestion_id: UUID) -> None:
        """Add what this version lacks, in short steps. After an interruption it is done again, whole."""


async def backfill(database: Database, *duties: Duty) -> None:
    """Note the collections of all documents; then do each duty for all published versions that lack it.

    Versions replaced meanwhile are left out.
    What is done is noted by each version for itself, so that it goes on where it was stopped.
    """
    await _note_collections(database)
    for duty in duties:
        after, filled = UUID(int=0), 0
        while ingestion_ids := await _find(database, duty, after):
            for ingestion_id in ingestion_ids:
                await duty.fill(ingestion_id)
            after = ingestion_ids[-1]
            filled += len(ingestion_ids)
            log.info("brought along", what=type(duty).__name__, documents=filled)


async def _note_collections(database: Database) -> None:
    after: UUID | None = UUID(int=0)
    while after is not None:
        async with database.autocommit() as connection:
            after = await note_collections(connection, after, NAMES_AT_ONCE)


async def _find(database: Database, duty: Duty, after: UUID) -> list[UUID]:
    async with database.autocommit() as connection:
        return list(await storage.find_lacking(connection, duty.lacks, after, DOCUMENTS_AT_ONCE))


class Words:
    """Words of documents in their language and in today's form; what comes out the same stays as it is."""

    lacks = storage.LACKS_FORM

    def __init__(self, database: Database, detector: LanguageDetector, text_search: TextSearch) -> None:
        self._database = database
        self._detector = detector
        self._text_search = text_search

    async def fill(self, ingestion_id: UUID) -> None:
        chunks = await self._list(ingestion_id, after_ordinal=-1)
        language = await self._language(ingestion_id, chunks)
        while chunks:
            changed = [chunk for chunk in chunks if chunk.changes_in(language)]
            if changed:
                async with self._database.autocommit() as connection:
                    await storage.store_words(connection, ingestion_id, language, changed)
            chunks = await self._list(ingestion_id, after_ordinal=chunks[-1].ordinal)
        async with self._database.autocommit() as connection:
            await storage.store_language(connection, ingestion_id, language)
            filename = await storage.find_filename(connection, ingestion_id)
            await count_words(connection, ingestion_id, canonical(filename, is_name=True))
            await count_title(connection, ingestion_id)
            await storage.note_form(connection, ingestion_id)

    async def _language(self, ingestion_id: UUID, chunks: Sequence[storage.OldChunk]) -> TextLanguage:
        """That in which its words are, if they are in one: a collection may have given it."""
        async with self._database.autocommit() as connection:
            known = await storage.find_known_language(connection, ingestion_id)
        if known is not None:
            return known
        code = await asyncio.to_thread(self._detector.detect, [chunk.text for chunk in chunks])
        return self._text_search.language(code)

    async def _list(self, ingestion_id: UUID, after_ordinal: int) -> list[storage.OldChunk]:
        async with self._database.autocommit() as connection:
            return await storage.list_texts(connection, ingestion_id, after_ordinal, CHUNKS_AT_ONCE)


class DocumentWords:
    """Which words a document is about, by which searches find it; after its language, which stems them."""

    lacks = storage.LACKS_WORDS

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fill(self, ingestion_id: UUID) -> None:
        async with self._database.autocommit() as connection:
            filename = await storage.find_filename(connection, ingestion_id)
            await count_words(connection, ingestion_id, canonical(filename, is_name=True))


class TitleWords:
    """Words of the titles that people gave documents; after the words of their texts."""

    lacks = LACKS_TITLE

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fill(self, ingestion_id: UUID) -> None:
        async with self._database.autocommit() as connection:
            await count_title(connection, ingestion_id)


def all_duties(database: Database, text_search: TextSearch) -> tuple[Duty, ...]:
    """What versions published by any older version of the program may lack, in the order to add it."""
    return Words(database, LanguageDetector(), text_search), DocumentWords(database), TitleWords(database)
