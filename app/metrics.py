"""What Prometheus is told: counts of each process, and figures that others read elsewhere.

What the rows in Postgres know (verdicts, pages, the queue) is read from there at each scrape, by the API:
true for all processes and machines. What no row knows, and who did the work, is counted here.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from app.temporary import TemporaryFolder

if TYPE_CHECKING:
    from prometheus_client import Metric

_folders: list[TemporaryFolder] = []

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Where processes of one pool keep their counts. prometheus_client looks at it once, when it is imported: so
# that is done in functions here, after the parent of the pool has chosen a folder.
_SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, or one for each value of a label; `is_total`: it only ever grows."""

    name: str
    meaning: str
    values: Mapping[str, float] | float
    label: str = ""
    is_total: bool = False


class Counters:
    """What this process has done."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter

        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"pdf_ingest_process_{name}", meaning, labels, registry=self.registry)

        self.verdicts = counter("verdicts", "Ingestions ended here, by verdict.", "verdict")
        self.pages = counter("pages", "Pages of documents published here.")
        self.chunks = counter("chunks", "Chunks of documents published here.")
        self.stage_seconds = counter("stage_seconds", "Seconds spent on documents published here.", "stage")
        self.retries = counter("retries", "Ingestions put off after a temporary failure.", "code")
        self.lease_losses = counter(
            "lease_losses", "Ingestions taken away: by another worker, a cancellation or a newer version."
        )
        self.embedding_requests = counter(
            "embedding_requests",
            "Calls of the embedder, by HTTP status, fault, or `ok` (built in).",
            "outcome",
        )
        self.embedding_wait_seconds = counter(
            "embedding_wait_seconds", "Seconds that calls of the embedder waited for their turn."
        )
        self.embeddings_cached = counter("embeddings_cached", "Texts whose vectors were known from before.")
        self.embedding_tokens = counter("embedding_tokens", "Tokens that the embedder says it has read.")


@cache
def counters() -> Counters:
    return Counters()


def exposition(figures: Iterable[Figure]) -> bytes:
    """The counts of this process, or of all that share a folder, and the figures; CONTENT_TYPE."""
    from prometheus_client import generate_latest

    return generate_latest(_Collected(figures))


def serve_counts(port: int) -> None:
    """In the parent of a pool, before it forks: tell the sum of all processes on every address of the host.

    Raises OSError when the port cannot be had.
    """
    _share_counts()
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    counters()  # zeros from the start
    registry = CollectorRegistry(support_collectors_without_names=True)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    server, _ = start_http_server(port, registry=registry)
    os.register_at_fork(after_in_child=server.socket.close)  # a child that outlives us must not keep the port


@contextmanager
def shared_counts() -> Iterator[None]:
    """Processes that are started in this block keep their counts together: each tells the sum."""
    _share_counts()
    try:
        yield
    finally:
        forget_counts()


def _share_counts() -> None:
    if _SHARED_FOLDER not in os.environ:
        _folders.append(TemporaryFolder("metrics"))
        os.environ[_SHARED_FOLDER] = str(_folders[-1].path)


def forget_counts() -> None:
    """At the end of a parent that serves counts: they start from nothing with the next one."""
    if folder := os.environ.pop(_SHARED_FOLDER, None):
        shutil.rmtree(folder, ignore_errors=True)
    while _folders:
        _folders.pop().remove()


class _Collected:
    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator["Metric"]:
        from prometheus_client.multiprocess import MultiProcessCollector

        of_this_process = counters()  # zeros from the start
        if _SHARED_FOLDER in os.environ:
            yield from MultiProcessCollector(None).collect()  # type: ignore[no-untyped-call]
        else:
            yield from of_this_process.registry.collect()
        yield from map(_metric, self._figures)


def _metric(figure: Figure) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    family = CounterMetricFamily if figure.is_total else GaugeMetricFamily
    labels = [figure.label] if figure.label else []
    metric = family(f"pdf_ingest_{figure.name}", figure.meaning, labels=labels)
    values = figure.values if isinstance(figure.values, Mapping) else {"": figure.values}
    for value_of_label, value in values.items():
        metric.add_metric([value_of_label] if labels else [], value)
    return metric
