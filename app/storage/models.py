"""The tables. What belongs to a version of a document belongs to its ingestion.

The tables of vectors, `embeddings_<space id>`, are made at start-up (see spaces.py), not here.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pgvector import HalfVector
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    func,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL, TIMESTAMP, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Timestamp = TIMESTAMP(timezone=True)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: Timestamp, dict[str, Any]: JSONB}  # noqa: RUF012


class Collection(Base):
    """Where documents belong. One that is being deleted has no name any more: that is free for a new one."""

    __tablename__ = "collections"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(unique=True)
    description: Mapped[str | None]
    collection_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=sql("'{}'::jsonb"))
    language: Mapped[str | None]
    expires_after_days: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class CollectionDeletion(Base):
    """The task that deletes a collection's documents; outlives the collection, for pollers."""

    __tablename__ = "collection_deletions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID] = mapped_column(unique=True)
    collection: Mapped[str]
    documents_total: Mapped[int]
    documents_done: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Document(Base):
    """What a client uploaded and searches: a name for the newest published ingestion."""

    __tablename__ = "documents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    collection: Mapped[str]
    # Noted by a trigger; None of what is older than the trigger and not brought along yet (backfill.py).
    collection_id: Mapped[UUID | None] = mapped_column(ForeignKey("collections.id"))
    title: Mapped[str | None]  # given by a person; else the version has one of its own
    document_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", server_default=sql("'{}'::jsonb"))
    live_ingestion_id: Mapped[UUID | None] = mapped_column(ForeignKey("ingestions.id"), unique=True)
    latest_ingestion_id: Mapped[UUID] = mapped_column(ForeignKey("ingestions.id"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index(None, "collection", "id"),
        Index("ix_documents_collection_id_id", "collection_id", "id"),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
    )


class Ingestion(Base):
    """One run asked for; its id is the Celery task's id. Outlives a deleted document, for pollers."""

    __tablename__ = "ingestions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(index=True)
    # The document's collection, from when a worker begins, or the words of an older version are counted: all
    # rows that are stored from then on have it. A trigger follows moves.
    rows_collection_id: Mapped[UUID | None]
    filename: Mapped[str]
    title: Mapped[str | None]
    sha256: Mapped[bytes] = mapped_column(LargeBinary, index=True)
    byte_size: Mapped[int] = mapped_column(BigInteger)
    storage_key: Mapped[str | None] = mapped_column(index=True)
    path: Mapped[str | None]
    waits_for: Mapped[UUID | None]
    asked_by: Mapped[str] = mapped_column(server_default="")
    password: Mapped[bytes | None] = mapped_column(LargeBinary)
    status: Mapped[str] = mapped_column(server_default="queued")
    stage: Mapped[str] = mapped_column(server_default="queued")
    pages_done: Mapped[int] = mapped_column(server_default="0")
    pages_total: Mapped[int | None]
    pages_failed: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    pages_without_text: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")
    engine: Mapped[str | None]
    language: Mapped[str | None]
    text_search_config: Mapped[str | None]
    chunks: Mapped[int] = mapped_column(server_default="0")
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    has_counted_words: Mapped[bool] = mapped_column(server_default=sql("false"))
    has_counted_title: Mapped[bool] = mapped_column(server_default=sql("false"))
    chunks_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    recipe: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default="0")
    fruitless_attempts: Mapped[int] = mapped_column(server_default="0")  # of earlier versions
    losses: Mapped[int] = mapped_column(server_default="0")
    deaths: Mapped[int] = mapped_column(server_default="0")
    retries: Mapped[int] = mapped_column(server_default="0")
    is_slow: Mapped[bool] = mapped_column(server_default=sql("false"))
    slow_since: Mapped[datetime | None]
    request_id: Mapped[str | None]
    queue: Mapped[str | None]
    turn: Mapped[int | None] = mapped_column(BigInteger)
    is_bulk: Mapped[bool] = mapped_column(server_default=sql("false"))
    lease_epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None]
    next_attempt_at: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]
    rings: Mapped[int] = mapped_column(server_default="0")
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    stage_seconds: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    revision: Mapped[int] = mapped_column(BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'processing', 'retrying', 'success', 'error', 'cancelled')", name="status"
        ),
        Index(
            "ix_ingestions_open",
            "created_at",
            postgresql_where=sql("status IN ('queued', 'processing', 'retrying')"),
        ),
        Index("ix_ingestions_processing", "worker", postgresql_where=sql("status = 'processing'")),
        Index(
            "ix_ingestions_turns",
            *("turn", "is_bulk", "created_at", "id"),
            postgresql_where=sql("status = 'queued' AND started_at IS NULL AND turn IS NOT NULL"),
        ),
        Index(
            "ix_ingestions_queues",
            *("queue", "is_bulk", "turn"),
            postgresql_where=sql("status = 'queued' AND started_at IS NULL AND turn IS NOT NULL"),
        ),
        Index(
            "ix_ingestions_accounts",
            *("asked_by", "queue", "is_bulk", "turn"),
            postgresql_where=sql("status = 'queued' AND started_at IS NULL AND turn IS NOT NULL"),
        ),
        Index(
            "ix_ingestions_begun",
            *("created_at", "id"),
            postgresql_where=sql(
                "status IN ('queued', 'retrying') AND started_at IS NOT NULL AND turn IS NOT NULL"
            ),
        ),
        Index(None, "created_at", "id"),
        Index(None, "asked_by", "created_at", postgresql_where=sql("asked_by <> ''")),
        Index(None, "text_search_config", postgresql_where=sql("text_search_config IS NOT NULL")),
    )


class Chunk(Base):
    """A piece of text that fits the embedder, with its pages and the boxes of its lines."""

    __tablename__ = "chunks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    ingestion_id: Mapped[UUID] = mapped_column(ForeignKey("ingestions.id"))
    collection_id: Mapped[UUID | None]  # as its run has it
    ordinal: Mapped[int]
    page_start: Mapped[int]
    page_end: Mapped[int]
    boxes: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    heading: Mapped[str | None]
    text: Mapped[str]
    tokens: Mapped[int]
    hidden_text: Mapped[bool] = mapped_column(server_default=sql("false"))
    tsv: Mapped[Any] = mapped_column(TSVECTOR)

    __table_args__ = (
        Index("uq_chunks_ingestion_id_ordinal", "ingestion_id", "ordinal", unique=True),
        # 256 kB wait at most to be put into it: each search reads all of it
        Index(None, "tsv", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 256}),
    )


class DocumentWord(Base):
    """A word that a version of a document is about; `share` of its chunks hold it (document_words.py).

    `text_share` is what that would be without the title that a person gave (title_words.py).
    """

    __tablename__ = "document_words"

    ingestion_id: Mapped[UUID] = mapped_column(primary_key=True)
    lexeme: Mapped[str] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID | None]  # as its run has it
    share: Mapped[float] = mapped_column(REAL)
    is_on_first_page: Mapped[bool]
    text_share: Mapped[float | None] = mapped_column(REAL)

    __table_args__ = (Index("ix_document_words_by_share", "lexeme", sql("share DESC"), "ingestion_id"),)


class EmbeddingSpace(Base):
    """A (provider, model, dimensions) whose vectors are comparable; its vectors are in `embeddings_<id>`."""

    __tablename__ = "embedding_spaces"

    id: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str]
    model: Mapped[str]
    dimensions: Mapped[int]
    is_live: Mapped[bool] = mapped_column(server_default=sql("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("uq_embedding_spaces_identity", "provider", "model", "dimensions", unique=True),
        Index("uq_embedding_spaces_is_live", "is_live", unique=True, postgresql_where=sql("is_live")),
    )


class IdempotencyKey(Base):
    """The first answer to a request with an `Idempotency-Key`, replayed for 24 hours."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    caller: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """Opens the service to its holder, as far as scopes and collections go. Of the key itself only a hash.

    The row stays when the key is revoked: as long as there is one, the service wants keys.
    """

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    collections: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    limits: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class RequestCount(Base):
    """Requests of an account in a minute, as all processes have counted them; gone some minutes later."""

    __tablename__ = "request_counts"

    account: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    requests: Mapped[int]


class FileToDelete(Base):
    """A stored file whose row is gone; the sweeper deletes it (an object store is in no transaction)."""

    __tablename__ = "files_to_delete"

    storage_key: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    failures: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Webhook(Base):
    """Who wants to be told of what (None: of any collection). Secrets are encrypted."""

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    collections: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    old_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    old_secret_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """An event that a webhook is told of: the outbox. Triggers put it here in the verdict's own statement.

    No foreign key: a webhook that is deleted at the same moment must neither hold up nor fail a verdict.
    """

    __tablename__ = "webhook_deliveries"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    webhook_id: Mapped[UUID]
    document_id: Mapped[UUID | None]
    event: Mapped[str]
    data: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(server_default="pending")
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None]
    leased_until: Mapped[datetime | None]
    answer_status: Mapped[int | None]
    answer_ms: Mapped[int | None]
    answer_body: Mapped[str | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        Index(None, "webhook_id", "position"),
        Index(
            "ix_webhook_deliveries_due",
            *("webhook_id", "next_attempt_at", "position"),
            postgresql_where=sql("status = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_in_order",
            *("webhook_id", "document_id", "position"),
            postgresql_where=sql("status = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_in_flight",
            "webhook_id",
            postgresql_where=sql("leased_until IS NOT NULL"),
        ),
    )


class Outage(Base):
    """A service that all work needs and that does not do its work; the row goes when a probe succeeds."""

    __tablename__ = "outages"

    service: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    probes: Mapped[int] = mapped_column(server_default="0")
    next_probe_at: Mapped[datetime] = mapped_column(server_default=func.now())


class EmbeddingBudget(Base):
    """Whose turn it is to ask the embedding server: one row. Unlogged: a turn waits for no disk."""

    __tablename__ = "embedding_budget"

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=sql("true"))
    next_at: Mapped[datetime]
    next_urgent_at: Mapped[datetime] = mapped_column(server_default=sql("'-infinity'"))
    paused_until: Mapped[datetime] = mapped_column(server_default=sql("'-infinity'"))
    delayed_seconds: Mapped[float] = mapped_column(Double, server_default=sql("0"))

    __table_args__ = ({"prefixes": ["UNLOGGED"]},)


class CachedEmbedding(Base):
    """The vector of a text that was embedded before. Unlogged: what a crash takes is embedded again."""

    __tablename__ = "embedding_cache"

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    embedding: Mapped[HalfVector] = mapped_column(HALFVEC)
    used_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)

    __table_args__ = ({"prefixes": ["UNLOGGED"]},)


class Worker(Base):
    """A process that has asked for work."""

    __tablename__ = "workers"

    holder: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class Leader(Base):
    """The one process that has a duty for all of them, until it stops to say so."""

    __tablename__ = "leaders"

    duty: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
