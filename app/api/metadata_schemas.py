"""What goes over the wire about the metadata of documents, described for people in OpenAPI."""

from collections.abc import Sequence
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json

from app.api.filter_schemas import Filter, FilterKey, condition_of
from app.api.schemas import CollectionName, Shown
from app.storage.filters import FIELDS, SearchFilter
from app.storage.metadata_values import COUNTED_FIELDS, MOST_CHARACTERS, KeyCount, ValueCount

# Each takes 50 bytes of an address, which may have 64 KB.
MAX_DOCUMENT_IDS = 500


class KeyQuery(BaseModel):
    """Of which documents the keys are counted."""

    collection: CollectionName | None = Field(None, description="Only the documents of this collection.")
    document_ids: list[UUID] | None = Field(
        None,
        max_length=MAX_DOCUMENT_IDS,
        description="Only these documents; may be given more than once.",
    )
    filter: Json[Filter] | None = Field(
        None,
        description="Only documents that this fits: the `filter` of a search, as JSON text.",
        examples=['{"type":"gte","key":"year","value":2024}'],
    )
    limit: int = Field(50, ge=1, le=500, description="The most entries to return.")

    def documents(self) -> SearchFilter:
        return SearchFilter(
            collection=self.collection,
            document_ids=None if self.document_ids is None else tuple(self.document_ids),
            condition=None if self.filter is None else condition_of(self.filter),
        )


def _countable(key: str) -> str:
    if key in FIELDS and key not in COUNTED_FIELDS:
        raise ValueError(f"is another time in each document: compare {key} with gte and lt")
    return key


class ValueQuery(KeyQuery):
    """The values of which key are counted, and of which documents."""

    key: Annotated[FilterKey, AfterValidator(_countable)] = Field(
        description="The key, as a filter names it: a field of the document's own "
        f"({', '.join(f'`{name}`' for name in COUNTED_FIELDS)}), or a key of its metadata."
    )


class MetadataKey(Shown):
    """A key of the metadata."""

    key: str = Field(
        description="As a filter names it: `metadata.pages` is the key `pages`, which a field of the "
        "document's own hides."
    )
    documents: int = Field(description="Documents that have it.")


class MetadataKeys(BaseModel):
    """Keys of the metadata, those that most documents have first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [{"key": "year", "documents": 38}, {"key": "department", "documents": 12}],
                    "has_more": False,
                }
            ]
        }
    )

    data: list[MetadataKey] = Field(description="The keys.")
    has_more: bool = Field(description="Whether there are more than `limit`.")

    @classmethod
    def of(cls, keys: Sequence[KeyCount], limit: int) -> Self:
        return cls(data=[MetadataKey.of(one) for one in keys[:limit]], has_more=len(keys) > limit)


class MetadataValue(Shown):
    """A value of a key of the metadata."""

    value: str | int | float | bool = Field(
        description=f"As a filter takes it. Texts over {MOST_CHARACTERS} characters are left out."
    )
    documents: int = Field(description="Documents that have it, alone or in a list.")


class MetadataValues(BaseModel):
    """Values of a key of the metadata, those that most documents have first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "data": [{"value": 2025, "documents": 31}, {"value": 2024, "documents": 7}],
                    "has_more": False,
                }
            ]
        }
    )

    data: list[MetadataValue] = Field(description="The values.")
    has_more: bool = Field(description="Whether there are more than `limit`.")

    @classmethod
    def of(cls, values: Sequence[ValueCount], limit: int) -> Self:
        return cls(data=[MetadataValue.of(one) for one in values[:limit]], has_more=len(values) > limit)
