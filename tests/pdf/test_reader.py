import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import psutil
import pypdf
import pytest
import uvloop

from app.errors import Encrypted, ReaderKilled, ReadingStalled
from app.pdf.pages import DocumentFacts, OutlineEntry, Page
from app.pdf.reader import PDFReader, ReadingProgress
from tests.pdf.conftest import Write
from tests.pdfs.builder import one_page, pages, placed, shown, stream
from tests.pdfs.hostile import LARGE_PROSE, PASSWORD, PROSE, encrypted, prose, scan, slow_page

PROJECT = Path(__file__).parents[2]
LONG = 200
"""Pages of more text than sockets and streams can hold."""
GONE_WITHIN_SECONDS = 5.0
STARTED_WITHIN_SECONDS = 60.0  # a Python that reads took 6 to start, on two cores with a load of 20


async def read(
    reader: PDFReader, path: Path, password: str | None = None
) -> tuple[DocumentFacts, list[Page]]:
    async with reader.open(path, password) as reading:
        return reading.facts, [page async for page in reading]


async def until(condition: Callable[[], object], seconds: float = STARTED_WITHIN_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event here
            await asyncio.sleep(0.01)


_of_others: set[psutil.Process] = set()
"""Parents that belong to readers of other tests of this session: the API's own, for one."""


@pytest.fixture(autouse=True)
def _know_the_parents_of_others() -> None:
    _of_others.clear()
    _of_others.update(reader_parents())


def reader_parents(owner: int | None = None) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(owner).children()
        if child not in _of_others
        and child.is_running()
        and "pdf.sandbox.parent" in " ".join(child.cmdline())
    ]


def reading_processes() -> list[psutil.Process]:
    return [child for parent in reader_parents() for child in parent.children(recursive=True)]


def long_document(count: int = LONG) -> bytes:
    return pages(
        [shown(*(f"line {line} of page {page} " + "x" * 60 for line in range(40))) for page in range(count)]
    )


async def test_pages_come_in_order_with_lines_and_places(reader: PDFReader, write: Write) -> None:
    facts, read_pages = await read(reader, write(prose(3)))
    assert facts.pages_total == 3
    assert facts.engine == "pdfium"
    assert [page.number for page in read_pages] == [1, 2, 3]
    first = read_pages[0].lines[0]
    assert first.text == PROSE[0]
    assert first.box == pytest.approx((72, 63, 335, 75), abs=2)


async def test_dots_that_lead_to_a_page_number_are_no_line(reader: PDFReader, write: Write) -> None:
    dots = b"".join(placed(".", left, 700) for left in range(150, 480, 8))
    contents = placed("Imports", 72, 700) + dots + placed("31", 500, 700) + placed("...", 72, 680)
    _, (page,) = await read(reader, write(one_page(stream(contents))))
    assert [line.text for line in page.lines] == ["Imports\t31", "..."]


async def test_reading_is_deterministic(reader: PDFReader) -> None:
    sample = PROJECT / "samples" / "annual-report.pdf"
    assert await read(reader, sample) == await read(reader, sample)


async def test_facts_are_found_by_either_engine(write: Write) -> None:
    path = write(with_facts())
    for engine in ("pdfium", "pypdf"):
        reader = PDFReader(engines=(engine,))
        facts, _ = await read(reader, path)
        await reader.close()
        assert facts == DocumentFacts(
            engine=engine,
            pages_total=3,
            title="The Marsh",
            outline=(OutlineEntry("One", 1), OutlineEntry("One and a half", 2), OutlineEntry("Two", 3)),
        )


def with_facts() -> bytes:
    writer = pypdf.PdfWriter(clone_from=BytesIO(prose(3)))
    writer.add_metadata({"/Title": "The\x00 Marsh"})
    section = writer.add_outline_item(title="One", page_number=0)
    writer.add_outline_item(title="One and a half", page_number=1, parent=section)
    writer.add_outline_item(title="Two", page_number=2)
    packed = BytesIO()
    writer.write(packed)
    return packed.getvalue()


async def test_places_are_those_of_the_page_as_it_is_shown(reader: PDFReader, write: Write) -> None:
    crop = b"/CropBox[50 50 562 742]"
    upright = one_page(stream(shown("a word")), entries=crop)
    turned = one_page(stream(shown("a word")), entries=crop + b"/Rotate 90")
    (_, (one,)), (_, (other,)) = await read(reader, write(upright)), await read(reader, write(turned))
    left, top, right, bottom = one.lines[0].box or (0, 0, 0, 0)
    assert (left, bottom) == pytest.approx((22, 22), abs=2)
    assert other.lines[0].box == pytest.approx((692 - bottom, left, 692 - top, right), abs=0.1)


async def test_many_documents_are_read_at_once(reader: PDFReader, write: Write) -> None:
    paths = [write(prose(count)) for count in range(1, 21)]
    found = await asyncio.gather(*(read(reader, path) for path in paths))
    assert [facts.pages_total for facts, _ in found] == list(range(1, 21))
    assert len(reader_parents()) == 1


async def test_a_slow_consumer_keeps_the_process_waiting(reader: PDFReader, write: Write) -> None:
    async with reader.open(write(long_document())) as reading:
        one = await anext(aiter(reading))
        (process,) = reading_processes()
        used = [-1.0, process.cpu_times().user]
        for _ in range(60):
            if used[-1] == used[-2]:
                break
            await asyncio.sleep(0.5)
            used.append(process.cpu_times().user)
        assert used[-1] == used[-2]
        assert process.is_running()
        rest = [page.number async for page in reading]
    assert [one.number, *rest] == list(range(1, LONG + 1))


async def test_leaving_early_ends_the_process(reader: PDFReader, write: Write) -> None:
    async with reader.open(write(long_document())) as reading:
        await anext(aiter(reading))
        assert reading_processes()
    assert not reading_processes()


async def test_cancelling_ends_the_process_at_once(reader: PDFReader, write: Write) -> None:
    task = asyncio.create_task(read(reader, write(slow_page())))
    await until(reading_processes)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not reading_processes()


async def test_progress_is_told_of_every_page(reader: PDFReader, write: Write) -> None:
    told: list[ReadingProgress] = []
    async with reader.open(write(prose(3)), on_progress=told.append) as reading:
        assert reading.facts.pages_total == 3
        assert [page.number async for page in reading] == [1, 2, 3]
    assert [one[:3] for one in told] == [("reading", 0, 0), *[("reading", 0, 3)] * 3]


async def test_the_first_pages_of_a_long_document_come_before_the_last_ones_are_read(
    reader: PDFReader, write: Write
) -> None:
    told: list[ReadingProgress] = []
    async with reader.open(write(prose(100)), on_progress=told.append) as reading:
        assert (await anext(aiter(reading))).number == 1
        assert len(told) < 30


@pytest.mark.program("tesseract")
async def test_time_spent_on_ocr_is_told_apart(reader: PDFReader, write: Write) -> None:
    told: list[str] = []
    for content, has_ocr in ((prose(3), False), (scan(LARGE_PROSE), True)):
        path = write(content)
        async with reader.open(path, on_progress=lambda read: told.append(read.stage)) as reading:
            assert reading.ocr_seconds == 0
            assert not any([page.error async for page in reading])
        assert (reading.ocr_seconds > 0) == has_ocr == ("ocr" in told)


async def test_a_killed_parent_costs_nothing_but_time(reader: PDFReader, write: Write) -> None:
    path = write(long_document())
    async with reader.open(path) as reading:
        first = await anext(aiter(reading))
        (parent,) = reader_parents()
        parent.kill()
        numbers = [first.number] + [page.number async for page in reading]
    assert numbers == list(range(1, LONG + 1))
    assert (await read(reader, path))[0].pages_total == LONG


async def test_a_process_that_somebody_else_kills_is_no_verdict(reader: PDFReader, write: Write) -> None:
    task = asyncio.create_task(read(reader, write(slow_page())))
    await until(reading_processes)
    reading_processes()[0].kill()  # as the kernel does when other processes have filled the memory
    with pytest.raises(ReaderKilled):
        await task


async def test_a_process_that_gets_no_cpu_time_is_no_verdict(write: Write) -> None:
    reader = PDFReader(step_seconds=0.5)
    task = asyncio.create_task(read(reader, write(slow_page())))
    await until(reading_processes)
    reading_processes()[0].suspend()
    with pytest.raises(ReadingStalled):
        await task
    await reader.close()
    assert not reading_processes()


async def test_a_parent_that_gets_no_cpu_time_either_costs_no_page(write: Write) -> None:
    reader = PDFReader(step_seconds=0.5)
    task = asyncio.create_task(read(reader, write(slow_page())))
    await until(reading_processes)
    (parent,) = reader_parents()
    for stopped in (parent, *reading_processes()):
        stopped.suspend()
    with pytest.raises(ReadingStalled):
        await task
    parent.resume()
    await reader.close()


async def test_a_killed_parent_takes_its_processes_with_it(reader: PDFReader, write: Write) -> None:
    task = asyncio.create_task(read(reader, write(slow_page())))
    await until(reading_processes)
    (process,), (parent,) = reading_processes(), reader_parents()
    task.cancel()
    parent.kill()
    await until(lambda: not process.is_running(), GONE_WITHIN_SECONDS)
    await asyncio.wait([task])


async def test_processes_that_end_while_they_are_ended_do_no_harm(reader: PDFReader, write: Write) -> None:
    path = write(prose(1))
    _, first = await read(reader, path), reader_parents()
    await asyncio.gather(*(_read_for(reader, path, place / 1_000) for place in range(60)))
    assert reader_parents() == first
    assert not reading_processes()


async def _read_for(reader: PDFReader, path: Path, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await read(reader, path)


async def test_a_closed_reader_starts_no_process(write: Write) -> None:
    reader = PDFReader()
    path = write(prose(1))
    await read(reader, path)
    await reader.close()
    with pytest.raises(RuntimeError, match="closed"):
        await read(reader, path)
    assert not reader_parents()


async def test_nothing_is_left_behind(write: Write) -> None:
    path, locked = write(prose(3)), write(encrypted("AES-256", PASSWORD, "owner"))
    reader = PDFReader()
    await read(reader, path)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        await read(reader, path)
        with pytest.raises(Encrypted):
            await read(reader, locked)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not reading_processes()
    await reader.close()
    assert not reader_parents()


async def test_reading_processes_know_no_secret(
    reader: PDFReader, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    await read(reader, write(prose()))
    (parent,) = reader_parents()
    assert "do not tell" not in str(parent.environ())
    assert set(parent.environ()) <= {
        "PATH",
        "LD_LIBRARY_PATH",
        "TESSDATA_PREFIX",
        "PYTHONPATH",
        "LC_ALL",
        "OMP_THREAD_LIMIT",
    }


async def test_the_parent_is_not_in_its_owners_process_group(reader: PDFReader, write: Write) -> None:
    await read(reader, write(prose()))
    (parent,) = reader_parents()
    assert os.getpgid(parent.pid) != os.getpgid(0)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_reads_in_the_loop_of_another_thread(
    write: Write, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    path = write(prose(3))
    found: list[int] = []

    async def read_once() -> None:
        reader = PDFReader()
        found.append((await read(reader, path))[0].pages_total)
        await reader.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(read_once())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert found == [3]


READ_ONE = """
    import asyncio, sys
    from pathlib import Path
    from app.pdf.reader import PDFReader

    async def read():
        reader = PDFReader()
        async with reader.open(Path(sys.argv[1])) as reading:
            count = len([page async for page in reading])
        await reader.close()
        return count
"""


def script(text: str, path: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(READ_ONE) + textwrap.dedent(text), str(path)]


def test_it_reads_in_a_daemonic_child_as_those_of_celery_are(write: Write) -> None:
    """Such a process may have no children of multiprocessing's; ours are not."""
    text = """
        import multiprocessing
        fork = multiprocessing.get_context("fork")
        told = fork.Queue()
        child = fork.Process(target=lambda: told.put(asyncio.run(read())), daemon=True)
        child.start()
        print(told.get(timeout=30))
        child.join()
    """
    done = subprocess.run(
        script(text, write(prose(3))), cwd=PROJECT, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() == b"3"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
async def test_when_the_owner_dies_so_do_its_reading_processes(write: Write, signal_number: int) -> None:
    command = script("print(asyncio.run(read()))", write(slow_page()))
    owner = subprocess.Popen(command, cwd=PROJECT)  # noqa: ASYNC220 - it returns at once
    try:
        await until(lambda: reader_parents(owner.pid) and reader_parents(owner.pid)[0].children())
        (parent,) = reader_parents(owner.pid)
        processes = [parent, *parent.children(recursive=True)]
        owner.send_signal(signal_number)
        await until(lambda: not any(map(is_alive, processes)), GONE_WITHIN_SECONDS)
    finally:
        owner.kill()
        owner.wait()


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_the_fingerprint_tells_what_the_text_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert PDFReader().fingerprint == PDFReader(max_pages=7).fingerprint
    assert PDFReader().fingerprint != PDFReader(engines=("pypdf",)).fingerprint
    assert PDFReader().fingerprint == PDFReader(ocr_languages=None).fingerprint
    (tmp_path / "tesseract").touch(mode=0o755)
    assert PDFReader().fingerprint != PDFReader(ocr_languages=None).fingerprint
