"""keep tenants apart: a role that sees what a transaction's settings name, and nothing without them

Transactions of callers who are bound to collections take the role; the service itself, and the version
before, go on as they are: to any other role the policies show everything. Chunks, words and vectors have no
policy (see docs/security.md) and are read through the documents.
"""

import sqlalchemy as sa
from alembic import op

from app.storage.tenants import make_role

revision = "20261127wz"
down_revision = "20261127wt"
branch_labels = None
depends_on = None

ROLE = "pdf_ingest_tenant"
# What callers' requests do, and no more: nothing of keys, webhooks, workers.
GRANTS = {
    "documents": "SELECT, INSERT, UPDATE, DELETE",
    "ingestions": "SELECT, INSERT, UPDATE",
    "collections": "SELECT, INSERT, UPDATE",
    "collection_deletions": "SELECT, INSERT",
    "chunks": "SELECT, DELETE",
    "document_words": "SELECT, INSERT, UPDATE, DELETE",
    "files_to_delete": "SELECT, INSERT",
}


def listed(name: str) -> str:
    """A setting, as an array. A subquery is read once a statement; what was never set may be ''."""
    setting = f"nullif(nullif(current_setting('pdf_ingest.{name}', true), ''), '*')"
    return f"CAST((SELECT CAST({setting} AS text[])) AS text[])"


def is_named(collection: str) -> str:
    return f"{collection} LIKE ANY ({listed('collections')})"


ARE_ALL_DOCUMENTS = "(SELECT current_setting('pdf_ingest.documents', true)) = '*'"


def is_document(document_id: str) -> str:
    return f"({ARE_ALL_DOCUMENTS} OR CAST({document_id} AS text) = ANY ({listed('documents')}))"


# A run is its document's; one whose document is not there, yet or any more, belongs where it was asked for.
IS_RUN_IN_REACH = f"""
    EXISTS (SELECT FROM documents WHERE documents.id = document_id)
    OR {is_named("queue")} AND {is_document("document_id")} AND NOT has_document(document_id)
"""
# One without a name is being deleted, which all must know: its documents are there no more.
IS_COLLECTION_IN_REACH = f"""
    CASE WHEN name IS NULL THEN {listed("collections")} IS NOT NULL
    ELSE {is_named("name")} AND {ARE_ALL_DOCUMENTS} END
"""
POLICIES = {
    "documents": f"{is_named('collection')} AND {is_document('id')}",
    "ingestions": IS_RUN_IN_REACH,
    "collections": IS_COLLECTION_IN_REACH,
    "collection_deletions": is_named("collection"),
}
# What a bound caller's statements ask about all there is.
FUNCTIONS = {
    "has_document(id uuid)": "boolean AS 'SELECT EXISTS (SELECT FROM documents WHERE documents.id = $1)'",
    "published_documents(most integer)": """bigint AS '
        SELECT count(*) FROM (SELECT FROM documents WHERE live_ingestion_id IS NOT NULL LIMIT $1) document'
    """,
    "waiting_runs(most integer)": """bigint AS $$
        SELECT count(*) FROM (
            SELECT FROM ingestions WHERE status IN ('queued', 'retrying') LIMIT $1
        ) waiting $$
    """,
    "text_search_configs()": """SETOF text ROWS 5 AS $$
        WITH RECURSIVE used(name) AS (
            (SELECT text_search_config FROM ingestions WHERE text_search_config IS NOT NULL
            ORDER BY text_search_config LIMIT 1)
            UNION ALL
            SELECT (
                SELECT text_search_config FROM ingestions WHERE text_search_config > used.name
                ORDER BY text_search_config LIMIT 1
            ) FROM used WHERE used.name IS NOT NULL
        )
        SELECT name FROM used WHERE name IS NOT NULL $$
    """,
    "next_turn()": """bigint AS $$
        SELECT turn FROM ingestions WHERE status = 'queued' AND started_at IS NULL AND turn IS NOT NULL
        ORDER BY turn, is_bulk, created_at, id LIMIT 1 $$
    """,
}
# They write of webhooks and collections whoever asks.
TRIGGER_FUNCTIONS = ("note_collection()", "announce_end_of_run()", "announce_deletion()")


def tables_of_vectors() -> set[tuple[str, str]]:
    """With their privileges: those that are there. New ones are granted where they are made (spaces.py)."""
    ids = op.get_bind().scalars(sa.text("SELECT id FROM embedding_spaces"))
    return {(f"embeddings_{space_id}", "SELECT, DELETE") for space_id in ids}


def shown(condition: str) -> str:
    """To the role what fulfils the condition, to all others everything.

    The planner expects nearly all to be shown: the statements have the condition too, and it counts once.
    With less it would leave the indexes of vectors and of words for plans for a few documents.
    """
    return f"CASE WHEN current_user <> '{ROLE}' OR ({condition}) THEN true END IS NOT NULL"


def upgrade() -> None:
    make_role(op.get_bind())
    for table, privileges in GRANTS.items() | tables_of_vectors():
        op.execute(f"GRANT {privileges} ON {table} TO {ROLE}")
    for function, body in FUNCTIONS.items():
        op.execute(
            f"CREATE FUNCTION {function} RETURNS {body}"
            " LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT"
        )
    for function in TRIGGER_FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SECURITY DEFINER SET search_path FROM CURRENT")
    for table, condition in POLICIES.items():
        op.execute(f"CREATE POLICY reach ON {table} USING ({shown(condition)})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    """The role stays: it belongs to all databases of the server."""
    for table in POLICIES:
        op.execute(f"DROP POLICY reach ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    for function in TRIGGER_FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SECURITY INVOKER RESET search_path")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
    for table, _ in GRANTS.items() | tables_of_vectors():
        op.execute(f"REVOKE ALL ON {table} FROM {ROLE}")
