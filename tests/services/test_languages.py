"""Documents in several languages, ingested by the real service: their words are found in all their forms."""

from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfWriter
from sqlalchemy import text

from app.config import Settings
from app.local.embedded import EmbeddedPostgres, EmbeddedValkey
from app.resources import Services, open_services
from app.services.resuming import ChunkChain
from app.services.searching import Mode, Search
from app.storage.document_views import list_document_chunks
from tests.databases import empty_broker, migrated
from tests.pdfs.hostile import in_script

DOCUMENTS = {
    "vertraege": [
        ("Die Gesellschaft hat im Berichtsjahr neue Mieträume", "in der Königsstraße bezogen."),
        ("Sämtliche Verträge mit den Lieferanten wurden", "nach gründlicher Prüfung fristlos gekündigt."),
    ],
    "societe": [
        ("Les comptes de l’entreprise ont été approuvés par", "les actionnaires en assemblée générale."),
        ("Les dépenses déclarées par les sociétés étrangères", "dépassent largement le budget de l’année."),
    ],
    "keiyaku": [
        ("この報告書は会社の営業活動について説明しています", "売上高は前年より大きく増加しました"),
        ("取引先との契約書を確認してください", "支払期限は毎月末日とします"),
    ],
    "report": [
        ("The company leased new offices in the old town,", "and moved all of its people there in FY18."),
        ("Its annual report on Form 10-K says that revenues", "were growing in every single quarter of it."),
    ],
}  # fmt: skip


def pdf_of(pages: list[tuple[str, ...]]) -> bytes:
    writer = PdfWriter()
    for lines in pages:
        writer.append(BytesIO(in_script(*lines)))
    written = BytesIO()
    writer.write(written)
    return written.getvalue()


@pytest.fixture(scope="module")
async def library(
    postgres: EmbeddedPostgres, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Services]:
    folder: Path = tmp_path_factory.mktemp("incoming")
    settings = Settings(
        _env_file=None,
        database_url=await migrated(postgres, "languages_of_documents"),
        celery_broker_url=empty_broker(valkey, 12),
        storage_url=tmp_path_factory.mktemp("files").as_uri(),
        ingest_folders=(folder,),
        chunk_tokens=48,
    )
    async with open_services(settings) as services:
        for name, pages in DOCUMENTS.items():
            (folder / f"{name}.pdf").write_bytes(pdf_of(pages))
            await services.rag.ingest_pdf(str(folder / f"{name}.pdf"))
        yield services


async def first_page_found(library: Services, question: str, mode: Mode) -> tuple[str, int]:
    found = await library.rag.search(Search(query=question, mode=mode))
    return found.hits[0].filename.removesuffix(".pdf"), found.hits[0].page_start


async def test_each_document_has_its_language(library: Services) -> None:
    async with library.database.transaction() as connection:
        rows = await connection.execute(text("SELECT filename, language, text_search_config FROM ingestions"))
        assert {row.filename.removesuffix(".pdf"): tuple(row)[1:] for row in rows} == {
            "vertraege": ("de", "german"),
            "societe": ("fr", "french"),
            "keiyaku": ("ja", "simple"),
            "report": ("en", "english"),
        }


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("Vertrag", ("vertraege", 2)),
        ("VERTRÄGEN", ("vertraege", 2)),
        ("vertrage prüfung", ("vertraege", 2)),
        ("was ist mit den Verträgen", ("vertraege", 2)),
        ("Königsstrasse", ("vertraege", 1)),
        ("société étranger", ("societe", 2)),
        ("societe declarer", ("societe", 2)),
        ("ce que la société déclare", ("societe", 2)),
        ("entreprises", ("societe", 1)),
        ("actionnaire generale", ("societe", 1)),
        ("契約", ("keiyaku", 2)),
        ("支払期限", ("keiyaku", 2)),
        ("営業活動", ("keiyaku", 1)),
        ("what are the offices of the company", ("report", 1)),
        ("fy2018", ("report", 1)),
        ("10k revenue grow", ("report", 2)),
    ],
)
async def test_words_find_the_page_they_are_on_in_any_form(
    library: Services, question: str, page: tuple[str, int]
) -> None:
    assert await first_page_found(library, question, "text") == page
    assert await first_page_found(library, question, "hybrid") == page


@pytest.mark.parametrize(
    ("question", "marked"),
    [
        ("vertrage prüfung kündigen", ["Verträge", "Prüfung"]),
        ("was ist mit den Verträgen", ["Verträge"]),
        ("societe declarer", ["déclarées", "sociétés"]),
        ("l'entreprise", ["entreprise"]),
        ("契約書", ["契約書"]),
        ("取引先の契約書", ["取引先", "の契約書"]),
        ("fy2018", ["FY18"]),
        ("what are the offices of the company", ["company", "offices"]),
        ("10k revenue grow", ["10-K", "revenues", "growing"]),
        ("K10 form operate", ["Form"]),
        ("<b> & | ! :*", []),
    ],
)
async def test_words_are_marked_in_any_form_and_nothing_else_is(
    library: Services, question: str, marked: list[str]
) -> None:
    search = Search(query=question, mode="vector")
    found = await library.rag.search(search)
    assert len(found.hits) >= 4
    marks = await library.rag.marks(found, search)
    best = {tuple(hit.text[start:end] for start, end in marks[hit.chunk_id]) for hit in found.hits}
    assert tuple(marked) in best
    for hit in found.hits:
        ends = [place for span in marks[hit.chunk_id] for place in span]
        assert ends == sorted(set(ends)), "in order, and apart"


async def test_a_resumed_run_goes_on_in_the_language_it_began_in(library: Services) -> None:
    async with library.database.transaction() as connection:
        document_id = await connection.scalar(
            text("SELECT document_id FROM ingestions WHERE filename = 'societe.pdf'")
        )
        page = await list_document_chunks(connection, document_id, after_ordinal=-1, limit=1)
        ingestion_id, digest = page.ingestion_id, ChunkChain().add(page.chunks).hex()
        for statement in (  # as it was left by a worker that took the first chunk for German
            "UPDATE documents SET live_ingestion_id = NULL WHERE live_ingestion_id = :id",
            "UPDATE ingestions SET status = 'queued', finished_at = NULL, chunks = 1, language = 'de',"
            f" text_search_config = 'german', chunks_hash = '\\x{digest}' WHERE id = :id",
            f"DELETE FROM embeddings_{library.space_id} USING chunks WHERE chunk_id = id"
            " AND chunks.ingestion_id = :id AND ordinal > 0",
            "DELETE FROM chunks WHERE ingestion_id = :id AND ordinal > 0",
        ):
            await connection.execute(text(statement), {"id": ingestion_id})
    assert await library.rag.ingest_pdf("", ingestion_id) > 1
    async with library.database.transaction() as connection:
        found = await connection.execute(
            text("""
            SELECT language, text_search_config FROM ingestions JOIN chunks ON ingestion_id = ingestions.id
            WHERE ingestions.id = :id AND ordinal > 0 AND tsv @@ CAST('les' AS tsquery)
            """),
            {"id": ingestion_id},
        )
    # to a French stemmer `les` is no word
    assert [tuple(row) for row in found] == [("de", "german")]
