"""A reading process: one document in, frames out."""

import mmap
import sys
from collections.abc import Iterator

from app.errors import Corrupted, Encrypted, NoPages, NoText, TooManyPages, Unreadable
from app.pdf.engines import Engine, PageError, engine_called
from app.pdf.pages import DocumentFacts, Line, Page
from app.pdf.text import clean
from app.pdf.wire import Frame, facts_to_frame, packed, page_to_frame, read_frame


def main() -> None:
    request = read_frame(sys.stdin.buffer)
    assert request is not None
    try:
        for frame in read_document(request):
            sys.stdout.buffer.write(packed(frame))
            sys.stdout.buffer.flush()
    except Unreadable as verdict:
        sys.stdout.buffer.write(packed({"verdict": verdict.code}))


def read_document(request: Frame) -> Iterator[Frame]:
    with open(str(request["path"]), "rb") as stream:
        file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    password = request["password"]
    engine = open_document(file, password if isinstance(password, str) else None)
    if engine.pages_total == 0:
        raise NoPages
    if engine.pages_total > int(str(request["max_pages"])):
        raise TooManyPages
    found = engine.properties()
    facts = DocumentFacts(
        engine=engine.name,
        pages_total=engine.pages_total,
        title=clean(found.title).strip() or None,
        author=clean(found.author).strip() or None,
        outline=tuple(engine.outline()),
    )
    yield facts_to_frame(facts)
    yield from read_pages(engine)


def open_document(file: mmap.mmap, password: str | None) -> Engine:
    verdicts: list[Unreadable] = []
    for engine in map(engine_called, ("pdfium", "pypdf")):
        for attempt in dict.fromkeys((None, password)):
            try:
                return engine(file, attempt)
            except Unreadable as verdict:
                verdicts.append(verdict)
    raise next((verdict for verdict in verdicts if isinstance(verdict, Encrypted)), verdicts[0])


def read_pages(engine: Engine) -> Iterator[Frame]:
    has_text = has_pages = False
    for number in range(1, engine.pages_total + 1):
        try:
            lines = tuple(
                Line(clean(line.text), line.box, line.is_hidden) for line in engine.read_page(number).lines
            )
        except PageError:
            yield page_to_frame(Page(number, error="The page could not be read."))
            continue
        has_pages = True
        has_text = has_text or bool(lines)
        yield page_to_frame(Page(number, lines))
    if not has_text:
        raise NoText if has_pages else Corrupted


if __name__ == "__main__":
    main()
