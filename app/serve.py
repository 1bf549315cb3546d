"""The API on one port, in as many processes as API_PROCESSES says: `python -m app.serve --port 8000`.

uvicorn starts them and starts again what dies. What it leaves open is here: counts that all keep together,
the end of all with their parent, and one kind of log line.
"""

import argparse
import gc
import multiprocessing
import os
import signal
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

import uvicorn

from app.config import settings_or_exit
from app.logs import configure_logging
from app.metrics import shared_counts

if TYPE_CHECKING:
    from fastapi import FastAPI

# Python's 700 are there again and again with requests under way. Then it looks through all objects for
# cycles, which with 2,000 streams open takes 0.6 s, in which nobody is answered, and finds 0 to 600 to free.
OBJECTS_BETWEEN_COLLECTIONS = 20_000


def main() -> None:
    options = _options()
    settings = settings_or_exit()
    configure_logging(settings.log_level, settings.log_format)
    with shared_counts() if settings.api_processes > 1 else nullcontext():
        uvicorn.run(
            "app.serve:create_app",
            factory=True,
            workers=settings.api_processes,
            host=options.host,
            port=options.port,
            timeout_graceful_shutdown=options.timeout_graceful_shutdown,
            timeout_worker_healthcheck=30,  # a busy machine may need more than uvicorn's 5 s to start one
            http="app.api.connections:TimedHTTP",
            access_log=False,
            log_config=None,
        )


def create_app() -> "FastAPI":
    """In each process."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)  # first: 0.3 s of importing the rest is looking for cycles
    from app import main as application  # not in the parent of several, which serves nothing

    threading.Thread(target=_end_with_parent, daemon=True).start()
    return application.create_app()


def _end_with_parent() -> None:
    """Or the port would stay taken: who kills the parent means all of them."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app.serve", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--timeout-graceful-shutdown", type=int, default=5, metavar="SECONDS")
    return parser.parse_args()


if __name__ == "__main__":
    main()
