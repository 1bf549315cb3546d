"""Collections over HTTP: make, list, change, delete."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator

from app.api.collection_schemas import (
    Collection,
    CollectionChange,
    CollectionList,
    CollectionRequest,
    DeletionTask,
)
from app.api.dependencies import CollectionsDep
from app.api.problems import problem_responses
from app.api.schemas import CollectionName, Limit, storable_text
from app.errors import CollectionExists, CollectionNotFound, InvalidQuery

router = APIRouter(prefix="/collections", tags=["collections"], responses=problem_responses(InvalidQuery))
NOT_FOUND = problem_responses(CollectionNotFound)
LOCATION = {"schema": {"type": "string", "format": "uri-reference"}}

Name = Annotated[CollectionName, Path(description="The collection's name; a `/` in it may be sent as it is.")]


@router.post(
    "",
    status_code=201,
    response_model=Collection,
    responses={
        201: {
            "description": "Made.",
            "headers": {"Location": {"description": "The collection.", **LOCATION}},
        },
        **problem_responses(CollectionExists, CollectionNotFound),
    },
)
async def create_collection(
    body: CollectionRequest, collections: CollectionsDep, response: Response
) -> Collection:
    """Make a collection before there is a document in it. Uploading into an unknown one makes it as well."""
    response.headers["Location"] = f"/collections/{quote(body.name, safe='')}"
    return Collection.of(await collections.create(body.name, body.fields()))


@router.get("")
async def list_collections(
    collections: CollectionsDep,
    limit: Limit = 50,
    after: Annotated[
        Annotated[str, AfterValidator(storable_text)] | None,
        Query(description="The `next` of the answer before: a name, which is left out."),
    ] = None,
) -> CollectionList:
    """Collections in the order of their names, each with what is in it."""
    found = await collections.list(after, limit + 1)
    return CollectionList.of(found, limit, Collection.of, lambda last: last.collection.name)


@router.get("/{name:path}", responses=NOT_FOUND)
async def get_collection(name: Name, collections: CollectionsDep) -> Collection:
    """A collection and what is in it."""
    return Collection.of(await collections.find(name))


@router.patch("/{name:path}", responses=NOT_FOUND | problem_responses(CollectionExists))
async def change_collection(name: Name, body: CollectionChange, collections: CollectionsDep) -> Collection:
    """Rename a collection with all its documents, or change what is said of it. Nothing is ingested again.

    A rename writes every document, 20,000 in about a second; one that takes over 8 s is a 503 and undone.
    """
    return Collection.of(await collections.change(name, body.name, body.changes()))


@router.delete(
    "/{name:path}",
    status_code=202,
    response_model=DeletionTask,
    responses={
        200: {"model": Collection, "description": "What would be deleted; with `dry_run` only."},
        202: {
            "description": "A task deletes the documents.",
            "headers": {"Location": {"description": "The task.", **LOCATION}},
        },
        **NOT_FOUND,
    },
)
async def delete_collection(
    name: Name,
    collections: CollectionsDep,
    *,
    dry_run: Annotated[bool, Query(description="Delete nothing, only count.")] = False,
) -> Response:
    """Delete a collection and all its documents, in the background; `GET /tasks/{task_id}` shows progress.

    The name is free at once: an upload into it makes a new collection, which this deletion does not touch.
    That holds for `default` as well. From now on nobody finds its documents; what is there of them goes one
    after another. It goes on after any interruption and cannot be called off.
    """
    if dry_run:
        return JSONResponse(Collection.of(await collections.find(name)).model_dump(mode="json"))
    task = DeletionTask.of(await collections.delete(name))
    return JSONResponse(task.model_dump(mode="json"), 202, {"Location": f"/tasks/{task.task_id}"})
