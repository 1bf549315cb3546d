"""For Prometheus."""

from fastapi import APIRouter, Response

from app.api.dependencies import FiguresDep
from app.metrics import CONTENT_TYPE, exposition

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Figures of the whole service, from the database, and counts of this process.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def metrics(figures: FiguresDep) -> Response:
    """Figures in the text format of Prometheus. Of several APIs each tells the same of the whole service."""
    return Response(exposition(await figures.read()), headers={"Content-Type": CONTENT_TYPE})
