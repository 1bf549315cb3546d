"""For Prometheus."""

from fastapi import APIRouter, Response

from app.api.dependencies import FiguresDep, SandboxDep
from app.metrics import CONTENT_TYPE, Figure, exposition

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Figures of the whole service, from the database, and counts of this API.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def metrics(figures: FiguresDep, sandbox: SandboxDep) -> Response:
    """Figures in the text format of Prometheus. Of several APIs each tells the same of the whole service."""
    held = {how: float(sandbox.startswith(how)) for how in ("full", "partial", "none")}
    confined = Figure("sandbox", "How far the processes that read PDFs are confined.", held, "holds")
    return Response(exposition([*await figures.read(), confined]), headers={"Content-Type": CONTENT_TYPE})
