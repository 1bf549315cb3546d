import asyncio
import socket
from math import inf, nan
from typing import Any

import orjson
import pytest

from app.pdf.pages import DocumentFacts, Line, OutlineEntry, Page
from app.pdf.processes import ReadingProcess
from app.pdf.wire import (
    LARGEST_FRAME,
    LENGTH_BYTES,
    Frame,
    FrameError,
    ProcessLimits,
    ReadRequest,
    RenderRequest,
    Request,
    facts_to_frame,
    length_of,
    news_from_frame,
    packed,
    page_to_frame,
    request_from_frame,
    request_to_frame,
    unpacked,
)

LIMITS = ProcessLimits(memory_bytes=1, cpu_seconds=2, step_cpu_seconds=0.5)
READ = ReadRequest(LIMITS, "geheim", ["pdfium"], 3, 4, "eng+fra", 5, 6.0, {"pdfium": [7]})
RENDER = RenderRequest(LIMITS, None, 8, 9, [(1.0, 2.0, 3.0, 4.0)])


def over_the_wire(frame: Frame) -> Frame:
    message = packed(frame)
    assert length_of(message[:4]) == len(message) - 4
    return unpacked(message[4:])


def test_pages_arrive_as_they_were_sent() -> None:
    page = Page(3, (Line("seen", (1.25, 2.0, 3.0, 4.5)), Line("unseen\tcell", None, is_hidden=True)))
    assert news_from_frame(over_the_wire(page_to_frame(page))) == page
    failed = Page(4, error="No engine could read this page.")
    assert news_from_frame(over_the_wire(page_to_frame(failed))) == failed


def test_facts_arrive_as_they_were_sent() -> None:
    facts = DocumentFacts(
        engine="pdfium",
        pages_total=3,
        title="The Marsh",
        outline=(OutlineEntry("One", 1), OutlineEntry("Two", 2)),
    )
    assert news_from_frame(over_the_wire(facts_to_frame(facts))) == facts


@pytest.mark.parametrize("request_sent", [READ, RENDER])
def test_requests_arrive_as_they_were_sent(request_sent: Request) -> None:
    received = request_from_frame(over_the_wire(request_to_frame(request_sent)))
    assert orjson.dumps(received) == orjson.dumps(request_sent)
    assert type(received) is type(request_sent)


@pytest.mark.parametrize("place", [inf, -inf, nan])
def test_an_impossible_place_is_no_place(place: float) -> None:
    page = Page(1, (Line("far", (0.0, 0.0, place, 1.0)),))
    assert news_from_frame(over_the_wire(page_to_frame(page))) == Page(1, (Line("far"),))


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"page": "1", "lines": []},
        {"page": True, "lines": []},
        {"page": 1, "lines": {}},
        {"page": 1, "lines": [["text"]]},
        {"page": 1, "lines": [["text", [1.0, 2.0, 3.0], False]]},
        {"page": 1, "lines": [[b"text".hex(), [1.0, 2.0, 3.0, "4"], False]]},
        {"page": 1, "lines": [["text", None, 1]]},
        {"page": 1, "lines": [], "headings": [], "error": 7},
        {"page": 1, "lines": [], "headings": [7]},
        {"page": 1, "lines": [], "headings": [], "engine": 7},
    ],
)
def test_a_page_of_other_types_is_refused(frame: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        news_from_frame(frame)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {"engine": "pdfium"},
        {"engine": "pdfium", "pages_total": 3.5, "outline": []},
        {"engine": "pdfium", "pages_total": 3, "outline": [["One", 1, 0]]},
        {"engine": "pdfium", "pages_total": 3, "outline": [{"title": "One", "page": "1"}]},
    ],
)
def test_facts_of_other_types_are_refused(facts: object) -> None:
    with pytest.raises(FrameError):
        news_from_frame({"facts": facts})


@pytest.mark.parametrize("place", [None, [], ["pdfium"], ["pdfium", 1, 2, "3"]])
def test_a_place_of_another_type_is_refused(place: object) -> None:
    with pytest.raises(FrameError):
        news_from_frame({"at": place})


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b"\x80\x04K\x07.", b'{"page": NaN}'])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        unpacked(body)


def test_a_frame_larger_than_any_page_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameError):
        length_of((LARGEST_FRAME + 1).to_bytes(4, "big"))


async def test_a_frame_that_was_waited_for_in_vain_is_received_whole_later() -> None:
    channel, far = socket.socketpair()
    owner, parent = socket.socketpair()
    owner.setblocking(False)
    process = ReadingProcess(*await asyncio.open_unix_connection(sock=channel), owner)
    sent = packed({"end": True})
    with far, owner:
        for part in (sent[:2], sent[2:6]):
            far.sendall(part)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await process.receive()
        far.sendall(sent[6:] + sent)
        assert [await process.receive() for _ in range(2)] == [sent[LENGTH_BYTES:]] * 2
        parent.close()
        await process.end()
