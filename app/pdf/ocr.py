"""Text from pictures, by the program tesseract.

Called directly, picture in and table out through pipes: its Python bindings write temporary files, which
a reading process cannot, or load the whole of tesseract into it.
"""

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

from app.pdf.layout import Span, lines_of
from app.pdf.pages import Line
from app.pdf.pictures import Picture
from app.pdf.sandbox import die_with_parent

PATIENCE = 3
"""By the clock a page may take so much longer than in CPU time, on a busy machine."""
SCALE = 300 / 72
ROUGH_SCALE = 150 / 72
"""Takes a quarter of the time; letters of a page of text are still seen, if misread."""
DISCOURAGING = 3
"""Pages in a row without a word: photographs, most likely. From then on each gets a rough look first."""
LEAST_CONFIDENCE = 30
"""Of 100; below it tesseract reads stains."""
_WORD_LEVEL = "5"


class OCRError(Exception):
    """The program could not read this picture."""


class Tesseract:
    """Reads the pages of one document; it does not read the same picture twice."""

    name = "tesseract"

    def __init__(self, languages: str | None, page_seconds: float) -> None:
        """`languages` as tesseract takes them, "eng+fra"; None switches it off."""
        self._languages = languages
        self._page_seconds = page_seconds
        self._program = shutil.which("tesseract")
        self._known: dict[bytes, list[Line]] = {}
        self._empty_in_a_row = 0

    def why_not(self) -> str | None:
        if self._languages is None:
            return "OCR is off: set OCR=auto to read it"
        if self._program is None:
            return "install tesseract to read it (and set OCR_LANGUAGES)"
        return None

    def read(self, render: Callable[[float], Picture]) -> list[Line]:
        """The lines of a page, places in points; `render` makes its picture, so many pixels for a point.

        Raises OCRError.
        """
        if self._empty_in_a_row >= DISCOURAGING and not self._lines(render(ROUGH_SCALE)):
            return []
        lines = self._lines(render(SCALE))
        self._empty_in_a_row = 0 if lines else self._empty_in_a_row + 1
        return lines

    def _lines(self, picture: Picture) -> list[Line]:
        pixels = picture.pgm()
        digest = hashlib.blake2b(pixels).digest()
        if digest not in self._known:
            self._known[digest] = lines_of(list(_words(self._table(pixels, picture.scale), picture.scale)))
        return self._known[digest]

    def _table(self, pixels: bytes, scale: float) -> str:
        """What tesseract finds in a portable grey map."""
        command = [self._program or self.name, "stdin", "stdout", "-l", self._languages or "eng"]
        command += ["--dpi", str(round(scale * 72)), "tsv"]
        parent = os.getpid()

        def prepare() -> None:
            die_with_parent(parent)
            # Both outlive exec: SIGPROF ends it by its CPU time, SIGALRM should it get none.
            signal.setitimer(signal.ITIMER_PROF, self._page_seconds)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * self._page_seconds)

        finished = subprocess.run(  # noqa: S603 - a fixed program and our own settings
            command,
            input=pixels,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=prepare,
            check=False,
        )
        if finished.returncode != 0:
            raise OCRError
        return finished.stdout.decode("utf-8", "replace")


def _words(table: str, scale: float) -> Iterator[Span]:
    for row in table.splitlines():
        columns = row.split("\t")
        if len(columns) != 12 or columns[0] != _WORD_LEVEL or float(columns[10]) < LEAST_CONFIDENCE:
            continue
        left, top, width, height = (int(column) / scale for column in columns[6:10])
        if columns[11].strip():
            yield Span(columns[11].strip(), left, top, left + width, top + height)
