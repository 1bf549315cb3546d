"""The bodies of keys, described for people in OpenAPI."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.schemas import CollectionPatterns, Moment, Number, Page, Shown
from app.services.keys import Scope
from app.storage.keys import KeyRow

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose key it is, in the log.")]
Scopes = Annotated[set[Scope], Field(min_length=1)]
Amount = Annotated[Number, Field(ge=1, le=2**53)] | None


def _later(value: datetime) -> datetime:
    if value <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return value


class KeyLimits(BaseModel):
    """How much a key may ask for; null: as much as it likes."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: Amount = Field(None, description="Of all processes together, to a second.")
    documents_waiting: Amount = Field(None, description="In the queue, at a time; more get 429 `queue_full`.")
    documents_per_month: Amount = Field(None, description="Uploads, new versions and retries, in UTC.")
    pages_per_month: Amount = Field(None, description="Read; with less than that another run may begin.")
    bytes_per_month: Amount = Field(None, description="Of the files.")
    tokens_per_month: Amount = Field(None, description="Embedded; with less another run may begin.")


class KeyRequest(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: KeyName
    scopes: Scopes = Field(
        description="What it opens: `read`, `write` (uploads, changes, deletions), `admin` (keys, the whole "
        "service, and all that the others open)."
    )
    collections: CollectionPatterns | None = Field(
        None,
        description="Names, or patterns in which `*` stands for any characters: the key sees nothing of any "
        "other collection. Not with `admin`. Default: all collections.",
    )
    limits: KeyLimits = Field(KeyLimits(), description="How much it may ask for.")
    expires_at: Annotated[Moment, AfterValidator(_later)] | None = Field(
        None, description="From then on it opens nothing. Default: never."
    )


class Key(Shown):
    """A key, without its secret."""

    id: UUID = Field(description="For `DELETE /keys/{key_id}`.")
    name: str = Field(description="Whose key it is.")
    prefix: str = Field(description="What its secret begins with.")
    scopes: list[Scope] = Field(description="What it opens.")
    collections: list[str] | None = Field(description="Names or patterns of what it sees; null: everything.")
    limits: KeyLimits = Field(description="How much it may ask for.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="From then on it opens nothing; null: never.")
    last_used_at: datetime | None = Field(description="To a minute; null: never.")
    revoked_at: datetime | None = Field(description="Since then it opens nothing; null: it is in use.")


class NewKey(Key):
    """A key that was made just now, with its secret."""

    secret: str = Field(description="To be sent as `Authorization: Bearer …`. It is shown this once only.")

    @classmethod
    def with_secret(cls, key: KeyRow, secret: str) -> Self:
        return cls(**Key.of(key).model_dump(), secret=secret)


class KeyList(Page[Key]):
    """Keys, the newest first."""


class TokenRequest(BaseModel):
    """Part of what the key that asks opens."""

    model_config = ConfigDict(extra="forbid")

    scopes: Annotated[set[Literal["read", "write"]], Field(min_length=1)] = Field(
        {"read"}, description="Those of the key, but for `admin`."
    )
    collections: CollectionPatterns | None = Field(
        None, description="Some of those that the key sees. Default: the same."
    )
    document_ids: Annotated[list[UUID], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Only these documents, to read. Default: all in the collections."
    )
    expires_in: Number = Field(900, ge=1, le=86_400, description="Seconds until it opens nothing any more.")


class Token(BaseModel):
    """A token that was made just now."""

    token: str = Field(description="To be sent like a key, or as `?token=` of a file or a picture.")
    expires_at: datetime = Field(description="From then on it opens nothing; it ends with its key, too.")


class KeyUsage(Shown):
    """What was asked for on the account of a key, for documents that are in a collection now."""

    key: str = Field(description="The key's name; empty: nobody's, of a service without keys or of a task.")
    collection: str | None = Field(description="null: documents that are deleted, or that you cannot see.")
    documents: int = Field(description="Uploads, new versions and retries.")
    pages: int = Field(description="Pages read.")
    bytes: int = Field(description="Of the files.")
    tokens: int = Field(description="Tokens embedded.")


class UsageOfMonth(BaseModel):
    """What was asked for in a month."""

    month: str = Field(description="As 2026-11, in UTC.")
    data: list[KeyUsage] = Field(description="The 500 with most documents, those first.")
