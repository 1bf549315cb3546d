"""count words by document

The rows of what was published before are made by `pdf-ingest migrate` in steps, after this.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127b"
down_revision = "20261127a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "document_words",
        sa.Column("ingestion_id", sa.Uuid(), nullable=False),
        sa.Column("lexeme", sa.Text(), nullable=False),
        sa.Column("share", sa.REAL(), nullable=False),
        sa.Column("is_on_first_page", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("ingestion_id", "lexeme", name=op.f("pk_document_words")),
    )
    op.create_index(
        "ix_document_words_by_share", "document_words", ["lexeme", sa.text("share DESC"), "ingestion_id"]
    )
    op.add_column(
        "ingestions",
        sa.Column("has_counted_words", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    # Rows stay as they are stored, up to a page: a compressed tsvector takes four times as long to rank.
    op.execute("ALTER TABLE chunks SET (toast_tuple_target = 8160)")


def downgrade() -> None:
    op.execute("ALTER TABLE chunks RESET (toast_tuple_target)")
    op.drop_column("ingestions", "has_counted_words")
    op.drop_table("document_words")
