"""Words broken at the end of a line: joined, or left hyphenated, as the document writes them elsewhere."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.pdf.layout import HYPHEN
from app.pdf.pages import Line

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN_END = re.compile(rf"((?:[^\W\d_]+-)*[^\W\d_]+)[{HYPHEN}\u2010\u00ad-]$")
_SHORTEST_WORD = 3


class Hyphens:
    """Counts the words of a document; joins the broken ones of its lines."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._counts: Counter[str] = Counter()
        for line in lines:
            self._counts.update(_WORD.findall(_BROKEN_END.sub("", line.text).casefold()))

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
            whole.append(replace(line, text=line.text.replace(HYPHEN, "-")))
        return whole

    def _join(self, line: Line, following: Line) -> tuple[Line, Line] | None:
        """Both lines with the broken word on the first, if there is one."""
        broken = _BROKEN_END.search(line.text[-200:])
        end = _WORD.match(following.text)
        if broken is None or end is None or line.is_hidden != following.is_hidden:
            return None
        mark = "" if self._is_one_word(broken[1], end[0]) else "-"
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
