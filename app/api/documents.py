"""Documents over HTTP: upload, list, replace, retry, delete, and what is in them."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from app.api.dependencies import CallerDep, CatalogDep, DocumentsDep
from app.api.document_schemas import (
    ACCEPTED_EXAMPLE,
    DUPLICATE_EXAMPLE,
    SEVERAL_EXAMPLE,
    Accepted,
    AcceptedOfSeveral,
    AllRefused,
    ChangeRequest,
    ChunkList,
    DeletedDocuments,
    DeleteRequest,
    Document,
    DocumentChunk,
    DocumentList,
    DocumentQuery,
    IdempotencyKey,
    RefusedOfSeveral,
    RetryFailedRequest,
    RetryingDocuments,
    RetryRequest,
    Several,
    UploadFields,
    VersionFields,
)
from app.api.originals import send_original
from app.api.problems import problem_of, problem_response, problem_responses
from app.api.schemas import Limit
from app.api.uploads import content_length, multipart_body, read_form, refuse
from app.errors import (
    AlreadyInWork,
    CollectionNotFound,
    DocumentNotFound,
    DocumentReplaced,
    EmptyFile,
    FileGone,
    IdempotencyKeyInWork,
    IdempotencyKeyReused,
    InvalidMetadata,
    InvalidQuery,
    PasswordNeedsKey,
    QueueFull,
    QuotaExceeded,
    RangeNotSatisfiable,
    StorageFailed,
    UploadNotAPDF,
    UploadTooLarge,
    UploadTooSlow,
)
from app.services.idempotency import Answer
from app.services.uploads import AcceptedFile, RefusedFile, UploadOptions
from app.storage.document_views import DocumentOrder, DocumentPlace
from app.storage.documents import FailedDocuments

POLL_SECONDS = 1  # the Retry-After of an accepted upload: small PDFs are done by then

_CHUNK_CURSOR = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{1,9})")

DocumentId = Annotated[UUID, Path(description="The `document_id` of the upload's answer.")]
UPLOAD_ERRORS = (
    EmptyFile,
    UploadTooSlow,
    UploadTooLarge,
    UploadNotAPDF,
    InvalidQuery,
    InvalidMetadata,
    PasswordNeedsKey,
    QueueFull,
    QuotaExceeded,
    StorageFailed,
)
ACCEPTED_HEADERS = {
    "Location": {
        "description": "The document, of a single file.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "Retry-After": {
        "description": "Seconds after which asking for the task makes sense.",
        "schema": {"type": "integer"},
    },
}

NUMBERS = {"updated_at", "pages", "chunks", "bytes"}

router = APIRouter(prefix="/documents", tags=["documents"])


def _accepted(description: str, **examples: object) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {
        "description": description,
        "headers": ACCEPTED_HEADERS,
        "content": {"application/json": {"examples": shown}},
    }


@router.post(
    "",
    status_code=202,
    response_model=Accepted | Several,
    responses={
        202: _accepted(
            "Accepted: a task will ingest it. With several files, what became of each; at least one has a "
            "new task.",
            one_file=ACCEPTED_EXAMPLE,
            several_files=SEVERAL_EXAMPLE,
        ),
        200: {
            "model": Accepted | Several,
            "description": "The collection has these bytes already, and nothing new was begun.",
            "content": {"application/json": {"examples": {"duplicate": {"value": DUPLICATE_EXAMPLE}}}},
        },
        **problem_responses(*UPLOAD_ERRORS, CollectionNotFound, IdempotencyKeyReused, IdempotencyKeyInWork),
    },
    openapi_extra=multipart_body(UploadFields, several=True),
)
async def upload_documents(
    request: Request,
    documents: DocumentsDep,
    caller: CallerDep,
    idempotency_key: Annotated[
        IdempotencyKey | None,
        Header(
            alias="Idempotency-Key",
            description="Any text of your choice. Sent again within 24 hours, the same request gets the "
            "first answer and begins nothing new.",
        ),
    ] = None,
) -> Response:
    """Add PDFs. Each is checked while it arrives, stored, and ingested in the background.

    Several files are accepted or refused one by one. If all of them are refused the answer is the problem
    of the first one, with those of all in `data`.
    """
    async with documents.claiming(idempotency_key, caller.tenant) as claim, documents.uploading() as upload:
        if claim is None or claim.first_answer is None:  # which is given again, however full it is
            await documents.require_room(content_length(request))
        form = await read_form(request, upload, UploadFields)
        refused = [file for file in form.files if isinstance(file, RefusedFile)]
        if len(refused) == len(form.files):
            return _respond(_answer(refused))
        answer = await documents.add(upload, form.files, _options(form.fields), _answer, claim)
    return _respond(answer)


@router.get("", responses=problem_responses(InvalidQuery))
async def list_documents(catalog: CatalogDep, wanted: Annotated[DocumentQuery, Query()]) -> DocumentList:
    """Documents, unless told otherwise the newest first."""
    order = DocumentOrder(wanted.sort, is_descending=wanted.order == "desc")
    after = _place(wanted.after, order)
    views = await catalog.list_documents(wanted.condition(), order, after, wanted.limit + 1)
    return DocumentList.of(
        views, wanted.limit, lambda one: Document.of(one[0]), lambda one: _place_cursor(one[1], order)
    )


@router.get("/{document_id}", responses=problem_responses(DocumentNotFound, InvalidQuery))
async def get_document(document_id: DocumentId, catalog: CatalogDep) -> Document:
    """A document: what is known of the version that is served, and of a newer run if there is one."""
    return Document.of(await catalog.find(document_id))


@router.put(
    "/{document_id}",
    status_code=202,
    response_model=Accepted,
    responses={
        202: _accepted("Accepted: a task will ingest it.", accepted=ACCEPTED_EXAMPLE),
        **problem_responses(DocumentNotFound, *UPLOAD_ERRORS),
    },
    openapi_extra=multipart_body(VersionFields, several=False),
)
async def replace_document(document_id: DocumentId, request: Request, documents: DocumentsDep) -> Response:
    """Give the document a new version. The old one is served until the new one is ready.

    The newest request wins: an older one that is still queued or running ends as `superseded`.
    """
    await documents.require(document_id)
    await documents.require_room(content_length(request))
    async with documents.uploading() as upload:
        form = await read_form(request, upload, VersionFields, max_files=1)
        (file,) = form.files
        if isinstance(file, RefusedFile):
            raise file.error
        options = _options(form.fields)
        accepted = await documents.replace(document_id, upload, file, options.metadata, options.password)
    return _respond(_answer([accepted]))


@router.patch(
    "/{document_id}", responses=problem_responses(DocumentNotFound, CollectionNotFound, InvalidQuery)
)
async def change_document(document_id: DocumentId, body: ChangeRequest, documents: DocumentsDep) -> Document:
    """Give a document another title, other metadata, or another collection. Nothing is ingested again."""
    return Document.of(await documents.change(document_id, body.change()))


@router.delete(
    "/{document_id}",
    status_code=204,
    response_class=Response,  # FastAPI's own says that nothing is JSON
    responses=problem_responses(DocumentNotFound, InvalidQuery),
)
async def delete_document(document_id: DocumentId, documents: DocumentsDep) -> None:
    """Delete the document and its chunks; right after the answer, its file. Its tasks end as `cancelled`."""
    await documents.delete(document_id)


@router.post("/retry", status_code=202, responses=problem_responses(InvalidQuery, QueueFull, QuotaExceeded))
async def retry_failed_documents(
    documents: DocumentsDep, body: RetryFailedRequest | None = None
) -> RetryingDocuments:
    """Ingest all failed documents again: those of a collection, those named, those with one of some codes."""
    body = body or RetryFailedRequest()
    failed = FailedDocuments(body.collection, body.codes, body.document_ids)
    return RetryingDocuments(count=await documents.retry_failed(failed))


@router.post("/delete", responses=problem_responses(InvalidQuery))
async def delete_documents(body: DeleteRequest, documents: DocumentsDep) -> DeletedDocuments:
    """Delete many documents as `DELETE` deletes one."""
    return DeletedDocuments(count=await documents.delete_all(body.document_ids))


@router.post(
    "/{document_id}/retry",
    status_code=202,
    response_model=Accepted,
    responses={
        202: _accepted("Accepted: a task will ingest it again.", accepted=ACCEPTED_EXAMPLE),
        **problem_responses(
            DocumentNotFound,
            FileGone,
            AlreadyInWork,
            InvalidQuery,
            PasswordNeedsKey,
            QueueFull,
            QuotaExceeded,
            StorageFailed,
        ),
    },
)
async def retry_document(
    document_id: DocumentId, documents: DocumentsDep, body: RetryRequest | None = None
) -> Response:
    """Ingest the document's newest file again, for example with the right password."""
    password = body.password.get_secret_value() if body and body.password else None
    return _respond(_answer([await documents.retry(document_id, password or None)]))


@router.get(
    "/{document_id}/chunks", responses=problem_responses(DocumentNotFound, DocumentReplaced, InvalidQuery)
)
async def list_chunks(
    document_id: DocumentId,
    catalog: CatalogDep,
    limit: Limit = 50,
    after: Annotated[str | None, Query(max_length=60, description="The `next` of the answer before.")] = None,
) -> ChunkList:
    """The chunks of the served version, in their order."""
    page = await catalog.list_chunks(document_id, _cursor(after), limit + 1)
    return ChunkList.of(
        page.chunks, limit, DocumentChunk.of, lambda last: f"{page.ingestion_id}:{last.ordinal}"
    )


@router.get(
    "/{document_id}/file",
    response_class=Response,
    responses={
        200: {
            "description": "The PDF as it was uploaded.",
            "content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}},
        },
        206: {
            "description": "The part that `Range` asked for.",
            "content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "Not changed since the `ETag` in `If-None-Match`."},
        **problem_responses(DocumentNotFound, FileGone, RangeNotSatisfiable, InvalidQuery, StorageFailed),
    },
)
async def get_file(document_id: DocumentId, request: Request, catalog: CatalogDep) -> Response:
    """The original file of the served version, whole or in part (`Range`); its `ETag` is its SHA-256."""
    original = await catalog.find_original(document_id)
    return await send_original(request, original, partial(catalog.read, original.storage_key or ""))


router.head("/{document_id}/file", include_in_schema=False)(get_file)


def _options(fields: VersionFields) -> UploadOptions:
    password = fields.password.get_secret_value() if fields.password else ""
    options = UploadOptions(metadata=fields.metadata, password=password or None)
    if not isinstance(fields, UploadFields):
        return options
    return UploadOptions(
        fields.collection, options.metadata, options.password, fields.on_duplicate, fields.priority
    )


def _answer(files: Sequence[AcceptedFile | RefusedFile]) -> Answer:
    """202 if anything was begun, 200 if all is here already, else the problem of the first file."""
    refused = [file for file in files if isinstance(file, RefusedFile)]
    if len(files) == 1 and refused:
        raise refused[0].error
    accepted = [file for file in files if isinstance(file, AcceptedFile)]
    status = 202 if any(file.is_new_task for file in accepted) else 200
    if len(files) == 1:
        return Answer(status, Accepted.of(accepted[0]).model_dump(mode="json"))
    entries = [_one_of_several(file) for file in files]
    if accepted:
        return Answer(status, Several(data=entries).model_dump(mode="json", exclude_none=True))
    problem = AllRefused(**dict(problem_of(refused[0].error)), data=entries)
    return Answer(problem.status, problem.model_dump(mode="json", exclude_none=True))


def _one_of_several(file: AcceptedFile | RefusedFile) -> AcceptedOfSeveral | RefusedOfSeveral:
    if isinstance(file, RefusedFile):
        return RefusedOfSeveral.of(file)
    return AcceptedOfSeveral.of(file, filename=file.filename)


def _respond(answer: Answer) -> Response:
    if answer.status >= 400:
        return problem_response(AllRefused.model_validate(answer.body))
    headers = {"Retry-After": str(POLL_SECONDS)} if answer.status == 202 else {}
    if "document_id" in answer.body:
        headers["Location"] = f"/documents/{answer.body['document_id']}"
    return JSONResponse(answer.body, answer.status, headers)


def _place_cursor(place: DocumentPlace, order: DocumentOrder) -> str:
    """The id alone where the order is that of the ids."""
    if order.key == "created_at":
        return str(place.document_id)
    text = json.dumps([order.key, place.key, str(place.document_id)], ensure_ascii=False)
    return urlsafe_b64encode(text.encode()).decode()


def _place(after: str | None, order: DocumentOrder) -> DocumentPlace | None:
    """What `_place_cursor` has made; anything else is refused."""
    if after is None:
        return None
    try:
        if order.key == "created_at":
            return DocumentPlace(0, UUID(after))
        name, key, document_id = json.loads(urlsafe_b64decode(after))
        if name != order.key or type(key) is not (int if name in NUMBERS else str):
            raise ValueError(name)
        return DocumentPlace(key, UUID(document_id))
    except (ValueError, TypeError, AttributeError):
        refuse("query", "after", "must be the `next` of an answer in the same order")


def _cursor(after: str | None) -> tuple[UUID, int] | None:
    """`<ingestion>:<ordinal>`, as `next` is made."""
    if after is None:
        return None
    if (cursor := _CHUNK_CURSOR.fullmatch(after)) is None:
        refuse("query", "after", "must be the `next` of the answer before")
    return UUID(cursor[1]), int(cursor[2])
