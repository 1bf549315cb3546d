"""tell webhooks: who wants to know, what each is to be told, and triggers that note it with the verdict"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261127wh"
down_revision = "20261127x"
branch_labels = None
depends_on = None

TIME = sa.TIMESTAMP(timezone=True)
NOW = sa.text("now()")
PENDING = sa.text("status = 'pending'")

# A row for each webhook that wants the event. Its id is a UUIDv7: only Postgres 18 has them itself.
ANNOUNCE = """
    CREATE FUNCTION announce(event text, collection text, document_id uuid, data jsonb) RETURNS void
    LANGUAGE sql AS $$
        INSERT INTO webhook_deliveries (id, webhook_id, event, document_id, data, created_at, next_attempt_at)
        SELECT CAST(encode(set_bit(set_bit(overlay(
                uuid_send(gen_random_uuid()) PLACING
                substring(int8send(CAST(floor(extract(epoch FROM at) * 1000) AS bigint)) FROM 3)
                FROM 1 FOR 6
            ), 52, 1), 53, 1), 'hex') AS uuid), webhooks.id, $1, $3, $4, at, at
        FROM webhooks, clock_timestamp() AS at
        WHERE disabled_at IS NULL AND $1 = ANY(events) AND (collections IS NULL OR $2 = ANY(collections))
    $$
"""
# `status` is the document's: an update that failed leaves it ready. A run that was named by a path may end
# before it has a document.
ANNOUNCE_END = """
    CREATE FUNCTION announce_end_of_run() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        place text;
        document_status text;
    BEGIN
        IF NOT EXISTS (SELECT FROM webhooks) THEN
            RETURN NULL;
        END IF;
        SELECT documents.collection, CASE
            WHEN live_ingestion_id IS NOT NULL OR latest.status = 'success' THEN 'ready'
            WHEN latest.status = 'error' THEN 'failed'
            WHEN latest.status = 'retrying' THEN 'queued' ELSE latest.status END
        INTO place, document_status
        FROM documents JOIN ingestions AS latest ON latest.id = latest_ingestion_id
        WHERE documents.id = NEW.document_id;
        PERFORM announce(
            CASE WHEN NEW.status = 'success' THEN 'document.ready'
                WHEN NEW.status = 'cancelled' OR NEW.error_code = 'superseded' THEN 'task.cancelled'
                ELSE 'document.failed' END,
            coalesce(place, 'default'), NEW.document_id,
            jsonb_build_object(
                'document_id', NEW.document_id, 'task_id', NEW.id, 'collection', coalesce(place, 'default'),
                'status', coalesce(document_status, CASE NEW.status WHEN 'error' THEN 'failed'
                    WHEN 'success' THEN 'ready' ELSE NEW.status END)
            ) || CASE WHEN NEW.status = 'success' THEN '{}'
                ELSE jsonb_build_object('code', NEW.error_code) END
        );
        RETURN NULL;
    END $$
"""
ANNOUNCE_DELETION = """
    CREATE FUNCTION announce_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM announce(
            'document.deleted', OLD.collection, OLD.id,
            jsonb_build_object('document_id', OLD.id, 'task_id', OLD.latest_ingestion_id,
                'collection', OLD.collection, 'status', 'deleted')
        );
        RETURN NULL;
    END $$
"""
TRIGGERS = (
    """
    CREATE TRIGGER announce_end AFTER UPDATE OF status ON ingestions FOR EACH ROW
    WHEN (OLD.status <> NEW.status AND NEW.status IN ('success', 'error', 'cancelled'))
    EXECUTE FUNCTION announce_end_of_run()
    """,
    """
    CREATE TRIGGER announce_deletion AFTER DELETE ON documents FOR EACH ROW
    EXECUTE FUNCTION announce_deletion()
    """,
)


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("collections", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_secret_expires_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("disabled_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    # No foreign key: a webhook that is deleted at the same moment must neither hold up nor fail a verdict.
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=True),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=True),
        sa.Column("leased_until", TIME, nullable=True),
        sa.Column("answer_status", sa.Integer(), nullable=True),
        sa.Column("answer_ms", sa.Integer(), nullable=True),
        sa.Column("answer_body", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
        sa.CheckConstraint(
            "status IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_status")
        ),
    )
    op.create_index(
        "ix_webhook_deliveries_webhook_id_position", "webhook_deliveries", ["webhook_id", "position"]
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["webhook_id", "next_attempt_at", "position"],
        postgresql_where=PENDING,
    )
    op.create_index(
        "ix_webhook_deliveries_in_order",
        "webhook_deliveries",
        ["webhook_id", "document_id", "position"],
        postgresql_where=PENDING,
    )
    op.create_index(
        "ix_webhook_deliveries_in_flight",
        "webhook_deliveries",
        ["webhook_id"],
        postgresql_where=sa.text("leased_until IS NOT NULL"),
    )
    for statement in (ANNOUNCE, ANNOUNCE_END, ANNOUNCE_DELETION, *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER announce_deletion ON documents")
    op.execute("DROP TRIGGER announce_end ON ingestions")
    for function in ("announce_deletion()", "announce_end_of_run()", "announce(text, text, uuid, jsonb)"):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
