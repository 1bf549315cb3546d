"""How the whole service is doing, for people: who works, how much is there, how fast it goes."""

from fastapi import APIRouter

from app.api.dependencies import FiguresDep, RosterDep
from app.api.overview_schemas import ServiceStats, WorkerList, WorkerProcess

router = APIRouter(tags=["health"])


@router.get("/workers")
async def list_workers(roster: RosterDep) -> WorkerList:
    """The processes that work, and what each is doing. One that is busy may not answer: its work is shown."""
    return WorkerList(data=[WorkerProcess.of(one) for one in await roster.list()])


@router.get("/stats")
async def get_stats(figures: FiguresDep) -> ServiceStats:
    """Counts of documents and tasks, and the pages of each minute. Some seconds old where there is much."""
    return ServiceStats.of(await figures.stats())
