"""cache embeddings: vectors of texts that were embedded before"""

from alembic import op

revision = "20261127sc"
down_revision = "20261127sb"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a log: what a crash takes is embedded again.
    op.execute("""
        CREATE UNLOGGED TABLE embedding_cache (
            key bytea CONSTRAINT pk_embedding_cache PRIMARY KEY,
            embedding halfvec NOT NULL,
            used_at timestamptz DEFAULT now() NOT NULL
        )
    """)
    op.create_index("ix_embedding_cache_used_at", "embedding_cache", ["used_at"])


def downgrade() -> None:
    op.drop_table("embedding_cache")
