"""What every subject is told: how much to measure, of which PDFs, and where its files may lie."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One call of the command."""

    folder: Path
    """Empty, and removed afterwards."""
    say: Callable[[str], None]
    is_quick: bool = False
    """Sizes that show that everything works; its numbers mean little."""
    pdfs: Path | None = None
    rounds: int = 1
    chunks: tuple[int, ...] = ()
    """Sizes of libraries; empty: the subject's own."""

    def fresh(self, name: str) -> Path:
        """A new folder, for a stack that must not know another's data."""
        made = self.folder / f"{name}-{sum(1 for _ in self.folder.iterdir())}"
        made.mkdir()
        return made
