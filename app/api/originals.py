"""Sending an original file: ranges, validators, and a name that cannot break the header."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.problems import problem_of, problem_response
from app.errors import RangeNotSatisfiable
from app.storage.document_views import OriginalFile

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+-]")

Read = Callable[[int, int], AsyncGenerator[bytes]]
"""The bytes of the file from a start up to, not including, an end."""


async def send_original(request: Request, original: OriginalFile, read: Read) -> Response:
    """The file, or the part of it that the request's Range asks for. Several ranges at once get it whole."""
    etag = f'"{original.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": content_disposition(original.filename),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    if has_etag(etag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    size = original.byte_size
    start, end, status = 0, size, 200
    asked = _range_of(request.headers.get("range", ""), size)
    if asked and request.headers.get("if-range", etag) == etag:
        start, end = asked
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if start >= end:
        refused = RangeNotSatisfiable(f"The file has no bytes in this range: it has {size:,}.")
        return problem_response(problem_of(refused), {"Content-Range": f"bytes */{size}"})
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/pdf")
    pieces = read(start, end)
    first = await anext(pieces, b"")  # a file that is gone is a problem document, not a broken answer
    return StreamingResponse(
        _joined(first, pieces), status_code=status, headers=headers, media_type="application/pdf"
    )


def content_disposition(filename: str) -> str:
    """Shown in the browser under its name: RFC 6266, with a plain name for clients that know no other."""
    plain = _NOT_PLAIN.sub("_", filename)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _range_of(header: str, size: int) -> tuple[int, int] | None:
    """Start and end of `first-`, `first-last` or `-count` (the last ones).

    None for what is no single range (RFC 9110, 14.2: to be ignored); an end that is not after the start
    when the file has no such bytes.
    """
    asked = _RANGE.fullmatch(header)
    if asked is None or not any(asked.groups()):
        return None
    first, last = asked.groups()
    if not first:
        return (max(size - int(last), 0), size) if int(last) else (0, 0)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def has_etag(etag: str, if_none_match: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags


async def _joined(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
