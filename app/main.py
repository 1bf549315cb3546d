"""The FastAPI application; `app.serve` serves it, or `uvicorn --factory app.main:create_app`."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from app.api import (
    collections,
    documents,
    health,
    keys,
    metadata,
    metrics,
    overview,
    page_pictures,
    search,
    tasks,
    usage,
    webhooks,
)
from app.api.bodies import BodyLimit, BodyPace
from app.api.connections import allow_many
from app.api.docs_page import serve_docs
from app.api.openapi import DescribedAPI
from app.api.parameters import refuse_unknown_parameters
from app.api.problems import StartsInWords, answer_errors_with_problems, problem_responses
from app.api.request_ids import RequestIds
from app.api.security import Guard, SecurityHeaders
from app.api.targets import OriginForm
from app.api.web_page import serve_page
from app.config import Settings, settings_or_exit
from app.errors import DatabaseUnavailable, InternalError, InvalidQuery
from app.logs import configure_logging
from app.resources import open_services
from app.services.keys import KeyRing, Keys

DESCRIPTION = """\
Takes PDFs, reads, splits and embeds them in the background, and finds what they say.

1. `POST /documents` stores a PDF and answers at once with a `task_id`.
2. `GET /tasks/{task_id}?wait=30` says how far it is. Every task ends in a verdict: `success`, or an error
   with a stable code, a sentence, and whether trying again can help.
3. `POST /search` finds chunks by meaning and by words, with the pages they are on.

Errors are problem documents (RFC 9457, `application/problem+json`): branch on `code`.
Ids are UUIDs, times are UTC, pages count from 1.
"""
TAGS = [
    {"name": "documents", "description": "Upload PDFs, list, replace and delete them."},
    {"name": "collections", "description": "Where documents belong: make, count, change and delete them."},
    {"name": "tasks", "description": "Where an ingestion stands."},
    {"name": "search", "description": "Find chunks in what is published."},
    {"name": "keys", "description": "Who may ask for what, and what they have asked for."},
    {"name": "webhooks", "description": "Be told of verdicts instead of asking (Standard Webhooks 1.0.0)."},
    {"name": "health", "description": "For whoever runs the service."},
]


class GuardedAPI(DescribedAPI):
    """Ids and security headers go around everything: an answer to an unexpected error has them too."""

    def build_middleware_stack(self) -> ASGIApp:
        return StartsInWords(OriginForm(RequestIds(SecurityHeaders(super().build_middleware_stack()))))


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without settings (as uvicorn calls it) the process's own, logging set up with them."""
    if settings is None:
        settings = settings_or_exit()
        configure_logging(settings.log_level, settings.log_format)
    key_ring = KeyRing.parse(settings.api_keys)
    app = GuardedAPI(
        wants_keys=bool(key_ring),
        title="PDF ingestion",
        version=version("pdf-ingest"),
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info={"name": "MIT", "identifier": "MIT"},
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, settings, key_ring),
        responses=problem_responses(InternalError),
    )
    answer_errors_with_problems(app)
    app.add_middleware(BodyPace)
    app.add_middleware(BodyLimit)  # inside the guard, which is added after it
    app.add_middleware(Guard, allowed_hosts=settings.allowed_hosts)
    modules = (
        tasks,  # asked for most often, and routes are tried one after the other
        search,
        documents,
        collections,
        metadata,
        page_pictures,
        webhooks,
        keys,
        usage,
        overview,
    )
    app.router.routes.append(tasks.PlainPoll())
    for module in modules:
        app.include_router(
            module.router,
            dependencies=[Depends(refuse_unknown_parameters)],
            responses=problem_responses(DatabaseUnavailable, InvalidQuery),
        )
    app.include_router(health.router)
    if settings.metrics_enabled:
        app.include_router(metrics.router)
    serve_docs(app)
    serve_page(app)
    return app


@asynccontextmanager
async def _lifespan(settings: Settings, key_ring: KeyRing, app: FastAPI) -> AsyncIterator[None]:
    allow_many()
    async with open_services(settings) as services:
        app.state.services = services
        app.state.keys = Keys(services.database, key_ring, settings.secret_key)
        app.state.is_draining = False
        with _on_exit_signal(partial(_drain, app), settings.shutdown_drain_seconds, services.progress.stop):
            yield
        await app.state.keys.close()


def __getattr__(name: str) -> FastAPI:
    """`app` is made when a server asks for it (`uvicorn app.main:app`), not on import."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = create_app()
    return app


def _drain(app: FastAPI) -> None:
    """From now on `/readyz` sends new work elsewhere."""
    app.state.is_draining = True


@contextmanager
def _on_exit_signal(
    drain: Callable[[], None], drain_seconds: float, stop: Callable[[], None]
) -> Iterator[None]:
    """When the server is told to go: drain, listen on for a while, stop what waits, then let it go.

    It ends the lifespan only after the last, long-waiting response. Ctrl-C, and a second signal, hurry.
    """
    loop = asyncio.get_running_loop()
    handlers = _signal_handlers()
    is_draining = drain_seconds == 0

    def stop_and_pass_on(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)
        handlers[number](number, frame)

    def drain_first(number: int, frame: FrameType | None) -> None:
        nonlocal is_draining
        if is_draining or number == signal.SIGINT:
            stop_and_pass_on(number, frame)
            return
        is_draining = True
        loop.call_soon_threadsafe(drain)
        loop.call_soon_threadsafe(loop.call_later, drain_seconds, stop_and_pass_on, number, frame)

    for number in handlers:
        signal.signal(number, drain_first)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _signal_handlers() -> dict[int, Callable[[int, FrameType | None], Any]]:
    """The server's handlers of the signals that end it; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: handler for number, handler in handlers.items() if callable(handler)}
