"""Reads PDFs without ever parsing one in the calling process."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from app.errors import (
    Corrupted,
    InternalError,
    NoText,
    OutOfMemory,
    PageNotFound,
    ParserCrashed,
    ReaderKilled,
    ReadingStalled,
    ReadingTimedOut,
    TooManyPages,
    TooMuchText,
    Unreadable,
    error_for_code,
)
from app.pdf.conversation import Conversation
from app.pdf.pages import Box, DocumentFacts, Page
from app.pdf.processes import Exit, ReaderParent, ReadingProcess, cpu_seconds_of, is_asleep
from app.pdf.text import clean
from app.pdf.wire import (
    LARGEST_PICTURE,
    LONGEST_TRACEBACK,
    OCR,
    At,
    Frame,
    FrameError,
    News,
    ProbeRequest,
    ProcessLimits,
    ReadRequest,
    Recognition,
    RenderRequest,
    doors_from_frame,
    news_from_frame,
    unpacked,
)
from app.temporary import temporary_folder

_VERSION = 9  # raised by every change of this package that reads the same file otherwise

READING_SECONDS = 20.0
READING_SECONDS_A_PAGE = 0.02
RENDERING_SECONDS = 20.0
# The kernel counts a process's CPU time; by the clock it may take so much longer, on a busy machine.
PATIENCE = 3.0
MOST_WAITS = 5
# Nearly every word comes sooner, and what its process has used is not asked for: 0.2 ms a page.
SOON_SECONDS = 0.25
# Of a core: a process that gets less stands still.
LEAST_SHARE = 0.01
OCR_MARGIN_SECONDS = 15.0
# At one page: as it is, roughly turned round, and turned round.
OCR_LOOKS = 3
# For one document: after a crash it is read again without what crashed.
MOST_PROCESSES = 6
# Of those, processes that ended for a reason that is not the document.
MOST_LOST = 3
# Of its memory limit: a process that aborts with more in use could not double one of its buffers.
SHARE_OF_AN_ABORT = 0.25
# For rendering; tesseract's own process has the limit to itself.
OCR_CPU_SECONDS_A_PAGE = 2
PNG = b"\x89PNG"
LONGEST_MESSAGE = 300

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Times(NamedTuple):
    longest_seconds: float
    step_seconds: float


class ReadingProgress(NamedTuple):
    """`stage` is "reading" or "ocr"; of `pages_done` nothing more will be read. `pid` is who reads."""

    stage: str
    pages_done: int
    pages_total: int
    pid: int


ProgressListener = Callable[[ReadingProgress], None]


class Reading:
    """A document being read: what is known before its first page, then its pages as they are read."""

    ocr_seconds: float
    """How long OCR has been waited for."""
    engines: list[str]
    """Those that have read pages so far, in the order in which they were needed."""

    def __init__(
        self,
        parent: ReaderParent,
        path: Path,
        request: ReadRequest,
        times: Times,
        on_progress: ProgressListener | None,
    ) -> None:
        self._parent = parent
        self._path = path
        self._request = request
        self._times = times
        self._on_progress = on_progress
        self._process: ReadingProcess | None = None
        self._at = At("", 0)
        self._pages_total = 0
        self._known: DocumentFacts | None = None
        self._pages_given = 0
        self.ocr_seconds = 0.0
        self.engines = []
        self._waited_seconds = 0.0
        self._seconds_left = self._seconds_for(0)
        self._news = self._all_news()

    @property
    def facts(self) -> DocumentFacts:
        """Known once it has begun."""
        if self._known is None:
            raise RuntimeError("the document is not open yet")
        return self._known

    async def begin(self) -> None:
        """Waits until `facts` are known. Raises an Unreadable."""
        async for found in self._news:
            if isinstance(found, DocumentFacts):
                return
        raise ParserCrashed

    async def __aiter__(self) -> AsyncIterator[Page]:
        async for found in self._news:
            if isinstance(found, Page) and found.number == self._pages_given + 1:
                self._pages_given += 1
                if found.engine and found.engine not in self.engines:
                    self.engines.append(found.engine)
                yield found
        if self._pages_given < self.facts.pages_total:
            raise ParserCrashed

    async def end(self) -> Exit | None:
        """Kills the process if there is one; how it ended. The next one has what is left of the CPU time."""
        process, self._process = self._process, None
        how = await process.end() if process else None
        if how is not None:
            limits = self._request.limits
            cpu_seconds = max(1, int(limits.cpu_seconds - how.cpu_seconds))
            self._request = replace(self._request, limits=replace(limits, cpu_seconds=cpu_seconds))
        return how

    def _note(self, found: News) -> None:
        if isinstance(found, DocumentFacts):
            self._known = found
        elif isinstance(found, At):
            self._at = found
            if found.pages_total > self._pages_total:
                more_seconds = self._seconds_for(found.pages_total) - self._seconds_for(self._pages_total)
                self._seconds_left += more_seconds
                self._pages_total = found.pages_total
            if self._on_progress is not None:
                stage = "ocr" if found.reader == OCR else "reading"
                pid = self._process.pid if self._process else 0
                self._on_progress(ReadingProgress(stage, found.pages_done, found.pages_total, pid))

    def _seconds_for(self, pages: int) -> float:
        seconds = min(READING_SECONDS + READING_SECONDS_A_PAGE * pages, self._times.longest_seconds)
        return PATIENCE * seconds

    async def _all_news(self) -> AsyncGenerator[News]:
        """Of as many processes as it takes: what one dies of, the next leaves out."""
        cause: Unreadable | None = None
        lost = 0
        for _ in range(MOST_PROCESSES):
            self._process = await self._parent.begin(self._path, self._request)
            try:
                async for found in self._news_of(self._process):
                    self._note(found)
                    yield found
                return
            except _ProcessDied as death:
                log.warning("a reading process died", at=self._at[:2], why=death.why)
                cause = cause or death.verdict
                lost += death.verdict is None
                can_go_on = lost < MOST_LOST if death.verdict is None else self._leave_out()
                if not can_go_on or self._seconds_left < 1 or self._request.limits.cpu_seconds <= 1:
                    break
            except (Corrupted, NoText) as verdict:  # of what was left to read
                raise cause or verdict from verdict
            finally:
                await self.end()
        raise cause or (ReaderKilled() if lost else InternalError())

    async def _news_of(self, process: ReadingProcess) -> AsyncIterator[News]:
        """Until its end. Raises what it found, an Unreadable, or _ProcessDied."""
        conversation = Conversation(self._request, self._known)
        self._waited_seconds = 0.0
        while True:
            try:
                with self._on_the_clock(conversation.is_recognising) as seconds:
                    body = await _received_in_time(process, seconds)
                    found = await self._understood(body, conversation)
            except TimeoutError as error:
                if await is_asleep(
                    process.pid
                ):  # which no engine ever is: another process would be no better
                    raise ReadingTimedOut from error
                if self._has_stood_still(await self.end()):
                    raise ReadingStalled from error
                raise _ProcessDied("took too long", ReadingTimedOut()) from error
            except FrameError as error:
                raise _ProcessDied(f"wrote what is {error}", ParserCrashed()) from error
            if found is None:
                return
            yield found

    @contextmanager
    def _on_the_clock(self, is_ocr: bool) -> Iterator[float]:
        """The time a process has for its next word, whatever it is at. Time spent on OCR has its own limit.

        No step gets more than half of what is left: the next process must have time for the rest.
        """
        is_answered = False
        started = time.monotonic()
        try:
            if is_ocr:
                yield PATIENCE * OCR_LOOKS * self._request.ocr_page_seconds + OCR_MARGIN_SECONDS
            else:
                yield min(PATIENCE * self._times.step_seconds, self._seconds_left / 2)
            is_answered = True
        finally:
            took_seconds = time.monotonic() - started
            if not (is_ocr and is_answered):  # that was tesseract's CPU time, which is not counted here
                self._waited_seconds += took_seconds
            if is_ocr:
                self.ocr_seconds += took_seconds
            else:
                self._seconds_left -= took_seconds

    async def _understood(self, body: bytes | None, conversation: Conversation) -> News | None:
        """None at the end. Raises FrameError, _ProcessDied, or the Unreadable that was found."""
        if body is None:
            raise self._death(await self.end())
        frame = unpacked(body)
        if "verdict" in frame:
            raise self._verdict(frame)
        if "failure" in frame:
            verdict = None if frame.get("is_of_machine") is True else ParserCrashed()
            raise _ProcessDied(clean(str(frame["failure"])[:LONGEST_TRACEBACK]), verdict)
        try:
            return None if "end" in frame else conversation.heard(news_from_frame(frame))
        except TooMuchText as error:
            raise self._too_much_text() from error

    def _verdict(self, frame: Frame) -> Unreadable:
        verdict = _unreadable(frame)
        if isinstance(verdict, TooManyPages):
            return TooManyPages(
                f"The PDF has more pages than this server accepts: MAX_PAGES is {self._request.max_pages:,}."
            )
        return self._too_much_text() if isinstance(verdict, TooMuchText) else verdict

    def _too_much_text(self) -> TooMuchText:
        return TooMuchText(
            "The PDF holds more text than this server accepts:"
            f" MAX_CHARACTERS is {self._request.max_characters:,}, and a page may have 1,000,000."
        )

    def _death(self, how: Exit | None) -> "_ProcessDied":
        """Raises ReaderKilled when somebody else has ended the process, who may do so again at once."""
        if how is None:
            return _ProcessDied("its parent is gone", None)
        ended_by = os.WTERMSIG(how.status) if os.WIFSIGNALED(how.status) else 0
        why = signal.Signals(ended_by).name if ended_by else f"status {how.status}"
        is_full = how.most_memory_bytes > SHARE_OF_AN_ABORT * self._request.limits.memory_bytes
        if ended_by in (signal.SIGXCPU, signal.SIGPROF):
            return _ProcessDied(why, ReadingTimedOut())
        if ended_by == signal.SIGKILL:  # at its own limit of memory a process is refused more, not killed
            if self._request.limits.cpu_seconds > 1:  # is left: `end` has counted
                raise ReaderKilled
            return _ProcessDied(why, ReadingTimedOut())
        if ended_by == signal.SIGABRT and is_full:
            return _ProcessDied(why, OutOfMemory())
        return _ProcessDied(why, ParserCrashed())

    def _has_stood_still(self, how: Exit | None) -> bool:
        """Whether the process got less CPU time than patience allows for: then it was the machine's doing.

        So it was where the parent does not even say how the process ended.
        """
        return how is None or how.cpu_seconds * PATIENCE < self._waited_seconds

    def _leave_out(self) -> bool:
        """What the process was at when it died; whether anything is left to read with."""
        reader, page = self._at.reader, self._at.page
        if reader not in (*self._request.engines, OCR):
            return False
        if page == 0:
            engines = [name for name in self._request.engines if name != reader]
            self._request = replace(self._request, engines=engines)
            return bool(engines)
        pages = [*self._request.skipped.get(reader, ()), page]
        self._request = replace(self._request, skipped={**self._request.skipped, reader: pages})
        return True


async def _received_in_time(process: ReadingProcess, seconds: float) -> bytes | None:
    """A process that gets CPU time is waited for longer: that has a limit. Raises TimeoutError."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(SOON_SECONDS, seconds)):
            return await process.receive()
    for _ in range(MOST_WAITS):
        used_seconds = cpu_seconds_of(process.pid)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await process.receive()
        if cpu_seconds_of(process.pid) - used_seconds < LEAST_SHARE * seconds:
            break
    raise TimeoutError


class _ProcessDied(Exception):  # noqa: N818 - a fact
    """A reading process ended before its work did; without a verdict it was not the document's fault."""

    def __init__(self, why: str, verdict: Unreadable | None) -> None:
        super().__init__(why)
        self.why = why
        self.verdict = verdict


class PDFReader:
    """Reads any number of documents at once, each in a process of its own.

    Belongs to the event loop that uses it first. `fingerprint` changes when the text read would.
    """

    def __init__(  # noqa: PLR0913 - limits, each named by the caller
        self,
        *,
        max_pages: int = 5_000,
        max_characters: int = 50_000_000,
        engines: Sequence[str] = ("pdfium", "pypdf"),
        ocr_languages: str | None = "eng",
        ocr_pages: int = 200,
        ocr_page_seconds: float = 30,
        memory_bytes: int = 1024**3,
        longest_seconds: float = 90,
        step_seconds: float = 10,
        parent: str = "app.pdf.sandbox.parent",
    ) -> None:
        """`ocr_languages` as tesseract takes them, "eng+fra"; None switches OCR off.

        Reading may use `longest_seconds` of CPU time, and by the clock 60 s and 60 ms a page up to three
        times that; OCR has its own time. A step (opening with one engine, or one page) that uses more
        CPU time than `step_seconds` is left out. `parent` is the module that forks the reading processes.
        """
        recognition = Recognition(memory_bytes, ocr_page_seconds, ocr_languages or "")
        self._parent = ReaderParent(recognition, parent)
        self._times = Times(longest_seconds, step_seconds)
        ocr_seconds = int(ocr_pages * OCR_CPU_SECONDS_A_PAGE) if ocr_languages else 0
        self._request = ReadRequest(
            limits=ProcessLimits(memory_bytes, int(longest_seconds) + ocr_seconds, step_seconds),
            password=None,
            engines=list(engines),
            max_pages=max_pages,
            max_characters=max_characters,
            ocr_languages=ocr_languages,
            ocr_pages=ocr_pages,
            ocr_page_seconds=ocr_page_seconds,
        )
        self.fingerprint = _fingerprint(self._request)

    @asynccontextmanager
    async def open(
        self, path: Path, password: str | None = None, on_progress: ProgressListener | None = None
    ) -> AsyncIterator[Reading]:
        """Opens the document, then reads it and gives it out page by page; leaving ends the process.

        `on_progress` hears of every page. Raises an Unreadable, here or between pages.
        """
        request = replace(self._request, password=password)
        reading = Reading(self._parent, path, request, self._times, on_progress)
        try:
            await reading.begin()
            yield reading
        finally:
            await reading.end()

    async def render(
        self,
        path: Path,
        page_number: int,
        password: str | None = None,
        highlights: Sequence[Box] = (),
        max_width: int = 1_200,
    ) -> bytes:
        """A page as a PNG of this width, its boxes marked. Raises PageNotFound, or an Unreadable."""
        request = RenderRequest(self._request.limits, password, page_number, max_width, list(highlights))
        return await self._answer(path, request, _picture)

    async def open_doors(self) -> list[str]:
        """Which escapes a reading process can make here. Raises ParserCrashed when it cannot tell."""
        with temporary_folder("probe") as folder:
            stored = await asyncio.to_thread(_touched, folder / "stored.pdf")
            request = ProbeRequest(self._request.limits, os.getpid(), str(stored))
            return await self._answer(stored, request, lambda answer: doors_from_frame(unpacked(answer)))

    async def _answer(
        self, path: Path, request: RenderRequest | ProbeRequest, understand: Callable[[bytes], T]
    ) -> T:
        process = await self._parent.begin(path, request)
        try:
            async with asyncio.timeout(RENDERING_SECONDS):
                answer = await process.receive(LARGEST_PICTURE)
            if answer is None:
                raise ParserCrashed
            return understand(answer)
        except TimeoutError as error:
            raise ReadingTimedOut("Rendering the page took too long and was stopped.") from error
        except FrameError as error:
            raise ParserCrashed from error
        finally:
            await process.end()

    async def close(self) -> None:
        """Ends every process of this reader."""
        await self._parent.close()


def _touched(path: Path) -> Path:
    path.touch(mode=0o600)
    return path


def _picture(answer: bytes) -> bytes:
    if answer.startswith(PNG):
        return answer
    frame = unpacked(answer)
    raise PageNotFound if frame.get("verdict") == PageNotFound.code else _unreadable(frame)


def _unreadable(frame: Frame) -> Unreadable:
    """The verdict; only the one that says what is missing may have words of its own."""
    code, message = frame.get("verdict"), frame.get("message")
    own_words = message if code == NoText.code and isinstance(message, str) else ""
    verdict = error_for_code(str(code), clean(own_words[:LONGEST_MESSAGE]) or None)
    return verdict if isinstance(verdict, Unreadable) else ParserCrashed()


def _fingerprint(request: ReadRequest) -> str:
    versions = f"pypdfium2 {version('pypdfium2')}, pypdf {version('pypdf')}"
    has_ocr = request.ocr_languages is not None and shutil.which(OCR) is not None
    ocr = f"tesseract {request.ocr_languages}" if has_ocr else "no OCR"
    return f"reader {_VERSION}, {'+'.join(request.engines)} of {versions}, {ocr}"
