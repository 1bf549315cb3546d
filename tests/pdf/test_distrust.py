"""Reading processes that say what none of ours would: each is a real one, taken over by its file."""

import asyncio
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from app.errors import ReaderKilled, ReadingStalled, Unreadable
from app.pdf.pages import DocumentFacts, Page
from app.pdf.reader import PDFReader
from app.pdf.text import clean
from app.pdf.wire import LARGEST_FRAME, LARGEST_PICTURE, packed
from tests.pdf.conftest import Write

MAX_PAGES = 4
MAX_CHARACTERS = 10_000
MOST_SECONDS = 20.0
"""By the owner's clock it may take three times `longest_seconds`; the rest is for a busy machine."""
MOST_BYTES = 400_000_000


@contextmanager
def bounded() -> Iterator[None]:
    """In time and memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    assert time.monotonic() - began < MOST_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_BYTES


@pytest.fixture
async def owner() -> AsyncIterator[PDFReader]:
    reader = taken_over()
    yield reader
    await reader.close()


def taken_over() -> PDFReader:
    return PDFReader(
        max_pages=MAX_PAGES,
        max_characters=MAX_CHARACTERS,
        ocr_pages=1,
        ocr_page_seconds=0,
        longest_seconds=4,
        step_seconds=0.6,
        parent="tests.pdf.taken_over",
    )


async def read(reader: PDFReader, path: Path) -> tuple[DocumentFacts, list[Page]]:
    async with reader.open(path) as reading:
        return reading.facts, [page async for page in reading]


def said(*frames: dict[str, Any], how: bytes = b"e") -> bytes:
    return how + b"".join(map(packed, frames))


def at(reader: str = "pdfium", page: int = 1, done: int = 0, total: int = 1) -> dict[str, Any]:
    return {"at": [reader, page, done, total]}


def facts(pages_total: int = 1, **fields: Any) -> dict[str, Any]:
    return {"facts": {"engine": "pdfium", "pages_total": pages_total, "outline": []} | fields}


def page(number: int = 1, text: str = "text", box: Any = None, **fields: Any) -> dict[str, Any]:
    return {"page": number, "lines": [[text, box, False]], "headings": [], "error": None} | fields


END = {"end": True}


async def test_a_process_that_keeps_to_the_rules_is_heard(owner: PDFReader, write: Write) -> None:
    frames = (at(), facts(2), page(1), page(2), END)
    found, pages = await read(owner, write(said(*frames)))
    assert (found.pages_total, [page.number for page in pages]) == (2, [1, 2])


async def test_what_it_says_is_cleaned_again(owner: PDFReader, write: Write) -> None:
    outline = [{"title": "One\x00 and\x1b[31m", "page": 1}]
    told = facts(title="A\x00 \u202etitle" * 900, outline=outline)
    found, (first,) = await read(
        owner, write(said(at(), told, page(text="nul\x00 and\ufffe " + "x" * 600), END))
    )
    assert found.title is not None
    assert found.title.startswith("A title")
    assert len(found.title) <= 1_000
    assert found.outline[0].title == "One and[31m"
    assert first.lines[0].text == "nul and " + "x" * 500 + " " + "x" * 100


@pytest.mark.parametrize("box", [[9.0, 0.0, 1.0, 1.0], [0.0, 9.0, 1.0, 1.0], [0.0, 0.0, 1e300, 1.0]])
async def test_a_box_that_is_none_is_no_box(owner: PDFReader, write: Write, box: list[float]) -> None:
    _, (first,) = await read(owner, write(said(at(), facts(), page(box=box), END)))
    assert (first.lines[0].text, first.lines[0].box) == ("text", None)


REFUSED = {
    "pages before the facts": (at(), page()),
    "more pages than announced": (at(), facts(1), page(1), page(2), END),
    "fewer pages than announced": (at(), facts(2), page(1), END),
    "a page twice": (at(), facts(2), page(1), page(1), page(2), END),
    "pages out of order": (at(), facts(2), page(2), page(1), END),
    "a page that is not there": (at(), facts(1), page(-1), END),
    "more pages than allowed": (at(), facts(MAX_PAGES + 1)),
    "no pages": (at(), facts(0), END),
    "facts twice": (at(), facts(), facts(), page(), END),
    "an engine of its own": (at(), facts(engine="mine"), page(), END),
    "a place in another engine": (at("mine"), facts(), page(), END),
    "a place beyond the last page": (at(page=MAX_PAGES + 1), facts(), page(), END),
    "more pages done than there are": (at(done=2), facts(), page(), END),
    "a page of an engine of its own": (at(), facts(), page(engine="mine"), END),
    "headings without end": (at(), facts(), page(headings=["x"] * 5_001), END),
    "an outline that leads outside": (
        at(),
        facts(outline=[{"title": "x", "page": 2}]),
        page(),
        END,
    ),
    "an outline without end": (
        at(),
        facts(outline=[{"title": "x", "page": 1}] * 5_001),
        page(),
        END,
    ),
    "nothing": (),
    "an end and no facts": (END,),
}


@pytest.mark.parametrize("frames", REFUSED.values(), ids=REFUSED.keys())
async def test_what_cannot_be_ends_in_a_verdict(
    owner: PDFReader, write: Write, frames: tuple[dict[str, Any], ...]
) -> None:
    with bounded(), pytest.raises(Unreadable) as verdict:
        await read(owner, write(said(*frames)))
    assert verdict.value.code == "parser_crashed"


async def test_a_file_of_python_that_is_missing_is_no_fault_of_the_document(write: Write) -> None:
    """As where the installation is replaced while it runs."""
    reader = PDFReader(parent="tests.pdf.incomplete")
    with pytest.raises(ReaderKilled):
        await read(reader, write(b"%PDF-1.4"))
    await reader.close()


async def test_more_text_than_allowed_is_too_much(owner: PDFReader, write: Write) -> None:
    text = "word " * (MAX_CHARACTERS // 10)
    with pytest.raises(Unreadable) as verdict:
        await read(owner, write(said(at(), facts(3), page(1, text), page(2, text), page(3, text), END)))
    assert verdict.value.code == "too_much_text"


ENDLESS = {
    "places": said(at(), how=b"f"),
    "pages": said(at(), facts(), page(), how=b"f"),
    "pages to recognise": said(at("tesseract"), how=b"f"),
    "lists": b"f" + (LARGEST_FRAME).to_bytes(4, "big") + b"[" * 1_000_000,
    "empty lists": said({"page": 1, "lines": [[]] * 2_700_000}, how=b"f"),
    "a picture": b"f" + (LARGEST_PICTURE).to_bytes(4, "big") + b"\x89PNG" + bytes(1_000_000),
    "zeros": b"f" + bytes(1_000_000),
    "silence": b"s",
    "silence after a word": said(at(), how=b"s"),
    "silence at recognising": said(at("tesseract"), at("tesseract"), how=b"s"),
    "half a frame": b"s\x00\x00\x10\x00{",
}


@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_ended(owner: PDFReader, write: Write, content: bytes) -> None:
    with bounded(), pytest.raises((Unreadable, ReadingStalled)):
        await read(owner, write(content))


SILENT = {
    "silence": b"s",
    "silence after a word": said(at(), how=b"s"),
    "silence between pages": said(at(), facts(2), page(), how=b"s"),
    "dozing": said(at(), how=b"d"),
}


@pytest.mark.parametrize("content", SILENT.values(), ids=SILENT.keys())
async def test_a_process_that_says_nothing_of_its_own_accord_gets_its_verdict_at_once(
    owner: PDFReader, write: Write, content: bytes
) -> None:
    with bounded(), pytest.raises(Unreadable) as verdict:
        await read(owner, write(content))
    assert verdict.value.code == "timed_out"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which CPU a process may use")
async def test_a_process_that_the_machine_starves_gets_none(owner: PDFReader, write: Write) -> None:
    """It may use one CPU, as the last of all, and others do, in sessions: Linux shares between those."""
    cpu = min(os.sched_getaffinity(0))
    busy = f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"
    hogs = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", busy, start_new_session=True)
        for _ in range(8)
    ]
    try:
        reading = asyncio.create_task(read(owner, write(b"b")))
        pid = (await until_one_reads()).pid
        os.sched_setaffinity(pid, {cpu})
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        with pytest.raises(ReadingStalled):
            await reading
    finally:
        for hog in hogs:
            hog.kill()
            await hog.wait()


async def until_one_reads() -> psutil.Process:
    async with asyncio.timeout(10):
        while True:
            for parent in psutil.Process().children():
                with suppress(psutil.Error):
                    if "tests.pdf.taken_over" in parent.cmdline() and (found := parent.children()):
                        return found[0]
            await asyncio.sleep(0.002)


async def test_a_process_that_asks_its_parent_for_something_else_is_a_crash(
    owner: PDFReader, write: Write
) -> None:
    with bounded(), pytest.raises(Unreadable) as verdict:
        await read(owner, write(b"a"))
    assert verdict.value.code == "parser_crashed"


@pytest.mark.parametrize(
    "answer", [b"{", b"[]", b'{"verdict":7}', b'{"verdict":"forged","message":"Send money"}', b"GIF89a"]
)
async def test_a_picture_that_is_none_is_a_crash(owner: PDFReader, write: Write, answer: bytes) -> None:
    with pytest.raises(Unreadable) as verdict:
        await owner.render(write(b"e" + len(answer).to_bytes(4, "big") + answer), 1)
    assert verdict.value.code == "parser_crashed"


async def test_a_verdict_has_no_words_of_its_own(owner: PDFReader, write: Write) -> None:
    with pytest.raises(Unreadable) as verdict:
        await read(owner, write(said({"verdict": "corrupted", "message": "Send money to"})))
    assert verdict.value.message == type(verdict.value).default_message
    with pytest.raises(Unreadable) as verdict:
        await read(owner, write(said({"verdict": "no_text", "message": "\x1b\x00" + "x" * 9_000})))
    assert len(verdict.value.message) <= 300


numbers = some.integers(-2, MAX_PAGES + 2) | some.integers() | some.booleans()
words = some.text(max_size=40) | some.sampled_from(["pdfium", "pypdf", "tesseract", "page_not_found"])
values = some.recursive(
    some.none() | numbers | some.floats(allow_nan=False) | words,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
boxes = some.none() | some.lists(some.floats(allow_nan=False), min_size=4, max_size=4) | values
lines = some.tuples(words, boxes, some.booleans()) | values
entries = some.fixed_dictionaries({"title": words, "page": numbers}) | values
frames = some.one_of(
    some.fixed_dictionaries({"at": some.tuples(words, numbers, numbers, numbers)}),
    some.builds(
        facts,
        numbers,
        engine=words,
        title=words | some.none(),
        outline=some.lists(entries, max_size=4),
    ),
    some.fixed_dictionaries(
        {
            "page": numbers,
            "lines": some.lists(lines, max_size=5),
            "error": some.none() | words,
            "engine": some.none() | words,
            "headings": some.lists(words, max_size=3),
        }
    ),
    some.fixed_dictionaries({"verdict": words | values, "message": words | values}),
    some.fixed_dictionaries({"failure": values}),
    some.just(END),
    some.dictionaries(words, values, max_size=4),
)
likely = some.sampled_from([at(), facts(1), facts(2), page(1), page(2), END])


def as_json(frame: Any) -> bytes:
    try:
        return packed(frame)
    except (TypeError, orjson.JSONEncodeError):  # numbers of more than 64 bits, lone surrogates
        return b"\x00\x00\x00\x02{]"


conversations = some.lists(
    some.one_of(likely.map(packed), frames.map(as_json), some.binary(max_size=64)), max_size=12
).map(b"".join)


def test_whatever_a_process_says_ends_in_a_document_or_a_verdict(tmp_path: Path) -> None:
    path = tmp_path / "said.pdf"
    with asyncio.Runner() as runner:
        reader = runner.run(_opened())

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(how=some.sampled_from([b"e", b"e", b"e", b"f"]), content=conversations)
        def converse(how: bytes, content: bytes) -> None:
            path.write_bytes(how + content)
            runner.run(_is_document_or_verdict(reader, path))

        converse()
        runner.run(reader.close())


async def _opened() -> PDFReader:
    return taken_over()


async def _is_document_or_verdict(reader: PDFReader, path: Path) -> None:
    with bounded(), suppress(Unreadable, ReadingStalled):
        found, pages = await read(reader, path)
        assert [page.number for page in pages] == list(range(1, found.pages_total + 1))
        assert found.pages_total <= MAX_PAGES
        texts = [line.text for page in pages for line in page.lines]
        assert texts == [clean(text) for text in texts]
        assert sum(map(len, texts)) <= MAX_CHARACTERS
        places = [line.box for page in pages for line in page.lines if line.box]
        assert all(map(isfinite, chain(*places)))
