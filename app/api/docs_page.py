"""The page at /docs, with its scripts served from here: it works without the internet."""

from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

SCRIPTS = "/docs/scripts"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    return get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=app.title,
        swagger_js_url=f"{SCRIPTS}/swagger-ui-bundle.js",
        swagger_css_url=f"{SCRIPTS}/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


def serve_docs(app: FastAPI) -> None:
    app.include_router(router)
    app.mount(SCRIPTS, StaticFiles(directory=str(files("fastapi_offline") / "static")))
