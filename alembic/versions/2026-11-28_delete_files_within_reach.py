"""delete files within reach: a bound caller gives up files of runs that it sees, and no other's

What waits to be deleted it does not see: no run has these files any more. That a run has one is as the
statement sees it that takes it away.
"""

from alembic import op

revision = "20261128w"
down_revision = "20261128v"
branch_labels = None
depends_on = None

ROLE = "pdf_ingest_tenant"
SHOWN = f"""
    CASE WHEN current_user <> '{ROLE}' OR EXISTS (
        SELECT FROM ingestions WHERE ingestions.storage_key = files_to_delete.storage_key
    ) THEN true END IS NOT NULL
"""


def upgrade() -> None:
    op.execute(f"CREATE POLICY reach ON files_to_delete USING ({SHOWN})")
    op.execute("ALTER TABLE files_to_delete ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("DROP POLICY reach ON files_to_delete")
    op.execute("ALTER TABLE files_to_delete DISABLE ROW LEVEL SECURITY")
