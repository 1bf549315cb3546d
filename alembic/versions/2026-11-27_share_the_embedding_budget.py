"""share the embedding budget: whose turn it is to ask the embedding server"""

import sqlalchemy as sa
from alembic import op

revision = "20261127sb"
down_revision = "20261127wi"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    # What is lost in a crash are turns a few seconds old; without a log a turn waits for no disk.
    op.create_table(
        "embedding_budget",
        sa.Column("id", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("next_urgent_at", TIME, server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("paused_until", TIME, server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("delayed_seconds", sa.Double(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_embedding_budget"),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.drop_table("embedding_budget")
