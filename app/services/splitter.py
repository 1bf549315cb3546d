"""Splitting: pages become chunks that fit the embedder, cut at the ends of sentences and lines.

Chunks do not overlap: cuts prefer the end of a sentence, so a sentence is whole in one chunk, and an
overlap would make every search answer with the same text twice and cost a fifth more embeddings.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

from tokenizers import Tokenizer

from app.pdf.pages import Box, DocumentFacts, OutlineEntry, Page
from app.services import headers
from app.services.encoding import Encoded, Encoder
from app.services.headers import header
from app.storage.chunks import Chunk

_VERSION = 2  # raised by every change of this file that cuts the same pages otherwise

_CARRY_SHARE = 4  # a rest under a quarter of the limit goes into the next page's or section's first chunk
_HEADER_SHARE = 4  # a header is cut to a quarter of the limit
_MAX_CHARS_PER_TOKEN = 16  # a row of dots may be one token; the text of a chunk stays bounded all the same
_MAX_HEADING_CHARS = 300
_MAX_HEADINGS_A_PAGE = 200

# A full stop after one letter or "Mr" is mostly no end, nor one before a small letter ("e.g. this").
_SENTENCE_END = re.compile(
    r"""(?:(?<!\b\w)(?<!\b[A-Z][a-z])\.|[!?…])["'”’)\]]*(?=\s+[^\sa-z])|[。！？][”’」』）]*"""  # noqa: RUF001 - of other scripts
)
_NOT_SPACE = re.compile(r"\S")
_LONGEST_HEAD = 60
_DATE = re.compile(r"\b(?:[A-Z][a-z]{2,8}\.? [0-3]?\d,?|(?:19|20)\d\d)\b,?")
_DIGIT = re.compile(r"\d")


@dataclass(slots=True)
class _Source:
    """A line, or what is left of one, waiting to become part of a chunk."""

    text: str
    page: int
    box: Box | None
    is_hidden: bool
    heading: str | None


@dataclass(frozen=True, slots=True)
class _Head:
    """What is embedded before a chunk's text: the model's prefix, then the header and its newline, if any."""

    header: str
    text: str
    tokens: int


class Splitter:
    """Cuts documents into chunks of at most `chunk_tokens` tokens of what the embedder reads.

    That is the text, the special tokens, `passage_prefix`, and a header if the chunks have one. The same
    pages always give the same chunks; `fingerprint` changes when they would not. Truncation and padding of
    the tokenizer are switched off.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chunk_tokens: int,
        *,
        passage_prefix: str = "",
        has_headers: bool = False,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.encode = Encoder(tokenizer).encode
        self.special_tokens = tokenizer.num_special_tokens_to_add(is_pair=False)
        self.limit = chunk_tokens - self.special_tokens
        self.passage_prefix = passage_prefix
        self.has_headers = has_headers
        self.header_tokens = (self.limit - self.count(passage_prefix)) // _HEADER_SHARE
        if self.limit - self.count(passage_prefix) < 1:
            raise ValueError(f"chunks of {chunk_tokens} tokens leave no room for text")
        vocabulary = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]
        self.fingerprint = f"splitter {_VERSION}, {chunk_tokens} tokens of {vocabulary}"
        if passage_prefix:
            self.fingerprint += f" after {passage_prefix!r}"
        if has_headers:
            self.fingerprint += f" with headers {headers.VERSION}"

    def begin(self, filename: str, facts: DocumentFacts) -> "Splitting":
        """The splitting of one document; its pages follow in order."""
        return Splitting(self, filename, facts)

    def head(self, line: str) -> _Head:
        """What comes before the text of a chunk with this header, which is cut at a word when it is long."""
        while line and self.count(f"{line}\n") > self.header_tokens:
            line = line[: len(line) * 9 // 10].rsplit(maxsplit=1)[0] if len(line) > 1 else ""
        text = f"{self.passage_prefix}{line}\n" if line else self.passage_prefix
        return _Head(line, text, self.count(text))

    def count(self, text: str) -> int:
        return len(self.encode(text))


class Splitting:
    """One document on its way into chunks. Not for use by two threads."""

    def __init__(self, splitter: Splitter, filename: str, facts: DocumentFacts) -> None:
        self._splitter = splitter
        self._limit = splitter.limit
        self._header = partial(header, filename, facts.title) if splitter.has_headers else None
        self._heads: dict[str | None, _Head] = {}
        self._sections = _Sections(facts.outline)
        self._waiting: list[_Source] = []
        self._ordinal = 0
        self._chars_per_token = 4.0

    def add(self, page: Page) -> list[Chunk]:
        """The chunks that are complete with this page. A short rest waits for the next one.

        Takes CPU time in proportion to the text, 0.4 s a megabyte: call it in a thread for big pages.
        """
        chunks: list[Chunk] = []
        begun = self._sections.begun_on(page)
        for index, line in enumerate(page.lines):
            if index in begun:
                chunks.extend(self._cut(is_last=False))
                self._sections.heading = begun[index]
            if line.text and not line.text.isspace():
                self._waiting.append(
                    _Source(line.text, page.number, line.box, line.is_hidden, self._sections.heading)
                )
        chunks.extend(self._cut(is_last=False))
        return chunks

    def finish(self) -> list[Chunk]:
        """The chunks of what was still waiting."""
        return list(self._cut(is_last=True))

    def _cut(self, *, is_last: bool) -> Iterator[Chunk]:
        """Chunks of what waits; a short rest goes on waiting, unless it is the last of the document."""
        if not self._waiting:
            return
        sources, self._waiting = self._waiting, []
        text = "\n".join(source.text for source in sources).rstrip()
        starts = list(accumulate((len(source.text) + 1 for source in sources[:-1]), initial=0))
        start = _next_word(text, 0)
        while start < len(text):
            first = bisect_right(starts, start) - 1
            head = self._head(sources[first].heading)
            end, ids = self._fit(text, start, head)
            middle = sources[bisect_right(starts, (start + end) // 2) - 1]
            if self._head(middle.heading) != head:
                head = self._head(middle.heading)
                end, ids = self._fit(text, start, head)
            if end == len(text) and not is_last and self._is_short(len(ids), head):
                rest = replace(sources[first], text=sources[first].text[start - starts[first] :])
                self._waiting = [rest, *sources[first + 1 :]]
                return
            chunk_sources = sources[first : bisect_left(starts, end)]
            yield self._chunk(text[start:end], ids, chunk_sources, middle.heading)
            start = _next_word(text, end)

    def _head(self, heading: str | None) -> _Head:
        if heading not in self._heads:
            self._heads[heading] = self._splitter.head(self._header(heading) if self._header else "")
        return self._heads[heading]

    def _is_short(self, tokens: int, head: _Head) -> bool:
        return (tokens - head.tokens) * _CARRY_SHARE < self._limit - head.tokens

    def _chunk(self, text: str, ids: list[int], sources: list[_Source], heading: str | None) -> Chunk:
        chunk = Chunk(
            ordinal=self._ordinal,
            page_start=sources[0].page,
            page_end=sources[-1].page,
            text=text,
            tokens=len(ids) + self._splitter.special_tokens,
            heading=heading,
            boxes=tuple((source.page, source.box) for source in sources if source.box is not None),
            hidden_text=any(source.is_hidden for source in sources),
            header=self._head(heading).header,
            token_ids=tuple(ids),
        )
        self._ordinal += 1
        return chunk

    def _fit(self, text: str, start: int, head: _Head) -> tuple[int, list[int]]:
        """Where the chunk that starts at `start` ends, and the ids of its tokens, those of the head included.

        Only a window somewhat longer than a chunk is encoded. Tokens left of a cut do not depend on what
        is right of it when the cut lies between two tokens and at white space; what any other cut leaves is
        encoded again by itself.
        """
        window, encoded = self._window(text, start, head)
        if len(encoded) <= self._limit and start + len(window) == len(text):
            return len(text), encoded.ids
        before = len(head.text)
        reach = encoded.start_of(self._limit) - before if len(encoded) > self._limit else len(window)
        self._chars_per_token = max(1.0, reach / (self._limit - head.tokens))
        while True:
            end = _best_end(window, max(reach, 1))
            ids = encoded.ids_before(before + end) if window[end : end + 1].isspace() else None
            if ids is None:
                ids = self._splitter.encode(head.text + window[:end]).ids
            if len(ids) <= self._limit or end <= 1:
                return start + end, ids
            reach = end - 1

    def _window(self, text: str, start: int, head: _Head) -> tuple[str, Encoded]:
        """Text from `start`, with the head about the limit's tokens or more, if there is as much."""
        longest = self._limit * _MAX_CHARS_PER_TOKEN
        enough = 0.9 * self._limit  # encoding again to fill the last tenth costs more than it saves
        length = min(int(self._limit * self._chars_per_token * 1.15) + 16, longest)
        while True:
            window = text[start : start + length]
            encoded = self._splitter.encode(head.text + window)
            if len(encoded) > enough or start + length >= len(text) or length == longest:
                return window, encoded
            length = min(length * 2, longest)


class _Sections:
    """The heading in force, of the outline or by its looks: by page, and there by the line that shows it."""

    def __init__(self, outline: Sequence[OutlineEntry]) -> None:
        self._entries = sorted((entry for entry in outline if entry.title.strip()), key=lambda e: e.page)
        self._next = 0
        self.heading: str | None = None

    def begun_on(self, page: Page) -> dict[int, str]:
        """Line index → heading. A heading no line of the page shows begins with the page's first line."""
        begun: dict[int, str] = {}
        lines: list[str] | None = None
        after = 0
        for entry in self._due(page):
            heading = " ".join(entry.title.split())[:_MAX_HEADING_CHARS]
            if entry.page < page.number:
                self.heading = heading
                continue
            if lines is None:
                lines = [_letters(line.text) for line in page.lines]
            title = _letters(heading)
            shown = next((i for i in range(after, len(lines)) if _shows(lines[i], title)), None)
            begun[after if shown is None else shown] = heading
            after = after if shown is None else shown + 1
        return begun

    def _due(self, page: Page) -> list[OutlineEntry]:
        first = self._next
        self._next = bisect_right(self._entries, page.number, key=lambda entry: entry.page)
        due = self._entries[max(first, self._next - _MAX_HEADINGS_A_PAGE) : self._next]
        due += [OutlineEntry(title, page.number) for title in page.headings if title.strip()]
        return due[-_MAX_HEADINGS_A_PAGE:]


def _best_end(window: str, reach: int) -> int:
    """The best place to end a chunk, at most `reach`: a sentence, a line, a word; else `reach` itself."""
    floor = reach // 2
    for match in reversed(list(_SENTENCE_END.finditer(window, floor, reach + 3))):
        if match.end() <= reach and not _is_inside_row(window, match.end()):
            return match.end()
    line_end = window.rfind("\n", floor, reach + 1)
    if line_end > floor:
        return len(window[: _before_heads(window, line_end, floor)].rstrip())
    kept = window[:reach]
    if not kept[-1].isspace() and not window[reach : reach + 1].isspace():
        kept = kept.rsplit(maxsplit=1)[0]
    end = len(kept.rstrip())
    return end if end > floor else reach


def _before_heads(window: str, end: int, floor: int) -> int:
    """The end of the line before those which lead to what comes next: "Assets:", or the head of a table."""
    following, is_head = window[end + 1 :].partition("\n")[0], False
    above = window.rfind("\n", floor, end)
    while above > floor:
        line = window[above + 1 : end]
        if not (_leads_to(line, following) or (is_head and "\t" not in line and _is_head(line))):
            return end
        end, following, is_head = above, line, True
        above = window.rfind("\n", floor, end)
    return end


def _leads_to(line: str, following: str) -> bool:
    return line.endswith(":") or (
        "\t" in following and _DIGIT.search(following) is not None and _is_head(line)
    )


def _is_head(line: str) -> bool:
    return (
        not _has_figures(line)
        and ("\t" in line or len(line) <= _LONGEST_HEAD)
        and any(map(str.isalnum, line))
    )


def _has_figures(line: str) -> bool:
    return _DIGIT.search(_DATE.sub("", line)) is not None


def _is_inside_row(window: str, end: int) -> bool:
    """Cells of a table's row are separated by tabs; a full stop in a cell ends no sentence."""
    line_end = window.find("\n", end)
    line_end = len(window) if line_end < 0 else line_end
    return end < line_end and "\t" in window[window.rfind("\n", 0, end) + 1 : line_end]


def _next_word(text: str, start: int) -> int:
    found = _NOT_SPACE.search(text, start)
    return found.start() if found else len(text)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _shows(line: str, title: str) -> bool:
    """Whether a line is this heading: whole, its first half when it is broken, with or without a number."""
    if not line or not title:
        return False
    return (
        line == title
        or (len(line) >= 8 and title.startswith(line))
        or (line.endswith(title) and len(line) - len(title) <= 8)
        or (title.endswith(line) and len(title) - len(line) <= 8 and len(line) >= 4)
    )
