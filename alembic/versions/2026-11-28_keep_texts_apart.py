"""keep texts apart: the text of a chunk is shown to who may see its run

Searches for callers who are bound find chunks in `chunk_words`, which has no policy, and read their texts
from `chunks`, which has one: it is asked of the ten hits. Below it no search could use the index of words.

The version before goes on, and reads all chunks one by one for callers who are bound: 0.2 s of 48,400.
"""

from alembic import op

revision = "20261128b"
down_revision = "20261128a"
branch_labels = None
depends_on = None

ROLE = "pdf_ingest_tenant"

# Words of chunks, which are matched and ranked; what a statement brings out is in `chunks`.
CHUNK_WORDS = "CREATE VIEW chunk_words AS SELECT id, ingestion_id, tsv FROM chunks"

# How common a word is, is asked of all chunks, whoever asks. Of views there are no samples.
SAMPLED_WORDS = """
    CREATE FUNCTION sampled_words(pages integer) RETURNS SETOF tsvector ROWS 600
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
        SELECT tsv FROM chunks TABLESAMPLE SYSTEM (
            least(100, 100.0 * $1 / greatest(1, pg_relation_size('chunks') / 8192))
        ) REPEATABLE (0) $$
"""
# A subquery is read once a statement. To whom all is shown, no run is looked for.
SEES_ALL = f"""(
    SELECT current_user <> '{ROLE}' OR current_setting('pdf_ingest.collections', true) = '{{"%"}}'
        AND current_setting('pdf_ingest.documents', true) = '*'
)"""
IS_OF_RUN_IN_REACH = "EXISTS (SELECT FROM ingestions WHERE ingestions.id = chunks.ingestion_id)"


def upgrade() -> None:
    op.execute(CHUNK_WORDS)
    op.execute(f"GRANT SELECT ON chunk_words TO {ROLE}")
    op.execute(SAMPLED_WORDS)
    # as in "keep tenants apart": the planner expects nearly all to be shown
    shown = f"CASE WHEN {SEES_ALL} OR {IS_OF_RUN_IN_REACH} THEN true END IS NOT NULL"
    op.execute(f"CREATE POLICY reach ON chunks USING ({shown})")
    op.execute("ALTER TABLE chunks ENABLE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("ALTER TABLE chunks DISABLE ROW LEVEL SECURITY")
    op.execute("DROP POLICY reach ON chunks")
    op.execute("DROP FUNCTION sampled_words")
    op.execute("DROP VIEW chunk_words")
