"""Writes a PDF as long as an annual report, with nothing but Python: `python3 large_pdf.py FILE NAME PAGES`.

Every page says which one it is, in a word of its own: page 7 of "maple" is signed by "maplex7".
The same arguments make the same bytes.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

LINES_A_PAGE = 48
VOCABULARY = (
    "anchor barge beacon breakwater buoy cargo channel chart coast crane crew current customs deck dock "
    "dredger estuary ferry fog freight gale gangway harbour hawser hull inspection jetty keel landing "
    "lantern ledger lighthouse lock mooring night passenger pier pilot port quay repair rope rudder sail "
    "sandbank seaman shore signal storm strait tanker tariff tide timber tonnage tug vessel warehouse "
    "watch wave wharf wind wreck"
)


def lines_of(name: str, page: int) -> list[str]:
    chance = random.Random(f"{name} {page}")
    vocabulary = VOCABULARY.split()
    lines = [f"Harbour log of {name}, page {page}"]
    while len(lines) < LINES_A_PAGE:
        words = [chance.choice(vocabulary) for _ in range(chance.randint(9, 13))]
        lines.append(f"{' '.join(words).capitalize()} {chance.randint(2, 9_999)}.")
    lines[LINES_A_PAGE // 2] = f"Signed by {name}x{page}."  # a running head would be left out by readers
    return lines


def content_of(name: str, page: int) -> bytes:
    shown = "\n".join(f"({line}) Tj T*" for line in lines_of(name, page))
    return f"BT /F1 10 Tf 14 TL 50 790 Td\n{shown}\nET".encode("ascii")


def objects_of(name: str, pages: int) -> Iterator[bytes]:
    """1: catalog, 2: pages, 3: font, then each page and what it shows."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(pages))
    yield b"<< /Type /Catalog /Pages 2 0 R >>"
    yield f"<< /Type /Pages /Count {pages} /Kids [{kids}] >>".encode()
    yield b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    for number in range(pages):
        yield (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        ).encode()
        content = content_of(name, number + 1)
        yield b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)


def pdf(name: str, pages: int) -> bytes:
    written = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects_of(name, pages), start=1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(places) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return bytes(written) + end % (count, table, count, len(written))


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(pdf(sys.argv[2], int(sys.argv[3])))
