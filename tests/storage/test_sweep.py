from uuid import uuid4

from sqlalchemy import text
from uuid_utils.compat import uuid7

from app.storage import sweep
from app.storage.database import Database


async def test_only_files_of_ours_without_an_ingestion_are_to_be_removed(database: Database) -> None:
    orphan, cut_off, needed = f"{uuid7()}.pdf", f"{uuid4()}.pdf#1", f"{uuid7()}.pdf"
    foreign = ["report.pdf", f"{uuid4()}.docx", f"copy of {uuid4()}.pdf", f"letters/{uuid4()}.pdf"]
    async with database.autocommit() as connection:
        await connection.execute(
            text(
                "INSERT INTO ingestions (id, document_id, filename, sha256, byte_size, storage_key, status)"
                " VALUES (:id, :document_id, 'a.pdf', :sha256, 1, :storage_key, 'cancelled')"
            ),
            {"id": uuid7(), "document_id": uuid7(), "sha256": bytes(32), "storage_key": needed},
        )
        found = await sweep.keys_without_row(connection, [orphan, cut_off, needed, *foreign])
    assert sorted(found) == sorted([orphan, cut_off])
