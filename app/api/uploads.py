"""Uploads: `multipart/form-data` read piece by piece, each file straight into the file store."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Generic, NoReturn, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from app.errors import StorageFailed, UploadRefused, UploadTooLarge, UploadTooSlow
from app.pdf.text import clean
from app.services.uploads import ReceivedFile, RefusedFile, Upload, clean_filename

FILE_FIELD = "file"
MAX_FILES = 1_000
MAX_FIELD_BYTES = 16_384
MAX_REQUEST_UPLOADS = 10
"""A request with several files may be this many times MAX_UPLOAD_BYTES long; that is refused at once."""
FORM_BYTES = 1_000_000
"""What fields, part headers and boundaries may add to that."""
UPLOAD_SECONDS = 10_000.0
"""200 MB at 20 kB/s; under the three hours after which the sweeper deletes files without a row."""

Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(slots=True)
class Form(Generic[Fields]):
    """A form that was read to its end; its files are stored, or refused one by one."""

    fields: Fields
    files: list[ReceivedFile | RefusedFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; its content must be read before the next part."""

    name: str
    filename: str | None
    content: AsyncGenerator[bytes]


async def read_form(
    request: Request,
    upload: Upload,
    fields: type[Fields],
    *,
    max_files: int = MAX_FILES,
    max_seconds: float = UPLOAD_SECONDS,
) -> Form[Fields]:
    """Receive the files of a form, whatever the order of its fields.

    Raises RequestValidationError for what is wrong with the form, UploadTooLarge when the whole request
    is too large, UploadTooSlow.
    """
    max_bytes = upload.max_upload_bytes * MAX_REQUEST_UPLOADS + FORM_BYTES
    if content_length(request) > max_bytes:
        raise UploadTooLarge
    body = MultipartBody(_at_most(request.stream(), max_bytes), _boundary(request))
    try:
        async with asyncio.timeout(max_seconds), aclosing(body.parts()) as parts:
            files, texts = await _read_parts(parts, upload, fields, max_files)
    except TimeoutError as error:
        raise UploadTooSlow from error
    except ClientDisconnect as error:  # nobody reads the answer, but it is no error of ours either
        raise UploadRefused("The upload broke off.") from error
    if not files:
        refuse("body", FILE_FIELD, "a PDF is missing")
    try:
        return Form(fields.model_validate(texts), files)
    except ValidationError as error:
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        ) from error


async def _read_parts(
    parts: AsyncIterator[Part], upload: Upload, fields: type[BaseModel], max_files: int
) -> tuple[list[ReceivedFile | RefusedFile], dict[str, str]]:
    files: list[ReceivedFile | RefusedFile] = []
    texts: dict[str, str] = {}
    async for part in parts:
        if part.name == FILE_FIELD:
            if len(files) == max_files:
                refuse("body", FILE_FIELD, f"there may be {max_files:,} at most")
            files.append(await _receive(part, upload))
        elif part.name not in fields.model_fields:
            known = ", ".join([FILE_FIELD, *fields.model_fields])
            refuse("body", clean(part.name)[:100], f"there is no such field; there are {known}")
        elif part.name in texts:
            refuse("body", part.name, "was given twice")
        else:
            texts[part.name] = await _read_text(part)
    return files, texts


async def _receive(part: Part, upload: Upload) -> ReceivedFile | RefusedFile:
    """A refused file's problem is its own; the rest of it is read over, if it is not endless."""
    filename = part.filename or ""
    try:
        return await upload.receive(filename, part.content)
    except (UploadRefused, StorageFailed) as error:
        skipped = 0
        async for piece in part.content:
            skipped += len(piece)
            if skipped > upload.max_upload_bytes:
                raise
        return RefusedFile(clean_filename(filename), error)


async def _read_text(part: Part) -> str:
    text = b""
    async for piece in part.content:
        text += piece
        if len(text) > MAX_FIELD_BYTES:
            refuse("body", part.name, f"must not be longer than {MAX_FIELD_BYTES:,} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError:
        refuse("body", part.name, "must be text in UTF-8")


class _Mark(Enum):
    PART_END = auto()
    END = auto()


class MultipartBody:
    """The parts of a multipart body in order; never holds more than the piece that came last."""

    def __init__(self, pieces: AsyncIterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._happened: deque[tuple[str, str | None] | bytes | _Mark] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._is_in_part = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_begin": self._begin_header,
                "on_header_field": lambda piece, start, end: self._header[0].extend(piece[start:end]),
                "on_header_value": lambda piece, start, end: self._header[1].extend(piece[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": lambda piece, start, end: self._happened.append(piece[start:end]),
                "on_part_end": lambda: self._happened.append(_Mark.PART_END),
                "on_end": lambda: self._happened.append(_Mark.END),
            },
        )

    async def parts(self) -> AsyncGenerator[Part]:
        """Raises RequestValidationError for a body that is broken or ends too early."""
        while isinstance(begun := await self._next(), tuple):
            self._is_in_part = True
            yield Part(*begun, self._content())
            async for _ in self._content():  # what nobody wanted
                pass

    async def _content(self) -> AsyncGenerator[bytes]:
        while self._is_in_part:
            piece = await self._next()
            if isinstance(piece, bytes):
                yield piece
            else:
                self._is_in_part = False

    async def _next(self) -> tuple[str, str | None] | bytes | _Mark:
        while not self._happened:
            piece = await anext(self._pieces, b"")
            if not piece:
                refuse("body", None, "the multipart body ends too early")
            try:
                self._parser.write(piece)
            except FormParserError:
                refuse("body", None, "the multipart body is broken")
        return self._happened.popleft()

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name, given = options.get(b"name"), options.get(b"filename")
        if name is None:
            refuse("body", None, "a part of the multipart body has no name")
        # Clients write a quotation mark in a name as %22 (WHATWG, form data).
        filename = None if given is None else _decoded(given).replace("%22", '"')
        self._happened.append((_decoded(name), filename))


def refuse(place: str, name: str | None, reason: str) -> NoReturn:
    """As FastAPI refuses what it checks itself."""
    raise RequestValidationError([{"loc": (place, name) if name else (place,), "msg": reason}])


def multipart_body(fields: type[BaseModel], *, several: bool) -> dict[str, Any]:
    """The `openapi_extra` of an operation that reads a form with `read_form`."""
    pdf = {"type": "string", "format": "binary", "contentMediaType": "application/pdf"}
    file: dict[str, Any] = pdf | {"description": "The PDF."}
    if several:
        file = {"type": "array", "items": pdf, "minItems": 1, "maxItems": MAX_FILES}
        file["description"] = "The PDF; may be sent several times."
    described = fields.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    schema = {
        "type": "object",
        "title": fields.__name__,
        "properties": {FILE_FIELD: file} | {name: _without_null(kind) for name, kind in described.items()},
        "required": [FILE_FIELD],
        "additionalProperties": False,
    }
    content = {"schema": schema, "encoding": {FILE_FIELD: {"contentType": "application/pdf"}}}
    return {
        "requestBody": {
            "required": True,
            "description": "Fields in any order. Other fields than these are refused.",
            "content": {"multipart/form-data": content},
        }
    }


def _without_null(kind: dict[str, Any]) -> dict[str, Any]:
    """What is optional in a form is left out; it has no null."""
    if "anyOf" not in kind:
        return kind
    kept = {name: value for name, value in kind.items() if name not in ("anyOf", "default")}
    (choice,) = (choice for choice in kind["anyOf"] if choice != {"type": "null"})
    return {**kept, **choice}


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
        refuse("header", "content-type", "must be multipart/form-data with a boundary")
    return boundary


def content_length(request: Request) -> int:
    """0 when it is not known: the body is counted anyway."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


async def _at_most(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    total = 0
    async for piece in pieces:
        total += len(piece)
        if total > max_bytes:
            raise UploadTooLarge
        if piece:
            yield piece


def _decoded(text: bytes) -> str:
    """UTF-8 is what browsers and curl send; Latin-1 takes the rest."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
