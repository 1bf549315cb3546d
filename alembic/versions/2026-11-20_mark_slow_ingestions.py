"""mark slow ingestions"""

import sqlalchemy as sa
from alembic import op

revision = "20261120b"
down_revision = "20261120a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "ingestions", sa.Column("is_slow", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("ingestions", "is_slow")
