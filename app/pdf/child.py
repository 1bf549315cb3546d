"""The life of a reading process: it is forked for one document, answers one request, and ends."""

import mmap
import os
import socket
import traceback
from collections.abc import Iterator

from app.errors import Corrupted, Encrypted, NotAPDF, OutOfMemory, PageNotFound, PDFIngestError
from app.pdf import sandbox
from app.pdf.document import DocumentReading
from app.pdf.engines import PageError
from app.pdf.pdfium import Pdfium
from app.pdf.wire import (
    LENGTH_BYTES,
    ReadRequest,
    RenderRequest,
    Request,
    framed,
    length_of,
    packed,
    request_from_frame,
    unpacked,
)

PICTURE_PIXELS = 25_000_000
LONGEST_TRACEBACK = 4_000


def live(file: int, channel: int) -> None:
    """Answers one request about an open file over an open socket. Only for a process forked for it."""
    with socket.socket(fileno=channel) as connection, connection.makefile("rwb") as stream:
        body = stream.read(length_of(stream.read(LENGTH_BYTES)))
        request = request_from_frame(unpacked(body))
        sandbox.limit(request.limits.memory_bytes, request.limits.cpu_seconds)
        sandbox.confine()
        sandbox.limit_step(request.limits.step_cpu_seconds)
        for answer in _answers(file, request):
            stream.write(answer)
            stream.flush()
            sandbox.limit_step(request.limits.step_cpu_seconds)


def _answers(file: int, request: Request) -> Iterator[bytes]:
    try:
        content = _content(file)
        if isinstance(request, ReadRequest):
            yield from map(packed, DocumentReading(content, request).frames())
            yield packed({"end": True})
        else:
            yield framed(_rendered(content, request))
    except PDFIngestError as verdict:
        own_words = None if verdict.message == verdict.default_message else verdict.message
        yield packed({"verdict": verdict.code, "message": own_words})
    except MemoryError:
        yield packed({"verdict": OutOfMemory.code, "message": None})
    except Exception:  # noqa: BLE001 - the owner logs it; what to do about it is decided there
        yield packed({"failure": traceback.format_exc()[-LONGEST_TRACEBACK:]})


def _content(file: int) -> mmap.mmap:
    if os.fstat(file).st_size == 0:
        raise NotAPDF
    return mmap.mmap(file, 0, access=mmap.ACCESS_COPY)


def _rendered(content: mmap.mmap, request: RenderRequest) -> bytes:
    try:
        engine = Pdfium(content, None)
    except Encrypted:
        engine = Pdfium(content, request.password)
    if not 1 <= request.page_number <= engine.pages_total:
        raise PageNotFound
    try:
        scale = request.max_width / max(engine.page_width(request.page_number), 1)
        picture = engine.render(request.page_number, scale, PICTURE_PIXELS, is_gray=False)
    except PageError as error:
        raise Corrupted from error
    picture.mark(request.highlights)
    return picture.png()
