"""Frames between a reading process and its owner: a four-byte length, then JSON.

Never pickle: a hostile file may have taken over the process that reads it, so its owner checks
the size and the types of all that arrives.
"""

import asyncio
from typing import BinaryIO

import orjson

from app.pdf.pages import DocumentFacts, Line, OutlineEntry, Page

LARGEST_FRAME = 32 * 1024 * 1024

Frame = dict[str, object]


class FrameError(Exception):
    """What arrived is not what a reading process writes."""


def packed(frame: Frame) -> bytes:
    body = orjson.dumps(frame, default=list)
    return len(body).to_bytes(4, "big") + body


def unpacked(body: bytes) -> Frame:
    try:
        frame = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FrameError("not JSON") from error
    if not isinstance(frame, dict):
        raise FrameError("not an object")
    return frame


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame, None at the end of the stream."""
    length = stream.read(4)
    return unpacked(stream.read(int.from_bytes(length, "big"))) if len(length) == 4 else None


async def receive_frame(stream: asyncio.StreamReader) -> Frame | None:
    """The next frame, None when the stream ends (even in the middle of one)."""
    try:
        length = int.from_bytes(await stream.readexactly(4), "big")
        if length > LARGEST_FRAME:
            raise FrameError(f"a frame of {length} bytes")
        return unpacked(await stream.readexactly(length))
    except asyncio.IncompleteReadError:
        return None


def facts_to_frame(facts: DocumentFacts) -> Frame:
    return {
        "engine": facts.engine,
        "pages_total": facts.pages_total,
        "title": facts.title,
        "author": facts.author,
        "outline": [(entry.title, entry.page, entry.level) for entry in facts.outline],
    }


def facts_from_frame(frame: Frame) -> DocumentFacts:
    return DocumentFacts(
        engine=_string(frame.get("engine")),
        pages_total=_integer(frame.get("pages_total")),
        title=_optional_string(frame.get("title")),
        author=_optional_string(frame.get("author")),
        outline=tuple(_outline_entry(entry) for entry in _list(frame.get("outline"))),
    )


def page_to_frame(page: Page) -> Frame:
    lines = [(line.text, line.box, line.is_hidden) for line in page.lines]
    return {"page": page.number, "lines": lines, "error": page.error}


def page_from_frame(frame: Frame) -> Page:
    return Page(
        number=_integer(frame.get("page")),
        lines=tuple(_line(line) for line in _list(frame.get("lines"))),
        error=_optional_string(frame.get("error")),
    )


def _outline_entry(value: object) -> OutlineEntry:
    match value:
        case [str(title), int(page), int(level)]:
            return OutlineEntry(title, page, level)
    raise FrameError("not an outline entry")


def _line(value: object) -> Line:
    match value:
        case [str(text), None, bool(is_hidden)]:
            return Line(text, None, is_hidden)
        case [str(text), [float(left), float(top), float(right), float(bottom)], bool(is_hidden)]:
            return Line(text, (left, top, right, bottom), is_hidden)
    raise FrameError("not a line")


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise FrameError("not a string")
    return value


def _optional_string(value: object) -> str | None:
    return None if value is None else _string(value)


def _integer(value: object) -> int:
    if type(value) is not int:
        raise FrameError("not an integer")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise FrameError("not a list")
    return value
