"""What a subject has found: tables and curves, shown in a terminal, kept as JSON, Markdown and pictures."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table as Drawn

from app.local.chaos.audit import percentile
from benchmarks.pictures import Point, curves_svg

Cell = str | float | None
Row = dict[str, Cell]
LIBRARIES = ("fastapi", "celery", "sqlalchemy", "asyncpg", "pgvector", "pypdfium2", "pypdf", "tokenizers")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same columns, whose names carry their unit; `note` says what they need to be understood."""

    title: str
    rows: list[Row]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Curves:
    """Lines over a common x, which is drawn by its logarithm."""

    title: str
    x: str
    y: str
    lines: dict[str, list[Point]]


@dataclass(frozen=True, slots=True)
class Report:
    """One subject, measured once."""

    subject: str
    command: str
    began: str
    seconds: float
    machine: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    curves: list[Curves] = field(default_factory=list)

    def show(self, console: Console) -> None:
        for table in self.tables:
            drawn = Drawn(*table.rows[0], box=None, title=table.title, title_justify="left")
            for row in table.rows:
                drawn.add_row(*map(shown, row.values()))
            console.print(drawn)
            console.print(table.note + "\n", style="dim", soft_wrap=True)

    def write(self, folder: Path) -> None:
        """`SUBJECT.json` and a picture for each of the curves."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.subject}.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        for number, curves in enumerate(self.curves, 1):
            drawn = curves_svg(curves.title, curves.x, curves.y, curves.lines)
            (folder / f"{self.subject}-{number}.svg").write_text(drawn)

    def markdown(self, folder: str) -> str:
        """Everything, with its pictures in `folder`."""
        how = f"`{self.command}`, {self.began}, {self.seconds:.0f} s; {self.machine['load before']}."
        parts = [how, *map(_markdown_table, self.tables)]
        for number, curves in enumerate(self.curves, 1):
            parts.append(f"![{curves.title}]({folder}/{self.subject}-{number}.svg)")
        return "\n\n".join(parts)


def put_into_page(page: Path, subject: str, text: str) -> None:
    """Replace what stands between the marks of the subject; everything else is written by people."""
    marks = rf"(<!-- {subject} -->\n).*?(\n<!-- end of {subject} -->)"
    old = page.read_text()
    if not re.search(marks, old, re.DOTALL):
        raise ValueError(f"{page} has no place for {subject}.")
    page.write_text(re.sub(marks, lambda found: f"{found[1]}{text}{found[2]}", old, flags=re.DOTALL))


def shown(value: Cell) -> str:
    """A number with the three digits that can be trusted; whole from 100 on."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def points(rows: Sequence[Row], x: str, y: str) -> list[Point]:
    """Two columns of numbers as a line."""
    return [(float(row[x] or 0), float(row[y] or 0)) for row in rows]


def latencies(milliseconds: Sequence[float]) -> Row:
    return {f"p{round(100 * share)} ms": percentile(milliseconds, share) for share in (0.5, 0.95, 0.99)}


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "service": f"pdf-ingest {version('pdf-ingest')}, commit {_commit()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "load before": f"load of the machine before: {os.getloadavg()[0]:.1f}",
    }


def _markdown_table(table: Table) -> str:
    columns = list(table.rows[0])
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *[_cells(row) for row in table.rows]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.title}**\n\n{text}" + (f"\n\n{table.note}" if table.note else "")


def _cells(row: Row) -> list[str]:
    return [shown(value) for value in row.values()]


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _commit() -> str:
    command = ("git", "describe", "--always", "--dirty")
    try:
        asked = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"
