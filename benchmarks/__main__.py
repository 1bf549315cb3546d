"""Measures how fast everything is, on stacks of its own, which it starts, fills and removes.

    pdf-ingest bench [SUBJECT …] [--quick] [--pdfs FOLDER] [--write]

Without a subject: ingest, search, status, bridge and growth, in a quarter of an hour on two quiet cores.
`all` adds upload, load and splitting.
"""

import argparse
import importlib
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from app.api.connections import allow_many
from benchmarks.report import Curves, Report, Table, machine, put_into_page
from benchmarks.run import Run

USUAL = ("ingest", "search", "status", "bridge", "growth")
SUBJECTS = (*USUAL, "upload", "load", "splitting")
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pdf-ingest bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subjects", nargs="*", choices=(*SUBJECTS, "all", []), metavar="SUBJECT")
    parser.add_argument("--quick", action="store_true", help="under a minute each; the numbers mean little")
    parser.add_argument(
        "--pdfs", type=Path, metavar="FOLDER", help="measure with these instead of made-up ones"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of ingest and bridge; the middle one counts")
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[], help="sizes of search: 10000 100000 1000000"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where JSON and pictures go")
    parser.add_argument("--write", action="store_true", help="put the results into docs/performance.md")
    return parser.parse_args()


def measured(subject: str, run: Run, command: str) -> Report:
    began, machine_before = time.perf_counter(), machine()
    found = importlib.import_module(f"benchmarks.{subject}").measure(run)
    return Report(
        subject=subject,
        command=command,
        began=datetime.now(UTC).strftime("%Y-%m-%d"),
        seconds=time.perf_counter() - began,
        machine=machine_before,
        tables=[one for one in found if isinstance(one, Table)],
        curves=[one for one in found if isinstance(one, Curves)],
    )


def main() -> None:
    asked = arguments()
    subjects = SUBJECTS if "all" in asked.subjects else tuple(asked.subjects) or USUAL
    console = Console(width=max(150, Console().width))
    errors = Console(stderr=True, highlight=False)
    command = shlex.join(["pdf-ingest", "bench", *sys.argv[1:]])
    out = PAGE.with_suffix("") if asked.write else asked.out
    allow_many()
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="pdf-ingest-bench-") as folder:
            run = Run(
                folder=Path(folder),
                say=partial(errors.print, f"{subject}:", style="dim", markup=False),
                is_quick=asked.quick,
                pdfs=asked.pdfs,
                rounds=asked.rounds,
                chunks=tuple(asked.chunks),
            )
            report = measured(subject, run, command)
        report.show(console)
        if out:
            report.write(out)
        if asked.write:
            put_into_page(PAGE, subject, report.markdown(out.name))
            lines = [f"- {line}" for name, line in report.machine.items() if name != "load before"]
            put_into_page(PAGE, "machine", "\n".join(lines))


if __name__ == "__main__":
    main()
