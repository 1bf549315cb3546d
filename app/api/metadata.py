"""What documents hold, over HTTP: what a filter of a search can name."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.dependencies import CatalogDep
from app.api.metadata_schemas import KeyQuery, MetadataKeys, MetadataValues, ValueQuery
from app.api.problems import problem_responses
from app.errors import InvalidQuery

router = APIRouter(prefix="/metadata", tags=["search"], responses=problem_responses(InvalidQuery))


@router.get("")
async def list_metadata_keys(catalog: CatalogDep, wanted: Annotated[KeyQuery, Query()]) -> MetadataKeys:
    """The keys that documents have in their metadata, and how many have each; `null` is as good as none.

    Documents that a search with the same `collection`, `document_ids` and `filter` looks through are counted.
    """
    keys = await catalog.count_keys(wanted.documents(), wanted.limit + 1)
    return MetadataKeys.of(keys, wanted.limit)


@router.get("/values")
async def list_metadata_values(catalog: CatalogDep, wanted: Annotated[ValueQuery, Query()]) -> MetadataValues:
    """The values that documents have for a key, and how many of those that fit the filter have each.

    As a filter finds them: of a list each value in it counts; objects and lists in lists have none. So the
    number beside a value is how many documents are left when `eq` with it is added to the filter.
    """
    values = await catalog.count_values(wanted.documents(), wanted.key, wanted.limit + 1)
    return MetadataValues.of(values, wanted.limit)
