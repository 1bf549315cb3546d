"""The page at /, for people: static files that talk to this API like any other client."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from app.errors import FileGone

WEB = Path(__file__).parent.parent / "web"
SAMPLES = WEB.parent.parent / "samples"
Sample = Literal["annual-report.pdf", "salt-marsh-article.pdf", "wildbienen.pdf"]

# Scripts and styles come from here alone, and no text ever becomes markup: the browser refuses to.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")  # what watches a site asks for the status alone
async def show_page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=_HEADERS)


@router.get("/favicon.ico")
async def show_icon() -> FileResponse:
    """Browsers ask for it where they show an original."""
    return FileResponse(WEB / "icon.svg", headers={"Cache-Control": "max-age=86400"})


@router.get("/web/samples/{name}")
async def get_sample(name: Sample) -> Response:
    """One of the PDFs a first look begins with. Raises FileGone."""
    if not (SAMPLES / name).is_file():
        raise FileGone("The samples are not installed here.")
    return FileResponse(SAMPLES / name, media_type="application/pdf", headers={"Cache-Control": "no-cache"})


class _Fresh(StaticFiles):
    """Asked for again each time, mostly answered with 304: a new version is seen at once."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def serve_page(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/web", GZipMiddleware(_Fresh(directory=WEB)))
