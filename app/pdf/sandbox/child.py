"""The life of a reading process: it is forked for one document, answers one request, and ends."""

import mmap
import os
import socket
import traceback
from collections.abc import Iterator
from functools import partial

from app.errors import Corrupted, Encrypted, NotAPDF, OutOfMemory, PageNotFound, PDFIngestError, TooMuchText
from app.pdf.escapes import open_doors
from app.pdf.sandbox import confinement
from app.pdf.sandbox.document import DocumentReading
from app.pdf.sandbox.engine import PageError
from app.pdf.sandbox.ocr import Tesseract, recognised_by
from app.pdf.sandbox.pdfium import Pdfium
from app.pdf.wire import (
    LARGEST_FRAME,
    LENGTH_BYTES,
    LONGEST_TRACEBACK,
    Frame,
    ProbeRequest,
    ReadRequest,
    RenderRequest,
    Request,
    framed,
    is_page,
    length_of,
    packed,
    request_from_frame,
    unpacked,
)

PICTURE_PIXELS = 25_000_000


def live(file: int, channel: int, asking: int) -> None:
    """Answers one request about an open file over an open socket. Only for a process forked for it.

    Over the socket `asking` its parent starts tesseract for it.
    """
    parent = socket.socket(fileno=asking)
    with open(channel, "rb", closefd=False) as asked, open(channel, "wb") as told:
        body = asked.read(length_of(asked.read(LENGTH_BYTES)))
        request = request_from_frame(unpacked(body))
        confinement.limit(request.limits.memory_bytes, request.limits.cpu_seconds)
        confinement.confine()
        confinement.limit_step(request.limits.step_cpu_seconds)
        for answer in _answers(file, request, parent):
            told.write(answer)
            if not is_page(answer):  # which goes with the place that is next: its owner wakes once a page
                told.flush()
                confinement.limit_step(request.limits.step_cpu_seconds)


def _answers(file: int, request: Request, parent: socket.socket) -> Iterator[bytes]:
    try:
        if isinstance(request, ProbeRequest):
            yield packed({"open": open_doors(request, file)})
        elif isinstance(request, ReadRequest):
            tesseract = Tesseract(request.ocr_languages, partial(recognised_by, parent))
            yield from map(_packed, DocumentReading(_content(file), request, tesseract).frames())
            yield packed({"end": True})
        else:
            yield framed(_rendered(_content(file), request))
    except PDFIngestError as verdict:
        own_words = None if verdict.message == verdict.default_message else verdict.message
        yield packed({"verdict": verdict.code, "message": own_words})
    except MemoryError:
        yield packed({"verdict": OutOfMemory.code, "message": None})
    except ImportError:  # a file of Python that is gone or may not be read: not the document's fault
        yield packed({"failure": traceback.format_exc()[-LONGEST_TRACEBACK:], "is_of_machine": True})
    except Exception:  # noqa: BLE001 - the owner logs it; what to do about it is decided there
        yield packed({"failure": traceback.format_exc()[-LONGEST_TRACEBACK:]})


def _packed(frame: Frame) -> bytes:
    message = packed(frame)
    if len(message) > LARGEST_FRAME:
        raise TooMuchText
    return message


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
