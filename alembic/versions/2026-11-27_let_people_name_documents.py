"""let people name documents, and list tasks by the time they were asked for"""

import sqlalchemy as sa
from alembic import op

revision = "20261127w"
down_revision = "20261127h"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("documents", sa.Column("title", sa.Text(), nullable=True))
    # Not concurrently: that waits for a second migration, which waits for this one. 0.3 s for 200,000 runs
    # while others kept both cores busy.
    op.create_index("ix_ingestions_created_at_id", "ingestions", ["created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_ingestions_created_at_id", table_name="ingestions")
    op.drop_column("documents", "title")
