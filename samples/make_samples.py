"""Builds the sample PDFs from the texts beside it; the same bytes every time.

    python samples/make_samples.py [folder]

`# ` begins a chapter on a new page, `## ` a section, `@table` stands for the table of the report; every other
line is a paragraph.
"""

import random
import sys
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import AccessPermission, EncryptionMethod, TableCellFillMode

HERE = Path(__file__).parent
PASSWORD = "lighthouse"  # noqa: S105 - of a sample
QUARTERS = (
    ("Quarter", "Turbine 1 (MWh)", "Turbine 2 (MWh)", "Turbine 3 (MWh)", "Together (MWh)"),
    ("January to March", "1,702", "388", "1,911", "4,001"),
    ("April to June", "1,205", "1,260", "1,302", "3,767"),
    ("July to September", "1,388", "1,451", "1,407", "4,246"),
    ("October to December", "2,041", "2,118", "2,091", "6,250"),
)


class Sample(FPDF):
    """A page with a running foot, in the fonts that every PDF reader has."""

    def __init__(self, title: str, language: str) -> None:
        super().__init__(format=(148, 210))
        self.set_title(title)
        self.set_lang(language)
        self.set_creation_date(datetime(2026, 11, 20, tzinfo=UTC))
        self.set_producer("fpdf2")
        self.set_compression(False)  # readable, and independent of the zlib at hand
        self.set_margin(16)
        self.set_auto_page_break(True, 20)
        self._running_title = title

    def footer(self) -> None:
        self.set_y(-13)
        self.set_font("Helvetica", size=8)
        self.cell(0, 5, f"{self._running_title}  -  {self.page_no()}", align="C")

    def chapter(self, title: str) -> None:
        self.add_page()
        self.start_section(title)
        self.set_font("Helvetica", "B", 18)
        self.multi_cell(0, 9, title, align="L", new_x="LMARGIN", new_y="NEXT")
        self.ln(4)

    def section(self, title: str) -> None:
        if self.will_page_break(30):  # no heading alone at the foot of a page
            self.add_page()
        self.start_section(title, level=1)
        self.ln(3)
        self.set_font("Helvetica", "B", 13)
        self.multi_cell(0, 7, title, align="L", new_x="LMARGIN", new_y="NEXT")
        self.ln(1)

    def paragraph(self, text: str) -> None:
        self.set_font("Times", size=11)
        self.multi_cell(0, 5.6, text, align="L", new_x="LMARGIN", new_y="NEXT")
        self.ln(2.5)

    def output_table(self) -> None:
        self.set_font("Helvetica", size=8)
        looks = {"cell_fill_color": 238, "cell_fill_mode": TableCellFillMode.ROWS}
        with self.table(col_widths=(30, 21, 21, 21, 23), text_align="LEFT", **looks) as table:
            for row in QUARTERS:
                table.row(row)
        self.ln(4)


def lines_of(name: str) -> list[str]:
    return (HERE / name).read_text(encoding="utf-8").split("\n")[:-1]


def one_column(source: str, language: str) -> Sample:
    lines = lines_of(source)
    sample = Sample(lines[0].removeprefix("# "), language)
    for line in lines:
        match line.split(" ", 1):
            case ["#", title]:
                sample.chapter(title)
            case ["##", title]:
                sample.section(title)
            case ["@table"]:
                sample.output_table()
            case _ if line:
                sample.paragraph(line)
    return sample


def two_columns(source: str, language: str) -> Sample:
    title, *lines = lines_of(source)
    sample = Sample(title.removeprefix("# "), language)
    sample.chapter(title.removeprefix("# "))
    with sample.text_columns(ncols=2, gutter=7, text_align="J") as columns:
        for line in lines:
            is_heading = line.startswith("## ")
            sample.set_font("Helvetica" if is_heading else "Times", "B" if is_heading else "", 10)
            if line:
                columns.write(line.removeprefix("## ") + "\n" + ("" if is_heading else "\n"))
    return sample


def damaged(whole: bytes) -> bytes:
    """The first bytes are a PDF's; from there on noise, as after a disk fault."""
    return whole[:64] + random.Random(7).randbytes(len(whole) - 64)  # noqa: S311 - only noise


def build(folder: Path) -> None:
    report = bytes(one_column("report.txt", "en").output())
    (folder / "annual-report.pdf").write_bytes(report)
    (folder / "salt-marsh-article.pdf").write_bytes(bytes(two_columns("article.txt", "en").output()))
    (folder / "wildbienen.pdf").write_bytes(bytes(one_column("bericht.txt", "de").output()))
    (folder / "damaged.pdf").write_bytes(damaged(report))
    minutes = one_column("minutes.txt", "en")
    # RC4, since AES starts from random bytes and would give another file each time.
    minutes.set_encryption(
        "owner of the lighthouse",
        PASSWORD,
        EncryptionMethod.RC4,
        AccessPermission.none(),
        encrypt_metadata=True,
    )
    (folder / "board-minutes-locked.pdf").write_bytes(bytes(minutes.output()))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
