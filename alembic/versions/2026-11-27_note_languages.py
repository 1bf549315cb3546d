"""note languages"""

import sqlalchemy as sa
from alembic import op

revision = "20261127a"
down_revision = "20261120b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ingestions", sa.Column("language", sa.Text(), nullable=True))
    op.add_column("ingestions", sa.Column("text_search_config", sa.Text(), nullable=True))
    # partial, so that it is empty when it is made: what is there already gets its config in steps, later
    op.create_index(
        op.f("ix_ingestions_text_search_config"),
        "ingestions",
        ["text_search_config"],
        unique=False,
        postgresql_where=sa.text("text_search_config IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index(
        op.f("ix_ingestions_text_search_config"),
        table_name="ingestions",
        postgresql_where=sa.text("text_search_config IS NOT NULL"),
    )
    op.drop_column("ingestions", "text_search_config")
    op.drop_column("ingestions", "language")
