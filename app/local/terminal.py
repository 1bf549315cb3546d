"""What the command line prints: lines of the stack, verdicts, hits, documents.

For people in a terminal; for programs, behind a pipe, a line each with tabs between its fields.
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.local.progress_bars import Verdict

if TYPE_CHECKING:
    from app.local.evaluate import Difference, Evaluation, Outcome

SHORTEST_MARKED_WORD = 4
ID_CHARACTERS = 36
_COLOURS = {"postgres": "blue", "valkey": "magenta", "worker": "green", "api": "cyan", "stack": "bold"}


class LogPrinter:
    """Prints lines with the name of the program that wrote them. A closed terminal is no error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_open = True

    def __call__(self, name: str, line: str) -> None:
        if not self._is_open:
            return
        try:
            prefix = Text(f"{name:>8} | ", style=_COLOURS.get(name, "dim"))
            self._console.print(prefix + Text.from_ansi(line), soft_wrap=True, highlight=False)
        except OSError:
            self._is_open = False


def print_verdicts(console: Console, verdicts: Iterable[Verdict]) -> None:
    """A line for each file, then a sentence for each that failed."""
    table = Table("file", "verdict", "pages", "chunks", "seconds", box=None, header_style="bold")
    for column in table.columns[2:]:
        column.justify = "right"
    failures = []
    for verdict in verdicts:
        name = printable(verdict.path.name)
        code = Text(verdict.code, style="green" if verdict.is_success else "red")
        counts = (str(count or "") for count in (verdict.pages, verdict.chunks))
        table.add_row(Text(name), code, *counts, f"{verdict.seconds:.1f}")
        if not verdict.is_success:
            failures.append(Text.assemble((name, "bold"), f": {verdict.message}"))
    console.print(table)
    for failure in failures:
        console.print(failure, soft_wrap=True)


def print_json(value: object) -> None:
    """As it is, on one line, whatever the terminal."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def verdicts_as_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    return [asdict(verdict) | {"path": printable(str(verdict.path))} for verdict in verdicts]


def print_lines(rows: Iterable[Iterable[object]]) -> None:
    """A row on one line, with tabs between its fields: what is white in a field is a space."""
    for row in rows:
        fields = ("" if field is None else " ".join(str(field).split()) for field in row)
        sys.stdout.write("\t".join(fields) + "\n")


def print_hit_lines(hits: list[dict[str, Any]]) -> None:
    names = ("document_id", "chunk_id", "page_start", "page_end", "score", "filename", "heading", "text")
    print_lines([hit[name] for name in names] for hit in hits)


def print_document_lines(documents: Iterable[dict[str, Any]]) -> None:
    names = ("document_id", "status", "code", "collection", "pages", "chunks", "filename")
    coded = ({**document, "code": (document["error"] or {}).get("code")} for document in documents)
    print_lines([document[name] for name in names] for document in coded)


def print_field_lines(fields: dict[str, Any]) -> None:
    print_lines((name, _in_words(value)) for name, value in fields.items() if value not in (None, [], {}))


def print_hits(console: Console, hits: list[dict[str, Any]], query: str) -> None:
    """Each hit's place, heading and text, the words of the query marked in it."""
    if not hits:
        console.print("Nothing was found.")
    words = {word for word in re.findall(r"\w+", query) if len(word) >= SHORTEST_MARKED_WORD}
    for hit in hits:
        first, last = hit["page_start"], hit["page_end"]
        pages = f"page {first}" if first == last else f"pages {first}-{last}"
        where = f", {pages}" + (f", {hit['heading']}" if hit["heading"] else "")
        place = Text.assemble((hit["filename"], "bold"), where, (f"  score {hit['score']:.4f}", "dim"))
        text = Text("  " + " ".join(hit["text"].split()))
        text.highlight_words(words, style="yellow", case_sensitive=False)
        console.print(place, soft_wrap=True)
        console.print(text, soft_wrap=True)


def printable(name: str) -> str:
    """A file's name without the bytes that are no text."""
    return name.encode(errors="replace").decode()


def print_documents(console: Console, documents: Iterable[dict[str, Any]]) -> None:
    table = Table(
        "document", "file", "collection", "status", "pages", "chunks", box=None, header_style="bold"
    )
    table.columns[0].no_wrap, table.columns[0].min_width = True, ID_CHARACTERS  # never cut
    for column in table.columns[4:]:
        column.justify = "right"
    for document in documents:
        status = Text(document["status"], style="red" if document["status"] == "failed" else "")
        if document["error"]:
            status += Text(f" ({document['error']['code']})")
        counts = (str(document[name] or "") for name in ("pages", "chunks"))
        table.add_row(
            document["document_id"], Text(document["filename"]), Text(document["collection"]), status, *counts
        )
    console.print(table)


KEY_FIELDS = ("id", "name", "prefix", "scopes", "collections", "expires_at", "last_used_at", "revoked_at")


def print_keys(console: Console, keys: Iterable[dict[str, Any]]) -> None:
    table = Table(*(name.removesuffix("_at") for name in KEY_FIELDS), box=None, header_style="bold")
    table.columns[0].no_wrap, table.columns[0].min_width = True, ID_CHARACTERS
    for key in keys:
        table.add_row(*(Text("" if key[name] is None else _in_words(key[name])) for name in KEY_FIELDS))
    console.print(table)


def print_key_lines(keys: Iterable[dict[str, Any]]) -> None:
    rows = ([key[name] for name in KEY_FIELDS] for key in keys)
    print_lines([None if field is None else _in_words(field) for field in row] for row in rows)


def print_fields(console: Console, fields: dict[str, Any]) -> None:
    """One document or one task, a line a field; what is empty is left out."""
    table = Table(box=None, show_header=False)
    for name, value in fields.items():
        if value not in (None, [], {}):
            table.add_row(Text(name, style="bold"), Text(_in_words(value)))
    console.print(table)


def print_evaluation(console: Console, evaluation: "Evaluation") -> None:
    """The scores, the time of a search, and a line for each question that was missed."""
    missed = evaluation.missed
    for outcome in missed:
        console.print(_miss(outcome), soft_wrap=True)
    table = Table("score", "", "95 % interval", box=None, header_style="bold")
    for name, score in evaluation.scores.items():
        table.add_row(name, f"{score.value:.3f}", f"{score.low:.3f} to {score.high:.3f}")
    console.print(table)
    milliseconds = {name: f"{seconds * 1000:.0f} ms" for name, seconds in evaluation.seconds.items()}
    console.print(
        f"{len(evaluation.outcomes)} searches, {len(missed)} without a right page among the first "
        f"{evaluation.k}; time of one: median {milliseconds['median']}, p95 {milliseconds['p95']}",
        soft_wrap=True,
    )
    if evaluation.left_out:
        console.print(f"{len(evaluation.left_out)} questions left out: none of their documents is there")


def print_comparison(console: Console, hits: "Difference", ranks: "Difference") -> None:
    """Both in the number of questions, with the p of the exact sign test."""
    for name, one in (("hits", hits), ("ranks", ranks)):
        console.print(
            f"{name} against the earlier result: {one.better} better, {one.worse} worse, {one.equal} equal "
            f"(p = {one.p:.3f})"
        )


def _miss(outcome: "Outcome") -> Text:
    gold = "; ".join(f"{name} {', '.join(map(str, pages))}" for name, pages in outcome.pages.items())
    ranks = f"page {outcome.rank or 'none'}, document {outcome.document_rank or 'none'}"
    return Text.assemble(("missed ", "red"), f"{outcome.id} (rank of {ranks}): {outcome.question} [{gold}]")


def _in_words(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name}: {_in_words(part)}" for name, part in value.items() if part is not None)
        case list():
            return ", ".join(map(_in_words, value))
        case _:
            return str(value)
