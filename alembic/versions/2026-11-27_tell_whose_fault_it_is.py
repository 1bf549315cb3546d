"""tell whose fault it is: losses and deaths of runs, outages of services; and one leader"""

import sqlalchemy as sa
from alembic import op

revision = "20261127f"
down_revision = "20261127b"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")


def count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default="0", nullable=False)


def upgrade() -> None:
    op.add_column("ingestions", count("losses"))
    op.add_column("ingestions", count("deaths"))
    op.add_column("files_to_delete", count("failures"))
    op.add_column("files_to_delete", sa.Column("next_attempt_at", TIME, server_default=NOW, nullable=False))
    op.create_table(
        "outages",
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", TIME, server_default=NOW, nullable=False),
        count("probes"),
        sa.Column("next_probe_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("service", name="pk_outages"),
    )
    op.create_table(
        "leaders",
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("since", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("duty", name="pk_leaders"),
    )


def downgrade() -> None:
    op.drop_table("leaders")
    op.drop_table("outages")
    op.drop_column("files_to_delete", "next_attempt_at")
    op.drop_column("files_to_delete", "failures")
    op.drop_column("ingestions", "deaths")
    op.drop_column("ingestions", "losses")
