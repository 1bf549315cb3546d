"""Text from pictures, by the program tesseract.

Called directly, picture in and table out through pipes: its Python bindings write temporary files, which
a reading process cannot, or load the whole of tesseract into it.
"""

import hashlib
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from app.pdf.pages import Line
from app.pdf.sandbox.layout import Span, lines_of
from app.pdf.sandbox.pictures import Picture
from app.pdf.wire import OCR

# By the clock a page may take so much longer than in CPU time, on a busy machine.
PATIENCE = 3
SCALE = 300 / 72
# Takes a quarter of the time; letters of a page of text are still seen, if misread.
ROUGH_SCALE = 150 / 72
# Pages in a row without a word: photographs, most likely. From then on each gets a rough look first.
DISCOURAGING = 3
# Of 100; below it tesseract reads stains.
LEAST_CONFIDENCE = 30
# What a reading process asks its parent for tesseract with; `STATUS` is the last thing it is told.
DPI = struct.Struct("=H")
STATUS = struct.Struct("=i")
_WORD_LEVEL = "5"

# The table of a portable grey map with so many dots per inch. Raises OCRError.
Recognise = Callable[[bytes, int], str]


class OCRError(Exception):
    """The program could not read this picture."""


class Tesseract:
    """Reads the pages of one document; it does not read the same picture twice."""

    name = OCR

    def __init__(self, languages: str | None, recognise: Recognise) -> None:
        """`languages` as tesseract takes them, "eng+fra"; None switches it off."""
        self._languages = languages
        self._recognise = recognise
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
            self._known[digest] = lines_of(
                list(_words(self._recognise(pixels, round(picture.scale * 72)), picture.scale))
            )
        return self._known[digest]


def command(languages: str, dpi: int) -> list[str]:
    """Picture in, table out."""
    program = shutil.which(Tesseract.name) or Tesseract.name
    return [program, "stdin", "stdout", "-l", languages, "--dpi", str(dpi), "tsv"]


def recognised_by(parent: socket.socket, picture: bytes, dpi: int) -> str:
    """What tesseract makes of a portable grey map, started by the parent of a process that can start none.

    Raises OCRError.
    """
    os.write(parent.fileno(), DPI.pack(dpi))
    _, pipes, _, _ = socket.recv_fds(parent, 1, 2)
    if len(pipes) != 2:
        raise OCRError
    far_picture, far_table = pipes
    with open(far_table, "rb") as table:
        with suppress(BrokenPipeError), open(far_picture, "wb") as stream:
            stream.write(picture)
        found = table.read()
    status = os.read(parent.fileno(), STATUS.size)
    if len(status) != STATUS.size or STATUS.unpack(status) != (0,):
        raise OCRError
    return found.decode("utf-8", "replace")


def _words(table: str, scale: float) -> Iterator[Span]:
    for row in table.splitlines():
        columns = row.split("\t")
        if len(columns) != 12 or columns[0] != _WORD_LEVEL or float(columns[10]) < LEAST_CONFIDENCE:
            continue
        left, top, width, height = (int(column) / scale for column in columns[6:10])
        if columns[11].strip():
            yield Span(columns[11].strip(), left, top, left + width, top + height)
