"""Frames between a reading process and its owner: a four-byte length, then JSON.

Never pickle: a hostile file may have taken over the process that reads it, so its owner checks
the size and the types of all that arrives.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

import orjson

from app.pdf.pages import Box, DocumentFacts, Line, OutlineEntry, Page

LENGTH_BYTES = 4
# A million characters of the longest kind, and the places of as many lines as leave them room.
LARGEST_FRAME = 8 * 1024 * 1024
LARGEST_PICTURE = 64 * 1024 * 1024
LONGEST_TRACEBACK = 4_000
# The reader of a scanned page, beside the engines.
OCR = "tesseract"
PID = struct.Struct("=i")
# Wait status, the most memory the process used, in bytes, and its CPU time in seconds.
EXIT = struct.Struct("=iqd")

Frame = dict[str, Any]


class FrameError(Exception):
    """What arrived is not what a reading process writes."""


class Recognition(NamedTuple):
    """How tesseract is run: its languages ("eng+fra", none: never) and the limits of one page."""

    memory_bytes: int
    page_seconds: float
    languages: str


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """`step_cpu_seconds` may pass between two frames, `cpu_seconds` in all."""

    memory_bytes: int
    cpu_seconds: int
    step_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What to read, with which engines, and what to leave out: `skipped` names pages that failed before."""

    limits: ProcessLimits
    password: str | None
    engines: Sequence[str]
    max_pages: int
    max_characters: int
    ocr_languages: str | None
    ocr_pages: int
    ocr_page_seconds: float
    skipped: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """A page as a PNG at most `max_width` pixels wide, its boxes marked."""

    limits: ProcessLimits
    password: str | None
    page_number: int
    max_width: int
    highlights: Sequence[Box]


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What of the sandbox does not hold: the file is `path` in a folder of the process `owner`."""

    limits: ProcessLimits
    owner: int
    path: str


Request = ReadRequest | RenderRequest | ProbeRequest
_REQUESTS: dict[str, type[Request]] = {"read": ReadRequest, "render": RenderRequest, "probe": ProbeRequest}


def packed(frame: Frame) -> bytes:
    return framed(orjson.dumps(frame))


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def length_of(head: bytes, most_bytes: int = LARGEST_FRAME) -> int:
    """Raises FrameError when it is too much."""
    length = int.from_bytes(head, "big")
    if length > most_bytes:
        raise FrameError(f"a frame of {length} bytes")
    return length


def unpacked(body: bytes) -> Frame:
    """Raises FrameError."""
    try:
        frame = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FrameError("not JSON") from error
    if not isinstance(frame, dict):
        raise FrameError("not an object")
    return frame


def request_to_frame(request: Request) -> Frame:
    kind = next(kind for kind, request_class in _REQUESTS.items() if isinstance(request, request_class))
    return {kind: request}


def request_from_frame(frame: Frame) -> Request:
    """Not checked: it comes from the owner."""
    ((kind, fields),) = frame.items()
    return _REQUESTS[kind](**{**fields, "limits": ProcessLimits(**fields["limits"])})


class At(NamedTuple):
    """What is about to be read; page 0 is the document itself. No total yet: 0."""

    reader: str
    page: int
    pages_done: int = 0
    pages_total: int = 0


def at_to_frame(at: At) -> Frame:
    return {"at": tuple(at)}


def facts_to_frame(facts: DocumentFacts) -> Frame:
    return {"facts": facts}


def page_to_frame(page: Page) -> Frame:
    lines = [(line.text, _rounded(line.box), line.is_hidden) for line in page.lines]
    return {
        "page": page.number,
        "lines": lines,
        "error": page.error,
        "engine": page.engine,
        "headings": page.headings,
    }


def is_page(message: bytes) -> bool:
    """Whether a packed frame is a page."""
    return message.startswith(b'{"page":', LENGTH_BYTES)


def _rounded(box: Box | None) -> Box | None:
    """To hundredths of a point; a hostile file may give infinite places, which JSON has not."""
    if box is None or not all(map(isfinite, box)):
        return None
    left, top, right, bottom = box
    return round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)


News = At | DocumentFacts | Page


def news_from_frame(frame: Frame) -> News:
    """Raises FrameError when it is none of these, or of other types."""
    if "at" in frame:
        return _at(frame["at"])
    if "facts" in frame:
        return _facts(_checked(frame["facts"], dict))
    return Page(
        number=_checked(frame.get("page"), int),
        lines=tuple(_line(line) for line in _checked(frame.get("lines"), list)),
        error=_optional(frame.get("error")),
        engine=_optional(frame.get("engine")),
        headings=tuple(_checked(title, str) for title in _checked(frame.get("headings"), list)),
    )


def doors_from_frame(frame: Frame) -> list[str]:
    """Raises FrameError."""
    return [_checked(name, str) for name in _checked(frame.get("open"), list)]


def _at(value: object) -> At:
    match value:
        case [str(reader), int(page), int(pages_done), int(pages_total)]:
            return At(reader, page, pages_done, pages_total)
    raise FrameError("not a place in a document")


def _facts(fields: dict[str, Any]) -> DocumentFacts:
    return DocumentFacts(
        engine=_checked(fields.get("engine"), str),
        pages_total=_checked(fields.get("pages_total"), int),
        title=_optional(fields.get("title")),
        outline=tuple(_outline_entry(entry) for entry in _checked(fields.get("outline"), list)),
    )


_LINE_PARTS = 3
_BOX: list[type] = [float] * 4


def _line(value: object) -> Line:
    if type(value) is not list or len(value) != _LINE_PARTS:
        raise FrameError("not a line")
    text, box, is_hidden = value
    if type(text) is not str or type(is_hidden) is not bool:
        raise FrameError("not a line")
    if box is None:
        return Line(text, None, is_hidden)
    if type(box) is not list or list(map(type, box)) != _BOX:
        raise FrameError("not a box")
    left, top, right, bottom = box
    return Line(text, (left, top, right, bottom), is_hidden)


def _outline_entry(value: object) -> OutlineEntry:
    match value:
        case {"title": str(title), "page": int(page)}:
            return OutlineEntry(title, page)
    raise FrameError("not an outline entry")


def _optional(value: object) -> str | None:
    return None if value is None else _checked(value, str)


def _checked(value: object, expected: type[Any]) -> Any:
    if type(value) is not expected:
        raise FrameError(f"not a {expected.__name__}")
    return value
