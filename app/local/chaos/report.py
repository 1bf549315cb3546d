"""What a chaos run has found, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.local.chaos.audit import percentile


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Of one scenario. Seconds are lists: one entry for each ingestion that a fault has hit."""

    scenario: str
    faults: int
    documents: int
    verdicts: int
    lost: list[str]
    """Accepted, not ended by the scenario itself, and not ready with exactly the chunks it should have."""
    doubled_chunks: int
    wrong_counts: int
    """Documents with more or fewer chunks than they should have."""
    orphans: int
    """Chunks and vectors that belong to nothing."""
    files_left: int
    stuck: int
    embedded_twice: int
    moving_seconds: list[float]
    storing_seconds: list[float]
    unrecovered: int
    seconds: float
    mistakes: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (
            self.lost
            or self.doubled_chunks
            or self.wrong_counts
            or self.orphans
            or self.files_left
            or self.stuck
            or self.mistakes
            or self.documents != self.verdicts
        )


def print_progress(console: Console, outcome: Findings) -> None:
    """A scenario is over; what was wrong in it."""
    verdict = "as it should be" if outcome.is_good else "NOT as it should be"
    how = f"{outcome.faults} faults, {outcome.seconds:.0f} s"
    console.print(Text(f"{outcome.scenario}: {verdict} ({how})"))
    for note in outcome.notes:
        console.print(Text(f"  {note}"))
    for mistake in (*outcome.lost, *outcome.mistakes):
        console.print(Text(f"  {mistake}", style="bold red"))
    if outcome.orphans or outcome.files_left:
        left = f"{outcome.orphans} chunks or vectors and {outcome.files_left} files belong to nothing"
        console.print(Text(f"  {left}", style="bold red"))


def print_outcomes(console: Console, outcomes: Sequence[Findings]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))  # fits into 80 columns
    table.add_column("scenario", no_wrap=True)
    for name in ("docs", "lost", "double", "wrong", "left", "stuck", "again", "p50", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(*_cells(outcome))
    console.print(table)
    console.print(_LEGEND, style="dim")


_LEGEND = """docs: verdicts / documents in. lost, double (chunks), wrong (number of chunks),
left (chunks, vectors, files of nobody) and stuck must be 0. again: texts
embedded more than once. p50, p99, max: seconds from a fault (where something
was taken away: from its return) until the progress of an ingestion that it
hit moves again."""


def _cells(outcome: Findings) -> list[Text | str]:
    must_be_zero = (
        len(outcome.lost),
        outcome.doubled_chunks,
        outcome.wrong_counts,
        outcome.orphans + outcome.files_left,
        outcome.stuck,
    )
    has_all_verdicts = outcome.verdicts == outcome.documents
    return [
        Text(outcome.scenario, style="" if outcome.is_good else "bold red"),
        Text(f"{outcome.verdicts}/{outcome.documents}", style="" if has_all_verdicts else "bold red"),
        *(Text(str(count), style="bold red" if count else "") for count in must_be_zero),
        str(outcome.embedded_twice),
        *(_seconds(percentile(outcome.moving_seconds, share)) for share in (0.5, 0.99, 1)),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def write_json(path: Path, outcomes: Sequence[Findings], *, seed: int) -> None:
    summary: dict[str, Any] = {
        "seed": seed,
        "is_good": all(outcome.is_good for outcome in outcomes),
        "scenarios": [{**asdict(outcome), **_recovery(outcome)} for outcome in outcomes],
    }
    path.write_text(json.dumps(summary, indent=2) + "\n")


def _recovery(outcome: Findings) -> dict[str, Any]:
    return {
        name: {f"p{round(share * 100)}": percentile(values, share) for share in (0.5, 0.99, 1)}
        for name, values in (("moving", outcome.moving_seconds), ("storing", outcome.storing_seconds))
    }
