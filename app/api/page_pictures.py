"""Pages of documents as pictures."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from app.api.dependencies import CallerDep, PicturesDep
from app.api.originals import has_etag
from app.api.problems import problem_responses
from app.errors import (
    ChunkNotFound,
    Corrupted,
    DocumentNotFound,
    FileGone,
    InvalidQuery,
    OutOfMemory,
    PageNotFound,
    ParserCrashed,
    PasswordGone,
    PicturesBusy,
    ReadingTimedOut,
    StorageFailed,
)

router = APIRouter(tags=["documents"])


@router.get(
    "/documents/{document_id}/pages/{page}.png",
    response_class=Response,
    responses={
        200: {
            "description": "The page.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "Not changed since the `ETag` in `If-None-Match`."},
        **problem_responses(
            *(DocumentNotFound, PageNotFound, ChunkNotFound, FileGone, InvalidQuery),
            *(
                PasswordGone,
                PicturesBusy,
                Corrupted,
                ReadingTimedOut,
                OutOfMemory,
                ParserCrashed,
                StorageFailed,
            ),
        ),
    },
)
async def get_page(
    document_id: Annotated[UUID, Path(description="The document's id.")],
    page: Annotated[int, Path(ge=1, le=1_000_000, description="The page, counted from 1.")],
    request: Request,
    pictures: PicturesDep,
    caller: CallerDep,
    *,
    highlight: Annotated[UUID | None, Query(description="A chunk whose lines are marked.")] = None,
    width: Annotated[int, Query(ge=100, le=2_000, description="Pixels.")] = 1_200,
) -> Response:
    """A page of the served version as a picture, for showing a hit where it stands."""
    wanted = await pictures.find(document_id, page, highlight, width, caller.reach)
    headers = {"ETag": f'"{wanted.tag}"', "Cache-Control": "private, no-cache"}
    if has_etag(headers["ETag"], request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(await pictures.draw(wanted), headers=headers, media_type="image/png")
