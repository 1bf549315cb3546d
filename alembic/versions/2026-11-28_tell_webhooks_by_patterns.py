"""tell webhooks by patterns: `*` in a webhook's collections stands for any characters, as in a key's

To the version before each is a name; it has this condition too, since it is the database's.
"""

from alembic import op

revision = "20261128d"
down_revision = "20261128c"
branch_labels = None
depends_on = None

IS_NAME = "$2 = ANY(collections)"
# What LIKE takes for more than itself is quoted first.
FITS_PATTERN = r"""EXISTS (
    SELECT FROM unnest(collections) AS pattern
    WHERE $2 LIKE replace(regexp_replace(pattern, '([\\%_])', '\\\1', 'g'), '*', '%')
)"""


def announce(is_told: str) -> str:
    """As in "tell webhooks"."""
    return f"""
    CREATE OR REPLACE FUNCTION announce(event text, collection text, document_id uuid, data jsonb)
    RETURNS void LANGUAGE sql AS $$
        INSERT INTO webhook_deliveries
            (id, webhook_id, event, document_id, data, created_at, next_attempt_at)
        SELECT CAST(encode(set_bit(set_bit(overlay(
                uuid_send(gen_random_uuid()) PLACING
                substring(int8send(CAST(floor(extract(epoch FROM at) * 1000) AS bigint)) FROM 3)
                FROM 1 FOR 6
            ), 52, 1), 53, 1), 'hex') AS uuid), webhooks.id, $1, $3, $4, at, at
        FROM webhooks, clock_timestamp() AS at
        WHERE disabled_at IS NULL AND $1 = ANY(events) AND (collections IS NULL OR {is_told})
    $$
"""  # noqa: S608 - one of two texts above


def upgrade() -> None:
    op.execute(announce(FITS_PATTERN))


def downgrade() -> None:
    op.execute(announce(IS_NAME))
