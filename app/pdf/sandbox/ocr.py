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
from dataclasses import replace
from typing import NamedTuple

from app.pdf.pages import Line
from app.pdf.sandbox.layout import Span, lines_of, turning_back
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
# Of 100, on average: what is read upside down has 50 to 60, what stands upright 75 to 96.
UPRIGHT_CONFIDENCE = 67
# Of what is read in a good picture, a rough one of the same text gives more.
SHARE_OF_ROUGH = 0.8
# On a page of fewer it is not asked which way up it is.
FEWEST_LETTERS = 20
# What a reading process asks its parent for tesseract with; `STATUS` is the last thing it is told.
DPI = struct.Struct("=H")
STATUS = struct.Struct("=i")
_WORD_LEVEL = "5"

# The table of a portable grey map with so many dots per inch. Raises OCRError.
Recognise = Callable[[bytes, int], str]


class OCRError(Exception):
    """The program could not read this picture."""


class _Look(NamedTuple):
    """What tesseract finds in a picture; `confidence` is that of a letter on average, of 100."""

    lines: list[Line]
    letters: int
    confidence: float
    is_sideways: bool

    def quarters(self) -> int:
        """By how many quarters of a turn, clockwise, the picture may become upright.

        Tesseract reads what runs downwards as well as what is upright, and guesses at what runs upwards.
        """
        is_read = self.confidence >= UPRIGHT_CONFIDENCE
        if self.letters < FEWEST_LETTERS:
            return 0
        if self.is_sideways:
            return 3 if is_read else 1
        return 0 if is_read else 2

    def is_upright_of(self, other: "_Look") -> bool:
        """Whether as much is read in it as in the other, though from a rougher picture."""
        read, other_read = (look.letters * look.confidence for look in (self, other))
        return not self.quarters() and read > SHARE_OF_ROUGH * other_read


class Tesseract:
    """Reads the pages of one document; it does not read the same picture twice."""

    name = OCR

    def __init__(self, languages: str | None, recognise: Recognise) -> None:
        """`languages` as tesseract takes them, "eng+fra"; None switches it off."""
        self._languages = languages
        self._recognise = recognise
        self._program = shutil.which("tesseract")
        self._known: dict[bytes, _Look] = {}
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
        if self._empty_in_a_row >= DISCOURAGING and not self._look(render(ROUGH_SCALE)).lines:
            return []
        picture = render(SCALE)
        look = self._look(picture)
        self._empty_in_a_row = 0 if look.lines else self._empty_in_a_row + 1
        return self._upright_lines(look, picture, render) if look.quarters() else look.lines

    def _upright_lines(self, look: _Look, picture: Picture, render: Callable[[float], Picture]) -> list[Line]:
        """Of a page that was scanned the wrong way up, if a rough look at it turned round says so."""
        quarters = look.quarters()
        turned = picture.turned(quarters)
        back = turning_back(90 * quarters, turned.width / turned.scale, turned.height / turned.scale)
        try:
            if not self._look(render(ROUGH_SCALE).turned(quarters)).is_upright_of(look):
                return look.lines
            lines = self._look(turned).lines
        except OCRError:
            return look.lines
        return [replace(line, box=back(*line.box)) if line.box else line for line in lines]

    def _look(self, picture: Picture) -> _Look:
        pixels = picture.pgm()
        digest = hashlib.blake2b(pixels).digest()
        if digest not in self._known:
            table = self._recognise(pixels, round(picture.scale * 72))
            self._known[digest] = _look_of(list(_words(table, picture.scale)))
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


def _look_of(words: list[tuple[Span, float]]) -> _Look:
    letters = sum(len(span.text) for span, _ in words)
    weighed = sum(len(span.text) * confidence for span, confidence in words)
    long = [span for span, _ in words if len(span.text) > 2]
    tall = sum(span.bottom - span.top > 1.5 * (span.right - span.left) for span in long)
    spans = [span for span, _ in words]
    return _Look(lines_of(spans), letters, weighed / max(letters, 1), 2 * tall > len(long))


def _words(table: str, scale: float) -> Iterator[tuple[Span, float]]:
    """Each with tesseract's confidence in it."""
    for row in table.splitlines():
        columns = row.split("\t")
        if len(columns) != 12 or columns[0] != _WORD_LEVEL:
            continue
        confidence = float(columns[10])
        if confidence < LEAST_CONFIDENCE:
            continue
        left, top, width, height = (int(column) / scale for column in columns[6:10])
        if columns[11].strip():
            yield Span(columns[11].strip(), left, top, left + width, top + height), confidence
