"""tell shares of words: how common words are is counted where chunks are, and told as numbers

It was told by copies of a sample of all chunks, and by statistics that are not shown below row-level
security. Numbers are enough, and they are the same for every caller.

The version before goes on, with its function.
"""

from alembic import op

revision = "20261128t"
down_revision = "20261128s"
branch_labels = None
depends_on = None

# Each lexeme, with the query that finds it: its share of all chunks, if statistics know it as common (the
# thousand most common words, in the 30,000 chunks that ANALYZE read, if there were as many as now). Of
# others, in how many of the sampled chunks it is. All are counted in one pass, where chunks are, with a
# column for each: joined with rows of words, each chunk and word takes 0.4 us for 0.15.
SHARES_OF_WORDS = """
    CREATE FUNCTION shares_of_words(lexemes text[], queries tsquery[], pages integer)
    RETURNS TABLE (lexeme text, common real, holding bigint, sampled bigint) ROWS 10
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        shares real[];
        counted bigint[];
    BEGIN
        SELECT array_agg(share ORDER BY number) INTO shares
        FROM unnest(lexemes) WITH ORDINALITY AS asked(word, number) LEFT JOIN (
            SELECT word, share FROM pg_class, pg_stats,
                unnest(CAST(CAST(most_common_elems AS text) AS text[]), most_common_elem_freqs)
                    AS known(word, share)
            WHERE oid = CAST('chunks' AS regclass)
                AND relpages * 8192.0 / greatest(1, pg_relation_size('chunks')) BETWEEN 0.8 AND 1.25
                AND schemaname = current_schema() AND tablename = 'chunks' AND attname = 'tsv'
                AND word = ANY (lexemes)
        ) known USING (word);
        EXECUTE (
            SELECT 'SELECT ARRAY[' || string_agg(CASE WHEN share IS NULL
                THEN format('count(*) FILTER (WHERE tsv @@ $1[%s])', number) ELSE 'NULL' END, ', '
                ORDER BY number) || ', count(*)] FROM chunks TABLESAMPLE SYSTEM ($2) REPEATABLE (0)'
            FROM unnest(shares) WITH ORDINALITY AS known(share, number)
        ) INTO counted
        USING queries, least(100, 100.0 * pages / greatest(1, pg_relation_size('chunks') / 8192));
        RETURN QUERY SELECT word, share, counted[number], counted[cardinality(counted)]
        FROM unnest(lexemes, shares) WITH ORDINALITY AS asked(word, share, number);
    END $$
"""


def upgrade() -> None:
    op.execute(SHARES_OF_WORDS)


def downgrade() -> None:
    op.execute("DROP FUNCTION shares_of_words")
