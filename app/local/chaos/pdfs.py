"""The documents of a chaos run: written by ourselves, the same for every run with the same seed."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

LINES_A_PAGE = 24  # two or three chunks
SLOW_DRAWINGS = 40  # about two seconds
_WORDS = re.findall(
    r"\w+",
    "harbour lantern meadow copper winter ledger orchard granite river signal timber velvet anchor barley "
    "cinder dune ember falcon garnet heron island juniper kettle linden marble nectar otter pebble quarry "
    "raven saddle thistle umber violet walnut yarrow zephyr bridge candle delta",
)


@dataclass(frozen=True, slots=True)
class Specimen:
    """A PDF on disk. Every line of it names it (`mark`), so no text is in two documents."""

    mark: str
    path: Path


Kind = Literal["longest", "large", "slow", "tiny", "versions"]


@dataclass(kw_only=True)
class Documents:
    """All that a run ingests: the usual `specimens`, and those that some scenarios need."""

    specimens: list[Specimen]
    longest: list[Specimen]
    """Of at least 500 chunks."""
    large: list[Specimen]
    """Of 100 pages and more."""
    slow: list[Specimen]
    """Of seconds to read."""
    tiny: list[Specimen]
    """Of one page, and many."""
    versions: list[list[Specimen]]
    """Small documents that replace each other; the last of each list is damaged."""

    @property
    def halves(self) -> tuple[list[Specimen], list[Specimen]]:
        middle = len(self.specimens) // 2
        return self.specimens[:middle], self.specimens[middle:]

    def sound(self, kind: Kind) -> list[Specimen]:
        """Those of a kind that become ready."""
        if kind == "versions":
            return [one for versions in self.versions for one in versions[:-1]]
        found: list[Specimen] = getattr(self, kind)
        return found


def pdf_of(pages: list[list[str]]) -> bytes:
    """A PDF with one line of Helvetica under the other (ISO 32000-1, 7.5: objects, their table, trailer)."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        content = _content(lines)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842]"
            b" /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    return _with_table(objects)


def slow_pdf_of(pages: list[list[str]]) -> bytes:
    """The first page alone, which takes seconds of CPU time to draw, and is sound.

    It draws a form again and again, which saves and restores the graphics state 500,000 times.
    """
    drawn = zlib.compress(b"q Q\n" * 500_000)
    content = _content(pages[0]) + b"\n/X1 Do" * SLOW_DRAWINGS
    return _with_table(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [4 0 R] >>",
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 5 0 R"
            b" /Resources << /Font << /F1 3 0 R >> /XObject << /X1 6 0 R >> >> >>",
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 595 842] /Filter /FlateDecode /Length %d >>\n"
            b"stream\n%s\nendstream" % (len(drawn), drawn),
        ]
    )


def write_specimens(
    folder: Path,
    seed: int,
    count: int,
    *,
    pages: tuple[int, int] = (5, 50),
    prefix: str = "d",
    draw: Callable[[list[list[str]]], bytes] = pdf_of,
) -> list[Specimen]:
    """`count` PDFs of between `pages[0]` and `pages[1]` pages."""
    chance = Random(f"{prefix} {seed}")  # noqa: S311 - the same every time is the point
    specimens = []
    for number in range(count):
        mark = f"{prefix}{number:03}"
        text = [_page(chance, mark, page) for page in range(1, chance.randint(*pages) + 1)]
        path = folder / f"{mark}.pdf"
        path.write_bytes(draw(text))
        specimens.append(Specimen(mark, path))
    return specimens


def _page(chance: Random, mark: str, page: int) -> list[str]:
    return [
        f"{mark} p{page} l{line}: {' '.join(chance.choices(_WORDS, k=8)).capitalize()}."
        for line in range(1, LINES_A_PAGE + 1)
    ]


def _content(lines: list[str]) -> bytes:
    shown = " T*\n".join(f"({_escaped(line)}) Tj" for line in lines)
    return f"BT /F1 10 Tf 18 TL 50 790 Td\n{shown}\nET".encode("cp1252")


def _escaped(line: str) -> str:
    return line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _with_table(objects: list[bytes]) -> bytes:
    pdf = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(pdf))
        pdf += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(pdf)
    pdf += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    pdf += b"".join(b"%010d 00000 n \n" % place for place in places)
    pdf += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(pdf)
