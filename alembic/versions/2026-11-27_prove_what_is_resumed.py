"""prove what is resumed: paths of files not taken in yet, runs waited for, a hash of the stored chunks"""

import sqlalchemy as sa
from alembic import op

revision = "20261127h"
down_revision = "20261127g"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ingestions", sa.Column("path", sa.Text(), nullable=True))
    op.add_column("ingestions", sa.Column("waits_for", sa.Uuid(), nullable=True))
    op.add_column("ingestions", sa.Column("chunks_hash", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("ingestions", "chunks_hash")
    op.drop_column("ingestions", "waits_for")
    op.drop_column("ingestions", "path")
