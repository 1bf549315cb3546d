"""The PDFs that are ingested: reports written by ourselves, or those of a folder that have text."""

import random
import re
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import cycle, groupby, islice, pairwise
from operator import itemgetter
from pathlib import Path

import pypdfium2

from benchmarks.run import Run
from tests.pdfs.builder import compressed, pdf

SAMPLES = Path(__file__).parent.parent / "samples"
LINES_A_PAGE, CHARACTERS_A_LINE = 46, 92
LEAST_CHARACTERS = 200  # a page with fewer would go to tesseract
LEAST_SHARE = 0.9
QUICK_PAGES = 20


@dataclass(frozen=True, slots=True)
class Specimen:
    path: Path
    pages: int


@cache
def specimens(run: Run) -> list[Specimen]:
    """Ten reports of 145 pages, or what the folder of the user has, the rest of which is told."""
    if run.pdfs is None:
        count, pages = (3, QUICK_PAGES) if run.is_quick else (10, 145)
        return [write_report(run.folder / f"report-{seed}.pdf", pages, seed) for seed in range(count)]
    found = [(path, _pages_with_text(path)) for path in sorted(run.pdfs.glob("*.pdf"))]
    left_out = [path.name for path, pages in found if not pages]
    if left_out:
        run.say(f"left out, damaged, encrypted or without text: {', '.join(left_out)}")
    readable = [Specimen(path, pages) for path, pages in found if pages]
    if not readable:
        raise SystemExit(f"There is no PDF with text in {run.pdfs}.")
    return sorted(readable, key=lambda one: abs(one.pages - QUICK_PAGES))[:3] if run.is_quick else readable


def documents_of(run: Run, pages: int, count: int) -> list[Specimen]:
    """So many PDFs of so many pages: one after the other from the user's, from the first again at the end."""
    paths = [run.folder / f"{pages}-pages-{number}.pdf" for number in range(count)]
    if run.pdfs is None:
        return [write_report(path, pages, 100 + number) for number, path in enumerate(paths)]
    with ExitStack() as opened:
        parts = [opened.enter_context(pypdfium2.PdfDocument(one.path)) for one in specimens(run)]
        supply = cycle((part, number) for part in parts for number in range(len(part)))
        for path in paths:
            with pypdfium2.PdfDocument.new() as whole:
                for part, numbers in groupby(islice(supply, pages), key=itemgetter(0)):
                    whole.import_pages(part, pages=[number for _, number in numbers])
                whole.save(path)
    return [Specimen(path, pages) for path in paths]


def warm_up(run: Run) -> Specimen:
    """Opens what is opened once."""
    return write_report(run.folder / "warm-up.pdf", 10, 99)


def _pages_with_text(path: Path) -> int:
    """All pages of a PDF, or 0 where too few have text to measure more than OCR."""
    try:
        with pypdfium2.PdfDocument(path) as document:
            counts = [page.get_textpage().count_chars() for page in document]
    except pypdfium2.PdfiumError:
        return 0
    return len(counts) if sum(map(LEAST_CHARACTERS.__le__, counts)) >= LEAST_SHARE * len(counts) else 0


def write_report(path: Path, pages: int, seed: int) -> Specimen:
    """Headings, running heads, paragraphs set word by word, and on every third page a ruled table."""
    writer = _Writer(random.Random(seed))
    kids = b" ".join(b"%d 0 R" % (5 + 2 * number) for number in range(pages))
    fonts = b"/F 3 0 R/B 4 0 R"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%b]/Count %d/MediaBox[0 0 612 792]/Resources<</Font<<%b>>>>>>"
        % (kids, pages, fonts),
        b"<</Type/Font/Subtype/Type1/BaseFont/Times-Roman/Encoding/WinAnsiEncoding>>",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold/Encoding/WinAnsiEncoding>>",
    ]
    for number in range(pages):
        objects.append(b"<</Type/Page/Parent 2 0 R/Contents %d 0 R>>" % (6 + 2 * number))
        objects.append(compressed(writer.page(number + 1, f"Annual Report {seed + 1}").encode("cp1252")))
    path.write_bytes(pdf(objects))
    return Specimen(path, pages)


class _Writer:
    """Text that nobody has written, by which word follows which in the samples."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        texts = [(SAMPLES / name).read_text() for name in ("report.txt", "article.txt", "minutes.txt")]
        words = re.findall(r"[A-Za-z]+(?:-[a-z]+)?", "\n".join(texts))
        self._words = words
        self._after: dict[str, list[str]] = defaultdict(list)
        for word, following in pairwise(words):
            self._after[word].append(following)

    def page(self, number: int, title: str) -> str:
        """A content stream."""
        parts = [_shown(72, 750, title, "B", 8), _shown(520, 750, f"Page {number}", "B", 8)]
        height = 720.0
        if number % 3 == 0:
            parts.append(self._table(height))
            height -= 15 * 13
        while height > 100:
            parts.append(_shown(72, height, self._sentence(5).rstrip("."), "B", 12))
            lines = self._paragraph(min(12, int((height - 80) / 13)))
            parts += [_set(72, height - 16 - 13 * place, line) for place, line in enumerate(lines)]
            height -= 16 + 13 * len(lines) + 10
        return "\n".join(parts)

    def _sentence(self, length: int) -> str:
        word = self._chance.choice(self._words)
        words = [word.capitalize()]
        for _ in range(length - 1):
            word = self._chance.choice(self._after[word] or self._words)
            words.append(word if self._chance.random() > 0.04 else f"{self._chance.randint(1, 99_999):,}")
        return " ".join(words) + "."

    def _paragraph(self, lines: int) -> list[str]:
        words: list[str] = []
        filled, line = list[str](), ""
        while len(filled) < lines:
            words = words or self._sentence(self._chance.randint(8, 26)).split()
            if len(line) + len(words[0]) > CHARACTERS_A_LINE:
                filled.append(line)
                line = ""
            line += f" {words.pop(0)}" if line else words.pop(0)
        return filled

    def _table(self, top: float) -> str:
        parts = []
        for row in range(12):
            height = top - 13 * row
            parts.append(f"72 {height - 3:g} 468 0.5 re f")
            parts.append(_shown(74, height, self._sentence(3).rstrip("."), "F", 9))
            figures = [f"{self._chance.randint(1, 9_999_999):,}" for _ in range(4)]
            parts += [_shown(290 + 65 * place, height, one, "F", 9) for place, one in enumerate(figures)]
        return "\n".join(parts)


def _shown(left: float, height: float, line: str, font: str, size: float) -> str:
    return f"BT /{font} {size:g} Tf {left:g} {height:g} Td ({line}) Tj ET"


def _set(left: float, height: float, line: str) -> str:
    """As a typesetter does: pairs of letters moved, words apart by numbers instead of spaces."""
    words = "-260".join(f"({word[:2]})8({word[2:]})" for word in line.split())
    return f"BT /F 10 Tf {left:g} {height:g} Td [{words}] TJ ET"
