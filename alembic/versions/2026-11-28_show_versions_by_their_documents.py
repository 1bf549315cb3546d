"""show versions by their documents: what a search costs a bound caller is no more than an unbound one

A search reads what it shows of runs from `versions`, which has no policy and is joined with documents, which
have one. The policy of runs looks for each one's document again, and is planned for each place it is read
at: 2 to 4 ms a search. That of documents asks once a statement who sees all, instead of at each row.

The version before goes on with its statements and finds what it found.
"""

from alembic import op

revision = "20261128a"
down_revision = "20261127wz"
branch_labels = None
depends_on = None

ROLE = "pdf_ingest_tenant"

# Nothing of a file's bytes, its key, its password, or who asked for it.
VERSIONS = """
    CREATE VIEW versions AS
    SELECT id, filename, title, language, text_search_config, pages_total, chunks FROM ingestions
"""


def setting(name: str) -> str:
    """NULL for one that was never made: that may be ''."""
    return f"nullif(current_setting('pdf_ingest.{name}', true), '')"


PATTERNS = f"CAST({setting('collections')} AS text[])"
NAMED = f"CAST(nullif({setting('documents')}, '*') AS uuid[])"
# Each subquery is read once a statement.
SEES_ALL = f"""(
    SELECT current_user <> '{ROLE}' OR {PATTERNS} = '{{%}}' AND {setting("documents")} = '*'
)"""
IS_DOCUMENT_IN_REACH = f"""
    collection LIKE ANY (CAST((SELECT CASE WHEN {setting("documents")} <> '' THEN {PATTERNS} END) AS text[]))
    AND coalesce(id = ANY (CAST((SELECT {NAMED}) AS uuid[])), true)
"""


def of_each_row(name: str) -> str:
    """A setting, as the policy before had it."""
    array = f"nullif(nullif(current_setting('pdf_ingest.{name}', true), ''), '*')"
    return f"CAST((SELECT CAST({array} AS text[])) AS text[])"


BEFORE = f"""
    CASE WHEN current_user <> '{ROLE}' OR (
        collection LIKE ANY ({of_each_row("collections")}) AND (
            (SELECT current_setting('pdf_ingest.documents', true)) = '*'
            OR CAST(id AS text) = ANY ({of_each_row("documents")})
        )
    ) THEN true END IS NOT NULL
"""


def upgrade() -> None:
    op.execute(VERSIONS)
    op.execute(f"GRANT SELECT ON versions TO {ROLE}")
    # as before (shown, in "keep tenants apart"): the planner expects nearly all to be shown
    shown = f"CASE WHEN {SEES_ALL} OR ({IS_DOCUMENT_IN_REACH}) THEN true END IS NOT NULL"
    op.execute(f"ALTER POLICY reach ON documents USING ({shown})")


def downgrade() -> None:
    op.execute(f"ALTER POLICY reach ON documents USING ({BEFORE})")
    op.execute("DROP VIEW versions")
