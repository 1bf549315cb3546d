"""The `pdf-ingest` command.

What one command alone needs is imported in it: most are a question to a service and need HTTP only.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from app.local.client import Client, RequestRefused, ServiceUnreachable
from app.local.failures import Failure
from app.local.progress_bars import ingest_files, pdfs_in
from app.local.terminal import (
    LogPrinter,
    print_comparison,
    print_document_lines,
    print_documents,
    print_evaluation,
    print_field_lines,
    print_fields,
    print_hit_lines,
    print_hits,
    print_json,
    print_key_lines,
    print_keys,
    print_verdicts,
    verdicts_as_json,
)

if TYPE_CHECKING:
    from app.config import Settings
    from app.local.stack import Stack

T = TypeVar("T")

cli = typer.Typer(
    help="Take PDFs over HTTP, make them searchable, end every one in a true verdict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

Url = Annotated[str, typer.Option(envvar="PDF_INGEST_URL", help="Where the service runs.")]
Collection = Annotated[str | None, typer.Option(help="Only this collection.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_URL = "http://127.0.0.1:8000"
BRING_ALONG_SECONDS = 60.0  # the service waits for `migrate`; a million chunks take half an hour
DURATIONS = {"d": "days", "h": "hours", "m": "minutes"}
Mode = Annotated[Literal["hybrid", "vector", "text"], typer.Option(help="By meaning, by words, or both.")]
STATUS_LIMIT = 20
# For its programs. What the environment has by these names may be meant for something else altogether.
SET_BY_STACK = (
    *("database_url", "celery_broker_url", "celery_result_backend"),
    *("storage_url", "secret_key_file"),
)


def _duration(text: str) -> timedelta:
    """Of `90d`, `12h` or `30m`. Raises BadParameter."""
    if not re.fullmatch(r"[1-9][0-9]{0,5}[dhm]", text):
        raise typer.BadParameter("must be a number of days, hours or minutes, as 90d, 12h or 30m")
    return timedelta(**{DURATIONS[text[-1]]: int(text[:-1])})


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


@cli.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the API on 127.0.0.1.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder that keeps everything.")] = Path(".data"),
    workers: Annotated[int, typer.Option(min=1, help="Processes of the worker.")] = 2,
) -> None:
    """Run the whole service here: Postgres, Valkey, a worker and the API, until Ctrl-C."""
    from app.local.stack import Stack

    _check_settings_of_stack()
    stack = Stack(data_dir, port=port, workers=workers, say=LogPrinter(console))
    _run(_serve(stack), hurry=stack.hurry)


@cli.command()
def demo() -> None:
    """Ingest sample PDFs on a stack of its own, search them, stop everything."""
    from app.local.demo import run_demo

    _check_settings_of_stack()
    if not _run(run_demo(console)):
        raise typer.Exit(1)


@cli.command()
def chaos(
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given more than once. Default: all.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=8, help="Documents in each scenario. [default: 60, or 14 with --short]")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same documents and choices for the same seed.")] = 1,
    short: Annotated[bool, typer.Option("--short", help="A minute or two instead of twenty.")] = False,
    json: Annotated[Path | None, typer.Option(help="File for the figures.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for what the stack says.")] = None,
) -> None:
    """Kill, stop and empty every part of a stack of its own, and count that nothing is lost."""
    try:
        from app.local.chaos.run import run_chaos
        from app.local.chaos.scenarios import SCENARIOS, choose
    except ModuleNotFoundError:
        _refuse("There is no chaos in the container image; `make chaos` runs it in a checkout.")

    scenarios = choose(scenario or [], is_short=short)
    if not scenarios:
        _refuse(f"The scenarios are: {', '.join(one.name for one in SCENARIOS)}.")
    run = run_chaos(
        console,
        scenarios=scenarios,
        documents=documents,
        seed=seed,
        is_short=short,
        json_file=json,
        log_file=log,
    )
    if not _run(run):
        raise typer.Exit(1)


@cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def bench(context: typer.Context) -> None:
    """Measure how fast everything is, on stacks of its own; `bench --help` tells what can be measured."""
    from app.local.stack import PROJECT

    if not (PROJECT / "benchmarks").is_dir():
        _refuse("There are no benchmarks in the container image; `make bench` runs them in a checkout.")
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "benchmarks", *context.args]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})  # noqa: S606 - without a shell


@cli.command()
def migrate() -> None:
    """Bring the tables of DATABASE_URL and what is in them up to date, and make the key of SECRET_KEY_FILE.

    Documents of older versions are brought along in steps, while a running service goes on.
    """
    from alembic import command
    from alembic.config import Config

    from app.config import settings_or_exit
    from app.errors import DatabaseUnavailable, TenantRoleRefused
    from app.local.stack import PROJECT
    from app.logs import configure_logging
    from app.storage.passwords import make_key_file

    settings = settings_or_exit()
    if settings.secret_key is None and settings.secret_key_file is not None:
        make_key_file(settings.secret_key_file)
    try:
        command.upgrade(Config(PROJECT / "alembic.ini"), "head")
        configure_logging(settings.log_level, settings.log_format)
        asyncio.run(_bring_along(settings))
    except TenantRoleRefused as error:
        _refuse(error.message)
    except (OSError, DatabaseUnavailable) as error:
        _refuse(f"The database of DATABASE_URL cannot be migrated: {str(error).rstrip('.')}.")


@cli.command()
def ingest(  # noqa: PLR0913 - the options of the command
    paths: Annotated[list[Path], typer.Argument(exists=True, help="PDFs, or folders with PDFs.")],
    *,
    collection: Annotated[str, typer.Option(help="The collection they go to.")] = "default",
    password: Annotated[
        str | None, typer.Option(envvar="PDF_INGEST_PASSWORD", help="Opens those that are encrypted.")
    ] = None,
    ask_password: Annotated[
        bool,
        typer.Option("--ask-password", help="Ask for the password, so that no list of processes shows it."),
    ] = False,
    on_duplicate: Annotated[
        Literal["return", "replace", "keep"], typer.Option(help="What to do with a file that is there.")
    ] = "return",
    at_once: Annotated[int, typer.Option(min=1, help="Files in work at the same time.")] = 8,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload PDFs and wait for their verdicts. The exit code is 0 when all succeeded."""
    files = pdfs_in(paths)
    if not files:
        _refuse("There is no PDF in the folders named.")
    fields = {"collection": collection, "on_duplicate": on_duplicate}
    if ask_password:
        password = typer.prompt("Password", hide_input=True, err=True)
    if password is not None:
        fields["password"] = password
    ingesting = partial(
        ingest_files, paths=files, fields=fields, at_once=at_once, console=errors if as_json else console
    )
    verdicts = _ask(url, ingesting)
    if as_json:
        print_json(verdicts_as_json(verdicts))
    else:
        print_verdicts(console, verdicts)
    if not all(verdict.is_success for verdict in verdicts):
        raise typer.Exit(1)


@cli.command()
def search(  # noqa: PLR0913 - the options of the command
    query: Annotated[str, typer.Argument(help="A question or some words.")],
    *,
    collection: Collection = None,
    document: Annotated[
        list[UUID] | None, typer.Option(help="Only this document; may be given more than once.")
    ] = None,
    filter: Annotated[  # noqa: A002 - the contract's word
        dict[str, Any] | None,
        typer.Option(parser=json.loads, metavar="JSON", help="Only documents that this fits, as over HTTP."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="The most hits to show.")] = 5,
    mode: Mode = "hybrid",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Find text, with the file and the page it is on. Piped: a line a hit, with tabs between its fields."""
    request: dict[str, Any] = {"query": query, "limit": limit, "mode": mode, "collection": collection}
    if document:
        request["document_ids"] = [str(one) for one in document]
    if filter is not None:
        request["filter"] = filter
    found = _ask(url, lambda client: client.search(request))
    hits = found["data"]
    _show(found, as_json, lambda: print_hits(console, hits, query), lambda: print_hit_lines(hits))


@cli.command("evaluate")
def evaluate_search(  # noqa: PLR0913 - the options of the command
    questions: Annotated[Path, typer.Argument(help="Questions with known pages; docs/search.md tells how.")],
    *,
    mode: Mode = "hybrid",
    k: Annotated[int, typer.Option(min=1, max=50, help="Distinct pages that count.")] = 10,
    collection: Collection = None,
    within: Annotated[
        bool, typer.Option("--within", help="Search within each document of the question, not in all.")
    ] = False,
    names: Annotated[
        Path | None, typer.Option(help="JSON object: name of a file in the questions, name in the service.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare, question by question, with this earlier result.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, as JSON.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Measure the search with questions whose pages are known."""
    from app.local import evaluate as evaluation

    async def work() -> None:
        earlier = evaluation.read_evaluation(against) if against else None
        request = {"mode": mode} | ({"collection": collection} if collection else {})
        async with Client(url) as client:
            found = await evaluation.evaluate(
                client,
                evaluation.read_questions(questions),
                names=evaluation.read_names(names) if names else {},
                request=request,
                k=k,
                within=within,
                watch=lambda cases: track(cases, "asking", console=errors, transient=True),
            )
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            print_evaluation(console, found)
        if out:
            evaluation.write_evaluation(found, out)
        if earlier:
            print_comparison(errors if as_json else console, *evaluation.compare(found, earlier))

    _run(work())


@cli.command()
def status(
    identifier: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A document's or a task's.")
    ] = None,
    collection: Collection = None,
    limit: Annotated[int, typer.Option(min=1, help="The most documents to show.")] = STATUS_LIMIT,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show the documents and how well reading is confined, or one document or task.

    Piped: a line a document, with tabs between its fields.
    """
    if identifier is not None:
        one = _ask(url, lambda client: _document_or_task(client, identifier))
        _show(one, as_json, lambda: print_fields(console, one), lambda: print_field_lines(one))
        return
    filters = {"limit": min(limit, 500)} | ({"collection": collection} if collection else {})
    documents, ready = _ask(url, lambda client: _documents_and_health(client, limit, filters))
    sandbox = {"sandbox": ready["sandbox"]}

    def print_tables() -> None:
        print_documents(console, documents)
        print_fields(console, sandbox)

    _show({"data": documents} | sandbox, as_json, print_tables, lambda: print_document_lines(documents))


@cli.command()
def retry(
    code: Annotated[
        list[str] | None, typer.Option(help="Only what failed with this code; may be given more than once.")
    ] = None,
    collection: Collection = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Ingest all failed documents again."""
    named = {"collection": collection, "codes": code}
    filters = {name: value for name, value in named.items() if value}
    count = _ask(url, lambda client: client.retry_failed(**filters))
    if as_json:
        print_json({"count": count})
    else:
        console.print(f"{count} documents are ingested again.")


keys = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True)
cli.add_typer(keys, name="keys")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits and ._-")],
    *,
    scopes: Annotated[str, typer.Option(help="Of read, write and admin, with commas.")] = "read,write",
    collections: Annotated[
        str | None,
        typer.Option(help="Names or patterns (reports*), with commas; all else is hidden from the key."),
    ] = None,
    expires: Annotated[
        timedelta | None, typer.Option(parser=_duration, metavar="DURATION", help="As 90d, 12h or 30m.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="As requests_per_minute=60 or pages_per_month=1000; may be given more than once."),
    ] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Make a key and print its secret, this once only. The first key must have the scope admin."""
    wanted: dict[str, Any] = {"name": name, "scopes": _listed(scopes)}
    if collections is not None:
        wanted["collections"] = _listed(collections)
    if limit:
        wanted["limits"] = {name: number for name, _, number in (one.partition("=") for one in limit)}
    if expires is not None:
        wanted["expires_at"] = (datetime.now(UTC) + expires).isoformat()
    key = _ask(url, lambda client: client.create_key(wanted))
    if as_json:
        print_json(key)
    else:
        errors.print(f"Key {key['id']} of {name}; what follows is shown this once only:")
        sys.stdout.write(f"{key['secret']}\n")  # alone, for a file or a variable


@keys.command("list")
def list_keys(*, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show the keys ever made. Piped: a line a key, with tabs between its fields."""
    found = _ask(url, lambda client: _first(None, client.list_keys()))
    _show({"data": found}, as_json, lambda: print_keys(console, found), lambda: print_key_lines(found))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[UUID, typer.Argument(help="The key's id.")], *, url: Url = DEFAULT_URL
) -> None:
    """Revoke a key: within 2 seconds it opens nothing any more."""
    _ask(url, lambda client: client.revoke_key(str(key_id)))


def main() -> None:
    cli(prog_name="pdf-ingest")


def _check_settings_of_stack() -> None:
    """Before anything is started."""
    from app.config import Settings, settings_or_exit

    settings_or_exit(**{name: Settings.model_fields[name].default for name in SET_BY_STACK})


async def _serve(stack: "Stack") -> None:
    async with stack:
        stack.say("stack", f"ready: {stack.url} in a browser, {stack.url}/docs for the API; Ctrl-C ends all")
        await asyncio.Event().wait()


def _ask(url: str, question: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    async def work() -> T:
        async with Client(url) as client:
            return await question(client)

    return _run(work())


def _show(answer: object, as_json: bool, to_people: Callable[[], None], to_pipe: Callable[[], None]) -> None:
    if as_json:
        print_json(answer)
    elif console.is_terminal:
        to_people()
    else:
        to_pipe()


async def _document_or_task(client: Client, identifier: str) -> dict[str, Any]:
    try:
        return await client.document(identifier)
    except RequestRefused as refusal:
        if refusal.code not in {"document_not_found", "invalid_request"}:
            raise
    return await client.task(identifier)


async def _documents_and_health(
    client: Client, limit: int, filters: dict[str, str | int]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return await _first(limit, client.documents(**filters)), await client.ready()


async def _first(limit: int | None, items: AsyncIterator[T]) -> list[T]:
    found: list[T] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found


def _run(work: Coroutine[Any, Any, T], *, hurry: Callable[[], None] | None = None) -> T:
    """Run until the end or until a signal; what can be expected to fail is told in one sentence.

    A signal cancels the work; with `hurry` it is the way to end it, and a second one calls `hurry`.
    """
    try:
        return asyncio.run(_until_signal(work, hurry or (lambda: None)))
    except asyncio.CancelledError:
        raise typer.Exit(130 if hurry is None else 0) from None
    except Failure as error:
        _refuse(str(error))
    except ExceptionGroup as group:  # of files that were uploaded side by side
        expected, others = group.split((ServiceUnreachable, RequestRefused))
        if others is not None or expected is None:
            raise
        _refuse(str(expected.exceptions[0]))


async def _until_signal(work: Coroutine[Any, Any, T], hurry: Callable[[], None]) -> T:
    task = asyncio.create_task(work)

    def stop() -> None:
        if task.cancelling():
            hurry()
        else:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await task


async def _bring_along(settings: "Settings") -> None:
    """Add what data of older versions lacks, within a minute or so. Raises DatabaseUnavailable."""
    from app.services.backfill import all_duties, begin_backfill
    from app.storage.database import Database
    from app.storage.languages import open_text_search

    database = Database(settings.database_url, is_pgbouncer=settings.database_pgbouncer)
    try:
        text_search = await open_text_search(database, settings.text_search_languages)
        duties = all_duties(database, text_search)
        await begin_backfill(database, *duties, seconds=BRING_ALONG_SECONDS)
    finally:
        await database.close()


def _refuse(message: str) -> NoReturn:
    errors.print(Text(message), soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
