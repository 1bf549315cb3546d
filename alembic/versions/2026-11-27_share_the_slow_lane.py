"""share the slow lane: since when a run is slow, and which processes work"""

import sqlalchemy as sa
from alembic import op

revision = "20261127g"
down_revision = "20261127f"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("ingestions", sa.Column("slow_since", TIME, nullable=True))
    op.create_table(
        "workers",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_workers"),
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_column("ingestions", "slow_since")
