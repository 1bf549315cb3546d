"""Text from pictures, by the program tesseract.

Called directly, picture in and table out through pipes: its Python bindings write temporary files, which
a reading process cannot, or load the whole of tesseract into it.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

from app.pdf.layout import Span, lines_of
from app.pdf.pages import Line
from app.pdf.pictures import Picture
from app.pdf.sandbox import die_with_parent

LEAST_CONFIDENCE = 30
"""Of 100; below it tesseract reads stains."""
_WORD_LEVEL = "5"


class OCRError(Exception):
    """The program could not read this picture."""


class Tesseract:
    name = "tesseract"

    def __init__(self, languages: str | None, page_seconds: float) -> None:
        """`languages` as tesseract takes them, "eng+fra"; None switches it off."""
        self._languages = languages
        self._page_seconds = page_seconds
        self._program = shutil.which("tesseract")

    def why_not(self) -> str | None:
        if self._languages is None:
            return "OCR is off: set OCR=auto to read it"
        if self._program is None:
            return "install tesseract to read it (and set OCR_LANGUAGES)"
        return None

    def read(self, picture: Picture) -> list[Line]:
        """The lines of the picture, places in points. Raises OCRError."""
        command = [self._program or self.name, "stdin", "stdout", "-l", self._languages or "eng"]
        command += ["--dpi", str(round(picture.scale * 72)), "tsv"]
        parent = os.getpid()

        def prepare() -> None:
            die_with_parent(parent)
            signal.setitimer(signal.ITIMER_REAL, self._page_seconds)  # outlives exec: SIGALRM ends it

        finished = subprocess.run(  # noqa: S603 - a fixed program and our own settings
            command,
            input=picture.pgm(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=prepare,
            check=False,
        )
        if finished.returncode != 0:
            raise OCRError
        return lines_of(list(_words(finished.stdout.decode("utf-8", "replace"), picture.scale)))


def _words(table: str, scale: float) -> Iterator[Span]:
    for row in table.splitlines():
        columns = row.split("\t")
        if len(columns) != 12 or columns[0] != _WORD_LEVEL or float(columns[10]) < LEAST_CONFIDENCE:
            continue
        left, top, width, height = (int(column) / scale for column in columns[6:10])
        if columns[11].strip():
            yield Span(columns[11].strip(), left, top, left + width, top + height)
