"""What goes over the wire about the service as a whole."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, Field

from app.api.schemas import ListedTask
from app.services.figures import Stats
from app.services.roster import Worker


class WorkerProcess(BaseModel):
    """A process that ingests."""

    worker: str | None = Field(description="Its Celery worker; `null` if that did not answer just now.")
    host: str = Field(description="The machine or container it runs on.")
    pid: int = Field(description="Its process id there.")
    task: ListedTask | None = Field(description="What it is working on; `null` when it waits for work.")


class WorkerList(BaseModel):
    """All processes that ingest."""

    data: list[WorkerProcess] = Field(description="The processes.")

    @classmethod
    def of(cls, workers: Sequence[Worker]) -> Self:
        return cls(
            data=[
                WorkerProcess(
                    worker=one.name,
                    host=one.host,
                    pid=one.pid,
                    task=None if one.task is None else ListedTask.of(one.task),
                )
                for one in workers
            ]
        )


class ServiceStats(BaseModel):
    """Counts of the whole service."""

    documents: dict[str, int] = Field(description="Documents, by their status.")
    pages: int = Field(description="Pages that a search can find.")
    chunks: int = Field(description="Chunks that a search can find.")
    bytes: int = Field(description="Size of all documents' files.")
    tasks: dict[str, int] = Field(description="Tasks that have not ended, by their status.")
    queue_oldest_seconds: float = Field(description="Age of the oldest task that waits; 0 when none does.")
    verdicts: dict[str, int] = Field(description="Tasks that ended, by verdict: `success` or a code.")
    seconds: dict[str, float] = Field(description="Seconds spent on published documents, by stage.")
    pages_per_minute: list[int] = Field(
        description="Pages published in each of the last 60 minutes, the current one last."
    )

    @classmethod
    def of(cls, stats: Stats) -> Self:
        return cls(
            queue_oldest_seconds=stats.oldest_seconds,
            pages_per_minute=stats.minutes,
            documents=stats.documents,
            pages=stats.pages,
            chunks=stats.chunks,
            bytes=stats.bytes,
            tasks=stats.tasks,
            verdicts=stats.verdicts,
            seconds=stats.seconds,
        )
