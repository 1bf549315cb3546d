"""What goes over the wire about the metadata of documents, described for people in OpenAPI."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.storage.metadata_values import MOST_CHARACTERS, KeyCount, ValueCount


class MetadataKey(BaseModel):
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
        shown = [MetadataKey(key=one.key, documents=one.documents) for one in keys[:limit]]
        return cls(data=shown, has_more=len(keys) > limit)


class MetadataValue(BaseModel):
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
        shown = [
            MetadataValue.model_validate({"value": one.value, "documents": one.documents})
            for one in values[:limit]
        ]
        return cls(data=shown, has_more=len(values) > limit)
