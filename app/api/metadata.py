"""What the metadata of documents holds, over HTTP: what a filter of a search can name."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import DocumentsDep
from app.api.filter_schemas import FilterKey
from app.api.metadata_schemas import MetadataKeys, MetadataValues
from app.api.problems import problem_responses
from app.api.schemas import CollectionName, Limit
from app.errors import InvalidQuery

router = APIRouter(prefix="/metadata", tags=["search"], responses=problem_responses(InvalidQuery))

Collection = Annotated[
    CollectionName | None, Query(description="Count only the documents of this collection.")
]


@router.get("")
async def list_metadata_keys(
    documents: DocumentsDep, collection: Collection = None, limit: Limit = 50
) -> MetadataKeys:
    """The keys that documents have in their metadata, and how many have each; `null` is as good as none.

    Documents that a search finds are counted.
    """
    return MetadataKeys.of(await documents.count_keys(collection, limit + 1), limit)


@router.get("/values")
async def list_metadata_values(
    documents: DocumentsDep,
    key: Annotated[FilterKey, Query(description="The key, as a filter names it.")],
    collection: Collection = None,
    limit: Limit = 50,
) -> MetadataValues:
    """The values that documents have for a key of their metadata, and how many have each.

    As a filter finds them: of a list each value in it counts; objects and lists in lists have none.
    """
    return MetadataValues.of(await documents.count_values(key, collection, limit + 1), limit)
