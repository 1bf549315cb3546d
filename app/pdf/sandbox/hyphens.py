"""Words broken at the end of a line: joined, or left hyphenated, as the document writes them elsewhere."""

import re
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from app.pdf.pages import Line
from app.pdf.sandbox.layout import HYPHEN

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_MARKS = (HYPHEN, "-", "\u2010", "\u00ad")
_BROKEN = re.compile(r"(?:[^\W\d_]+-)*[^\W\d_]+$")
_SHORTEST_WORD = 3
_LONGEST_WORD = 100
# Different ones that are counted, of about 100 bytes each; 5,000 pages of reports have 40,000.
MOST_WORDS = 200_000


class Hyphens:
    """Counts the words of a document; joins the broken ones of its lines.

    Pages are added some before the lines of one are joined.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, lines: Sequence[Line]) -> None:
        if len(self._counts) > MOST_WORDS:
            return
        texts = [line.text.casefold() for line in lines]
        broken = [text for text in texts if text.endswith(_MARKS)]
        whole = [text for text in texts if not text.endswith(_MARKS)] if broken else texts
        self._counts.update(_WORD.findall("\n".join(whole)))
        for text in broken:
            self._counts.update(_WORD.findall(text)[:-1])

    def joined(self, lines: Sequence[Line]) -> list[Line]:
        """The lines with each broken word whole on the line where it begins."""
        whole: list[Line] = []
        waiting = deque(lines)
        while waiting:
            line = waiting.popleft()
            while waiting and (joined := self._join(line, waiting[0])):
                line, rest = joined
                if rest.text:
                    waiting[0] = rest
                    break
                waiting.popleft()
            if HYPHEN in line.text:
                line = replace(line, text=line.text.replace(HYPHEN, "-"))
            whole.append(line)
        return whole

    def _join(self, line: Line, following: Line) -> tuple[Line, Line] | None:
        """Both lines with the broken word on the first, if there is one."""
        if not line.text.endswith(_MARKS) or line.is_hidden != following.is_hidden:
            return None
        broken = _BROKEN.search(line.text[-_LONGEST_WORD:-1])
        end = _WORD.match(following.text)
        if broken is None or end is None:
            return None
        mark = "" if self._is_one_word(broken[0], end[0]) else "-"
        taken, _, rest = following.text.partition(" ")
        return replace(line, text=line.text[:-1] + mark + taken), replace(following, text=rest.lstrip())

    def _is_one_word(self, first: str, second: str) -> bool:
        if second[0].isupper() and not first.isupper():
            return False
        first, second = first.casefold(), second.casefold()
        one_word, compound = self._counts[first + second], self._counts[f"{first}-{second}"]
        if one_word != compound:
            return one_word > compound
        are_words = min(len(first), len(second)) >= _SHORTEST_WORD
        return not (are_words and self._counts[first] and self._counts[second])
