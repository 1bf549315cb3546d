"""For whoever runs the service: is it alive, is it ready."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from app.api.dependencies import ReadinessDep, SandboxDep
from app.api.problems import Fault, problem_of, problem_response, problem_responses
from app.api.schemas import Alive, Ready
from app.errors import ServiceNotReady

router = APIRouter(tags=["health"])


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
