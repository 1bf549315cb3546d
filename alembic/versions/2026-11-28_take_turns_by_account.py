"""take turns by account: in how many collections an account's work waits, whoever asks

What waits already keeps its turn, and what a version before asks for is in turns of collections alone.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261128c"
down_revision = "20261128b"
branch_labels = None
depends_on = None

IS_FRESH = "status = 'queued' AND started_at IS NULL AND turn IS NOT NULL"
# A look at an index for each queue, however much waits in it; from 50 on (0.5 ms), at all that waits: 5 ms of
# 10,000, where 1,000 looks take 10. Not in SQL: before Postgres 18 that would be planned at each call.
WAITING_QUEUES = """
    CREATE FUNCTION waiting_queues(account text) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE last text := '';
    BEGIN
        FOR few IN 0 .. 49 LOOP
            SELECT queue INTO last FROM ingestions
            WHERE status = 'queued' AND started_at IS NULL AND turn IS NOT NULL AND asked_by = account
                AND queue > last
            ORDER BY queue LIMIT 1;
            IF last IS NULL THEN RETURN few; END IF;
        END LOOP;
        RETURN (
            SELECT count(DISTINCT queue) FROM ingestions
            WHERE status = 'queued' AND started_at IS NULL AND turn IS NOT NULL AND asked_by = account
        );
    END $$
"""


def upgrade() -> None:
    columns = ["asked_by", "queue", "is_bulk", "turn"]
    op.create_index("ix_ingestions_accounts", "ingestions", columns, postgresql_where=sa.text(IS_FRESH))
    op.execute(WAITING_QUEUES)


def downgrade() -> None:
    op.execute("DROP FUNCTION waiting_queues")
    op.drop_index("ix_ingestions_accounts", "ingestions")
