"""Keys over HTTP: made, listed, revoked."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from app.api.dependencies import CallerDep, KeysDep
from app.api.key_schemas import Key, KeyList, KeyRequest, NewKey, Token, TokenRequest
from app.api.problems import problem_responses
from app.api.schemas import Limit
from app.api.uploads import refuse
from app.errors import (
    AdminKeyFirst,
    CollectionNotFound,
    InvalidQuery,
    KeyNameTaken,
    KeyNotFound,
    ScopeMissing,
    TokensNeedSecret,
    TokenTooLong,
)

router = APIRouter(prefix="/keys", tags=["keys"], responses=problem_responses(InvalidQuery))


@router.post("", status_code=201, responses=problem_responses(KeyNameTaken, AdminKeyFirst))
async def create_key(wanted: KeyRequest, keys: KeysDep) -> NewKey:
    """Make a key. Its secret is in this answer and nowhere else.

    Two keys of a name may be in use, so that clients can change from one to the other. The first key of a
    service without API_KEYS must have the scope `admin`, since from then on every request needs a key.
    """
    if wanted.collections is not None and "admin" in wanted.scopes:
        refuse(
            "body", "collections", "must not be given with the scope admin, which is for the whole service"
        )
    key, secret = await keys.create(
        wanted.name,
        wanted.scopes,
        wanted.collections,
        wanted.limits.model_dump(exclude_none=True),
        wanted.expires_at,
    )
    return NewKey.with_secret(key, secret)


@router.post(
    "/tokens",
    status_code=201,
    responses=problem_responses(CollectionNotFound, ScopeMissing, TokensNeedSecret, TokenTooLong),
)
async def create_token(keys: KeysDep, caller: CallerDep, wanted: TokenRequest | None = None) -> Token:
    """Make a token: part of a key, for a browser or a link, for a while. It is kept nowhere.

    It opens no more than the key that asks, ends with that, and makes no tokens itself. It is sent like a
    key, or as `?token=` to `GET` a file or a page as a picture.
    """
    wanted = wanted or TokenRequest()
    if wanted.document_ids is not None and wanted.scopes != {"read"}:
        refuse("body", "document_ids", "can be given with the scope read alone")
    token, expires_at = keys.token(
        caller, wanted.scopes, wanted.collections, wanted.document_ids, wanted.expires_in
    )
    return Token(token=token, expires_at=datetime.fromtimestamp(expires_at, UTC))


@router.get("")
async def list_keys(
    keys: KeysDep,
    limit: Limit = 50,
    after: Annotated[UUID | None, Query(description="The `next` of the answer before.")] = None,
) -> KeyList:
    """All keys ever made, but for those of API_KEYS."""
    rows = await keys.list_keys(after, limit + 1)
    return KeyList.of(rows, limit, Key.of, lambda last: last.id)


@router.delete(
    "/{key_id}", status_code=204, response_class=Response, responses=problem_responses(KeyNotFound)
)
async def revoke_key(key_id: Annotated[UUID, Path(description="The key's id.")], keys: KeysDep) -> None:
    """Revoke a key: within 2 seconds it opens nothing any more. It stays in the list."""
    await keys.revoke(key_id)
