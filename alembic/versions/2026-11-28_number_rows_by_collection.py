"""number rows by collection: what searches look through tells where it belongs, and policies ask that

A run notes the collection of its document, all that it stores has its number, and a trigger follows when the
document moves, whichever version moves it. Rows of before, and of the version before, have none and are
looked up: to number a vector of before links it anew, which takes 0.3 ms, and 5 among a million.

The version before goes on. What is usual among vectors its bound callers ask of those that they see.
"""

import sqlalchemy as sa
from alembic import op

revision = "20261128u"
down_revision = "20261128t"
branch_labels = None
depends_on = None

ROLE = "pdf_ingest_tenant"


def setting(name: str) -> str:
    """NULL for one that was never made: that may be ''."""
    return f"nullif(current_setting('pdf_ingest.{name}', true), '')"


# Settings and numbers are read once a statement; the policy of collections leaves those in reach. `= ANY` is
# NULL for a row without a number, or where documents are named: its document is looked up. As in "keep
# tenants apart" the planner expects nearly all to be shown.
SHOWN = f"""
    CASE WHEN (
        SELECT current_user <> '{ROLE}'
            OR {setting("collections")} = '{{"%"}}' AND {setting("documents")} = '*'
    ) OR coalesce(
        collection_id = ANY (CAST((
            SELECT CASE WHEN {setting("documents")} = '*' THEN
                ARRAY(SELECT id FROM collections WHERE name IS NOT NULL)
            END
        ) AS uuid[])),
        (SELECT true FROM documents WHERE live_ingestion_id = ingestion_id),
        (SELECT true FROM documents WHERE latest_ingestion_id = ingestion_id)
    ) THEN true END IS NOT NULL
"""  # noqa: S608 - a constant
# For tables whose rows belong to a run, `ingestion_id`; those of vectors come later (spaces.py).
KEEP_APART = f"""
    CREATE FUNCTION keep_apart(kept regclass) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $function$
    BEGIN
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS collection_id uuid', kept);
        EXECUTE format('DROP POLICY IF EXISTS reach ON %s', kept);
        EXECUTE format('CREATE POLICY reach ON %s USING (', kept) || $policy${SHOWN}$policy$ || ')';
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', kept);
    END $function$
"""
# All tables that are kept apart so: by their columns. The rows of the run in work wait for this, and the next
# ones are stored with the number that the run has then.
FOLLOW_DOCUMENT = """
    CREATE FUNCTION follow_document() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        runs CONSTANT uuid[] := ARRAY[NEW.live_ingestion_id, NEW.latest_ingestion_id];
        numbered regclass;
    BEGIN
        UPDATE ingestions SET rows_collection_id = NEW.collection_id WHERE id = ANY (runs);
        FOR numbered IN
            SELECT oid FROM pg_class
            WHERE relnamespace = CAST(current_schema() AS regnamespace) AND relkind = 'r' AND 2 = (
                SELECT count(*) FROM pg_attribute
                WHERE attrelid = oid AND attname IN ('ingestion_id', 'collection_id')
            )
        LOOP
            EXECUTE format('UPDATE %s SET collection_id = $1', numbered)
                || ' WHERE ingestion_id = ANY ($2) AND collection_id <> $1' USING NEW.collection_id, runs;
        END LOOP;
        RETURN NULL;
    END $$
"""
TRIGGER = """
    CREATE TRIGGER follow_moved AFTER UPDATE ON documents
    FOR EACH ROW WHEN (OLD.collection_id <> NEW.collection_id) EXECUTE FUNCTION follow_document()
"""
# How near just any vector is, whoever asks: of those in pages here and there.
USUAL_SIMILARITY = """
    CREATE FUNCTION usual_similarity(space_id integer, asked halfvec, pages integer) RETURNS float8
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        vectors CONSTANT regclass := 'embeddings_' || space_id;
        usual float8;
    BEGIN
        EXECUTE format('SELECT coalesce(avg(-(embedding <#> $1)), 0) FROM %s', vectors)
            || ' TABLESAMPLE SYSTEM ($2) REPEATABLE (0)'
        INTO usual USING asked, least(100, 100.0 * pages / greatest(1, pg_relation_size(vectors) / 8192));
        RETURN usual;
    END $$
"""
# Of a word that is in very many documents those with most of it are listed, whose they are is asked of these:
# below the policy the list would go on until it had as many in reach, however many there are of others.
WORD_SHARES = "CREATE VIEW word_shares AS SELECT ingestion_id, lexeme, share FROM document_words"
# How rare a word is, is asked of all documents, whoever asks. Of more than `most` statistics are near enough,
# which a bound caller is not shown of a table below a policy.
DOCUMENTS_OF_WORDS = """
    CREATE FUNCTION documents_of_words(words text[], most integer)
    RETURNS TABLE (lexeme text, documents float8) ROWS 10
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
    BEGIN
        RETURN QUERY SELECT word, CASE WHEN counted < most THEN counted ELSE greatest(counted, (
            SELECT max(known.share)
                * (SELECT reltuples FROM pg_class WHERE oid = CAST('document_words' AS regclass))
            FROM pg_stats, unnest(CAST(CAST(most_common_vals AS text) AS text[]), most_common_freqs)
                AS known(value, share)
            WHERE schemaname = current_schema() AND tablename = 'document_words' AND attname = 'lexeme'
                AND value = word
        )) END
        FROM unnest(words) AS word CROSS JOIN LATERAL (
            SELECT CAST(count(*) AS float8) AS counted
            FROM (SELECT FROM document_words held WHERE held.lexeme = word LIMIT most) document
        ) document;
    END $$
"""
SHOWN_BEFORE = f"""
    CASE WHEN (
        SELECT current_user <> '{ROLE}' OR current_setting('pdf_ingest.collections', true) = '{{"%"}}'
            AND current_setting('pdf_ingest.documents', true) = '*'
    ) OR EXISTS (SELECT FROM ingestions WHERE ingestions.id = chunks.ingestion_id) THEN true END IS NOT NULL
"""  # noqa: S608 - a constant


def tables_of_vectors() -> list[str]:
    ids = op.get_bind().scalars(sa.text("SELECT id FROM embedding_spaces"))
    return [f"embeddings_{space_id}" for space_id in ids]


def upgrade() -> None:
    # By another name: the version before joins runs with documents, and says `collection_id` for theirs.
    op.add_column("ingestions", sa.Column("rows_collection_id", sa.Uuid(), nullable=True))
    op.execute(KEEP_APART)
    for table in ("chunks", "document_words", *tables_of_vectors()):
        op.execute(f"SELECT keep_apart('{table}')")
    for table in tables_of_vectors():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")  # see spaces.py
    op.execute(FOLLOW_DOCUMENT)
    op.execute(TRIGGER)
    op.execute(USUAL_SIMILARITY)
    op.execute(WORD_SHARES)
    op.execute(f"GRANT SELECT ON word_shares TO {ROLE}")
    op.execute(DOCUMENTS_OF_WORDS)


def downgrade() -> None:
    op.execute("DROP FUNCTION documents_of_words")
    op.execute("DROP VIEW word_shares")
    op.execute("DROP FUNCTION usual_similarity")
    op.execute("DROP TRIGGER follow_moved ON documents")
    op.execute("DROP FUNCTION follow_document")
    for table in ("chunks", "document_words", *tables_of_vectors()):
        op.execute(f"DROP POLICY reach ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DROP COLUMN collection_id")
    op.execute(f"CREATE POLICY reach ON chunks USING ({SHOWN_BEFORE})")
    op.execute("ALTER TABLE chunks ENABLE ROW LEVEL SECURITY")
    op.execute("DROP FUNCTION keep_apart")
    op.drop_column("ingestions", "rows_collection_id")
