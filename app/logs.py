"""How log lines look: readable in a terminal, JSON elsewhere. Our lines and the libraries' alike."""

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Literal, TextIO

import structlog
from structlog.typing import ExcInfo, Processor

MAX_REQUEST_ID_CHARACTERS = 128

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MAX_REQUEST_ID_CHARACTERS}}}")

# Libraries whose errors quote what they were given: texts of documents, passwords, whole rows.
_QUOTE_VALUES = frozenset({"asyncpg", "fastapi", "pydantic", "pydantic_core", "sqlalchemy"})

LogFormat = Literal["auto", "console", "json"]


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Send everything to stderr; `auto` is `console` in a terminal and `json` elsewhere."""
    is_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)]
        if is_console
        else [structlog.processors.ExceptionRenderer(_traceback), structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Celery's own lines for each task say what ours say, and one of them has the whole result.
    for chatty in ("httpx", "httpcore", "celery.redirected", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel("WARNING")
    for own_handlers in ("uvicorn", "uvicorn.error"):
        logging.getLogger(own_handlers).handlers = []
        logging.getLogger(own_handlers).propagate = True


def sane_request_id(given: object) -> str | None:
    """The id of a request as somebody else gave it, if it can stand in a log line."""
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else None


def _write_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    stream.write("\n" + _traceback(exc_info))


def _traceback(exc_info: ExcInfo) -> str:
    return "".join(_traceback_lines(exc_info[1])).rstrip("\n")


def _traceback_lines(error: BaseException, seen: frozenset[int] = frozenset()) -> Iterator[str]:
    """As Python prints it, but without messages that may quote a document, and never with variables."""
    seen |= {id(error)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _traceback_lines(cause, seen)
        yield "\nwhich led to:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{_name(error)}: {_message(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield "\nof the group:\n\n"
            yield from _traceback_lines(one, seen)


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    if type(error).__module__.partition(".")[0] not in _QUOTE_VALUES:
        return str(error)
    known = {name: getattr(error, name, None) for name in ("sqlstate", "constraint_name")}
    facts = [f"{name} {value}" for name, value in known.items() if isinstance(value, str)]
    return ", ".join(["(the message may quote a document and is not logged)", *facts])
