"""Documents in several languages, ingested by the real service: their words are found in all their forms."""

from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfWriter
from sqlalchemy import text

from app.config import Settings
from app.embedded import EmbeddedPostgres, EmbeddedValkey
from app.resources import Services, open_services
from app.storage.canonical import canonical
from app.storage.database import Database
from app.storage.languages import question_words
from tests.databases import migrated
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
        celery_broker_url=valkey.url.removesuffix("/0") + "/12",
        storage_url=tmp_path_factory.mktemp("files").as_uri(),
        ingest_folders=(folder,),
        chunk_tokens=48,
    )
    async with open_services(settings) as services:
        for name, pages in DOCUMENTS.items():
            (folder / f"{name}.pdf").write_bytes(pdf_of(pages))
            await services.rag.ingest_pdf(str(folder / f"{name}.pdf"))
        yield services


async def pages_found(database: Database, question: str) -> set[tuple[str, int]]:
    """(name, page) of the chunks that hold every word of the question, in one of its forms."""
    async with database.transaction() as connection:
        found = await connection.execute(
            text(f"""
            WITH forms AS (
                SELECT '(' || string_agg(quote_literal(lexeme), ' | ') || ')' AS word
                FROM ({question_words("CAST(:question AS text)")}) AS form GROUP BY position
            ), asked AS (SELECT CAST(string_agg(word, ' & ') AS tsquery) AS query FROM forms)
            SELECT filename, page_start FROM asked, chunks JOIN ingestions i ON i.id = ingestion_id
            WHERE tsv @@ query
            """),
            {"question": canonical(question)},
        )
        return {(row.filename.removesuffix(".pdf"), row.page_start) for row in found}


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
        ("die Lieferanten und das Budget", None),
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
        ("営業契約", None),
        ("what are the offices of the company", ("report", 1)),
        ("fy2018", ("report", 1)),
        ("10k revenue grew", None),
        ("10k revenue grow", ("report", 2)),
    ],
)
async def test_words_find_the_page_they_are_on_in_any_form(
    library: Services, question: str, page: tuple[str, int] | None
) -> None:
    assert await pages_found(library.database, question) == ({page} if page else set())


async def test_a_resumed_run_goes_on_in_the_language_it_began_in(library: Services) -> None:
    async with library.database.transaction() as connection:
        ingestion_id = await connection.scalar(
            text("SELECT id FROM ingestions WHERE filename = 'societe.pdf'")
        )
        for statement in (  # as it was left by a worker that took the first chunk for German
            "UPDATE documents SET live_ingestion_id = NULL WHERE live_ingestion_id = :id",
            "UPDATE ingestions SET status = 'queued', finished_at = NULL, chunks = 1, language = 'de',"
            " text_search_config = 'german' WHERE id = :id",
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
