"""make collections things: rows of their own, found or made by the database for whoever names one

The version before writes names alone, and this one does not write ids either: triggers add them for both. The
ids of older documents are added in steps, after this (`pdf-ingest migrate`).
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261127x"
down_revision = "20261127w"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")

# A UUIDv7, which Postgres makes itself from version 18 on only.
NEW_ID = """
    CAST(encode(set_bit(set_bit(overlay(
        uuid_send(gen_random_uuid())
        PLACING substring(int8send(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)) FROM 3)
        FROM 1 FOR 6
    ), 52, 1), 53, 1), 'hex') AS uuid)
"""
# One step of an index for each name, not a look at each document.
MAKE_THOSE_NAMED = f"""
    INSERT INTO collections (id, name)
    SELECT {NEW_ID}, name FROM (
        WITH RECURSIVE named(name) AS (
            (SELECT collection FROM documents ORDER BY collection LIMIT 1)
            UNION ALL
            SELECT (
                SELECT collection FROM documents WHERE collection > named.name ORDER BY collection LIMIT 1
            ) FROM named WHERE named.name IS NOT NULL
        ) SELECT name FROM named WHERE name IS NOT NULL
    ) named
"""  # noqa: S608 - a constant
# The row stays locked until the transaction ends: meanwhile the collection is neither renamed nor deleted.
NOTE_COLLECTION = f"""
    CREATE FUNCTION note_collection() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        LOOP
            SELECT id INTO NEW.collection_id FROM collections WHERE name = NEW.collection FOR KEY SHARE;
            EXIT WHEN FOUND;
            INSERT INTO collections (id, name) VALUES ({NEW_ID}, NEW.collection)
            ON CONFLICT (name) DO NOTHING;
        END LOOP;
        RETURN NEW;
    END $$
"""  # noqa: S608 - a constant


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("expires_after_days", sa.Integer(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collections"),
        sa.UniqueConstraint("name", name="uq_collections_name"),
    )
    op.create_table(
        "collection_deletions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("collection_id", sa.Uuid(), nullable=False),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("documents_total", sa.Integer(), nullable=False),
        sa.Column("documents_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_collection_deletions"),
        sa.UniqueConstraint("collection_id", name="uq_collection_deletions_collection_id"),
    )
    op.add_column("documents", sa.Column("collection_id", sa.Uuid(), nullable=True))
    op.create_foreign_key("fk_documents_collection_id", "documents", "collections", ["collection_id"], ["id"])
    op.create_index("ix_documents_collection_id_id", "documents", ["collection_id", "id"])
    op.execute(NOTE_COLLECTION)
    op.execute(
        "CREATE TRIGGER note_collection_of_new BEFORE INSERT ON documents"
        " FOR EACH ROW EXECUTE FUNCTION note_collection()"
    )
    # Only of what moves: whoever changes something else does not wait for the collection's row.
    op.execute(
        "CREATE TRIGGER note_collection_of_moved BEFORE UPDATE OF collection ON documents"
        " FOR EACH ROW WHEN (NEW.collection IS DISTINCT FROM OLD.collection)"
        " EXECUTE FUNCTION note_collection()"
    )
    op.execute(MAKE_THOSE_NAMED)


def downgrade() -> None:
    op.execute("DROP TRIGGER note_collection_of_moved ON documents")
    op.execute("DROP TRIGGER note_collection_of_new ON documents")
    op.execute("DROP FUNCTION note_collection()")
    op.drop_constraint("fk_documents_collection_id", "documents", type_="foreignkey")
    op.drop_column("documents", "collection_id")
    op.drop_table("collection_deletions")
    op.drop_table("collections")
