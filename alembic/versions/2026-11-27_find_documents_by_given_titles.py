"""find documents by given titles: what a word's share is without the title

The titles of what was published before are brought along in steps, after this.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261127wt"
down_revision = "20261127wk"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("document_words", sa.Column("text_share", sa.REAL(), nullable=True))
    op.add_column(
        "ingestions",
        sa.Column("has_counted_title", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    # What only a title has is no word of the text for the version before.
    op.execute("DELETE FROM document_words WHERE text_share = 0")
    op.execute("UPDATE document_words SET share = text_share WHERE text_share > 0")
    op.drop_column("document_words", "text_share")
    op.drop_column("ingestions", "has_counted_title")
