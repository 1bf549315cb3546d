"""What goes over the wire about the service as a whole."""

from pydantic import BaseModel, Field

from app.api.schemas import Shown
from app.api.task_schemas import ListedTask


class WorkerProcess(Shown):
    """A process that ingests."""

    worker: str | None = Field(
        validation_alias="name", description="Its Celery worker; `null` if that did not answer just now."
    )
    host: str = Field(description="The machine or container it runs on.")
    pid: int = Field(description="Its process id there.")
    task: ListedTask | None = Field(description="What it is working on; `null` when it waits for work.")


class WorkerList(BaseModel):
    """All processes that ingest."""

    data: list[WorkerProcess] = Field(description="The processes.")


class ServiceStats(Shown):
    """Counts of the whole service."""

    documents: dict[str, int] = Field(description="Documents, by their status.")
    pages: int = Field(description="Pages that a search can find.")
    chunks: int = Field(description="Chunks that a search can find.")
    bytes: int = Field(description="Size of all documents' files.")
    tasks: dict[str, int] = Field(description="Tasks that have not ended, by their status.")
    queue_oldest_seconds: float = Field(
        validation_alias="oldest_seconds", description="Age of the oldest task that waits; 0 when none does."
    )
    verdicts: dict[str, int] = Field(description="Tasks that ended, by verdict: `success` or a code.")
    seconds: dict[str, float] = Field(description="Seconds spent on published documents, by stage.")
    pages_per_minute: list[int] = Field(
        validation_alias="minutes",
        description="Pages published in each of the last 60 minutes, the current one last.",
    )
