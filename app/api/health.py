"""For whoever runs the service: is it alive, is it ready."""

from datetime import datetime
from typing import Literal, Self, cast

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.api.dependencies import ReadinessDep, SandboxDep
from app.api.problems import Fault, problem_of, problem_response, problem_responses
from app.api.schemas import Shown
from app.errors import ServiceNotReady
from app.services.readiness import Readiness

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = Field("alive", description="Always `alive`.")


Degraded = Literal["broker", "embedder", "file_store", "tenant_role", "workers"]


class ServiceOutage(Shown):
    """A service without which no document can be ingested."""

    service: Degraded = Field(description="Which one.")
    reason: str = Field(description="What a probe met last.")
    since: datetime = Field(
        description="When it was noticed; of `workers`, since when the oldest work has waited."
    )


class ServicePause(BaseModel):
    """What a service that is there has asked for."""

    service: Literal["embedder"] = Field("embedder", description="Which one.")
    reason: str = Field(
        "The embedding service has asked to be left alone (Retry-After or x-ratelimit-reset).",
        description="Why nothing is asked of it.",
    )
    until: datetime = Field(description="When work goes on.")


def _is_empty(value: object) -> bool:
    return not value


class Ready(BaseModel):
    """The service takes uploads and answers searches."""

    status: Literal["ready"] = Field("ready", description="Always `ready`; else the answer is a 503.")
    degraded: list[Degraded] = Field(
        description="What is down without being missed yet: work starts later, and without `embedder` a "
        "search answers from words. `workers`: documents wait that no worker has asked for in 30 seconds. "
        "`tenant_role`: requests of keys and tokens that are bound to collections get 503."
    )
    sandbox: str = Field(
        description="How far the processes that read PDFs are confined, tried at start: `full`, "
        "`partial (what is missing)` or `none`."
    )
    outages: list[ServiceOutage] = Field(description="Why and since when, for all of it but the broker.")
    pauses: list[ServicePause] = Field(
        default_factory=list,
        exclude_if=_is_empty,
        description="What is not asked for a while, since it wants that; left out without any. A pause that "
        "holds up searches as well makes it `degraded`.",
    )

    @classmethod
    def of(cls, readiness: Readiness, sandbox: str) -> Self:
        pause = readiness.embedder_pause
        return cls(
            degraded=cast(list[Degraded], readiness.degraded),
            sandbox=sandbox,
            outages=[ServiceOutage.of(outage) for outage in readiness.outages],
            pauses=[] if pause is None else [ServicePause(until=pause.until)],
        )


@router.get("/livez")
async def livez() -> Alive:
    """The process runs and answers. Looks at nothing else: a restart would not mend a database."""
    return Alive()


@router.get("/readyz", response_model=Ready, responses=problem_responses(ServiceNotReady))
async def readyz(readiness: ReadinessDep, sandbox: SandboxDep) -> Response:
    """Whether uploads are taken and searches answered; what may be down only delays the work."""
    if not readiness.faults:
        return JSONResponse(Ready.of(readiness, sandbox).model_dump(mode="json"))
    problem = problem_of(ServiceNotReady(" ".join(readiness.faults.values())))
    problem.errors = [Fault(where=where, detail=detail) for where, detail in readiness.faults.items()]
    return problem_response(problem)


# Load balancers and `wget --spider` ask for the status alone.
router.head("/livez", include_in_schema=False)(livez)
router.head("/readyz", include_in_schema=False)(readyz)
