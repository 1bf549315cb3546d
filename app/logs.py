"""How log lines look: readable in a terminal, JSON elsewhere. Our lines and the libraries' alike."""

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

MAX_REQUEST_ID_CHARACTERS = 128

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{MAX_REQUEST_ID_CHARACTERS}}}")

LogFormat = Literal["auto", "console", "json"]


def configure_logging(level: str = "INFO", log_format: LogFormat = "auto") -> None:
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
    # the plain traceback: the other shows the values of variables, passwords of PDFs among them
    traceback = structlog.dev.plain_traceback
    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=traceback)]
        if is_console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
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
