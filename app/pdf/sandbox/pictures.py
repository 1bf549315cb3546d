"""Pages as pictures, rendered by pdfium under a cap of pixels."""

import struct
import zlib
from collections.abc import Iterable
from copy import copy
from math import sqrt

import pypdfium2

from app.pdf.pages import Box

# Pixels; PNG readers and tesseract (32,767) refuse much longer ones.
LONGEST_SIDE = 20_000
# Of 255 shades; the eye sees nothing below.
BLANK_CONTRAST = 12
_HALF = bytes(shade * 4 // 10 for shade in range(256))


class Picture:
    """Rows of grey or RGB pixels; `scale` is pixels for a point."""

    def __init__(self, bitmap: pypdfium2.PdfBitmap, scale: float) -> None:
        self.width: int = bitmap.width
        self.height: int = bitmap.height
        self.scale = scale
        self._channels: int = bitmap.n_channels
        self._stride: int = bitmap.stride
        self._pixels = bytearray(bitmap.buffer)

    def is_blank(self, box: Box) -> bool:
        """Is all inside the box of one shade?"""
        left, top, right, bottom = self._pixel_box(box)
        inside = b"".join(
            self._row(row)[left * self._channels : right * self._channels] for row in range(top, bottom)
        )
        return not inside or max(inside) - min(inside) < BLANK_CONTRAST

    def turned(self, quarters: int) -> "Picture":
        """Clockwise, by so many quarters of a turn (grey only)."""
        pixels = b"".join(self._row(row) for row in range(self.height))
        last = len(pixels) - self.width
        turned = copy(self)
        if quarters == 2:
            turned._pixels = bytearray(pixels[::-1])
        else:
            columns = [slice(last + column, None, -self.width) for column in range(self.width)]
            if quarters == 3:
                columns = [slice(column, None, self.width) for column in reversed(range(self.width))]
            turned._pixels = bytearray(b"".join(pixels[column] for column in columns))
            turned.width, turned.height = self.height, self.width
        turned._stride = turned.width
        return turned

    def mark(self, boxes: Iterable[Box]) -> None:
        """Colours the boxes yellow, as a text marker does (RGB only)."""
        for box in boxes:
            left, top, right, bottom = self._pixel_box(box)
            for row in range(top, bottom):
                blue = slice(row * self._stride + left * 3 + 2, row * self._stride + right * 3, 3)
                self._pixels[blue] = self._pixels[blue].translate(_HALF)

    def png(self) -> bytes:
        rows = b"".join(b"\0" + self._row(row) for row in range(self.height))
        colour_type = 2 if self._channels == 3 else 0
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, colour_type, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_png_part(name, content) for name, content in parts)

    def pgm(self) -> bytes:
        """As a portable grey map, which needs no packing."""
        rows = b"".join(self._row(row) for row in range(self.height))
        return b"P5\n%d %d\n255\n" % (self.width, self.height) + rows

    def _row(self, row: int) -> bytes:
        start = row * self._stride
        return bytes(self._pixels[start : start + self.width * self._channels])

    def _pixel_box(self, box: Box) -> tuple[int, int, int, int]:
        left, top, right, bottom = (round(edge * self.scale) for edge in box)
        return (
            min(max(left, 0), self.width),
            min(max(top, 0), self.height),
            min(max(right, 0), self.width),
            min(max(bottom, 0), self.height),
        )


def render(page: pypdfium2.PdfPage, scale: float, most_pixels: int, is_gray: bool = True) -> Picture:
    """The page at `scale` pixels for a point, or as large as the cap allows."""
    width, height = page.get_size()
    scale = min(scale, sqrt(most_pixels / max(width * height, 1)), LONGEST_SIDE / max(width, height, 1))
    bitmap = page.render(scale, grayscale=is_gray, rev_byteorder=not is_gray, draw_annots=True)
    return Picture(bitmap, scale)


def _png_part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
