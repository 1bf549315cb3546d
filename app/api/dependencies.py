"""What handlers ask for, by name: a signature reads like a sentence.

All are coroutines: FastAPI calls a plain function in a thread, which costs a request more than a statement.
"""

from typing import Annotated, Any

from fastapi import Depends, Request

from app.services.catalog import Catalog
from app.services.collection_service import CollectionService
from app.services.document_service import DocumentService
from app.services.figures import Figures
from app.services.keys import Caller, Keys
from app.services.pictures import PagePictures
from app.services.progress import VisibleTasks
from app.services.rag_service import RAGService
from app.services.readiness import Readiness, check_readiness
from app.services.roster import Roster
from app.services.webhook_service import WebhookService


def _services(request: Request) -> Any:
    """What the lifespan opened (`resources.Services`)."""
    return request.app.state.services


def _opened(name: str) -> Any:
    """What is the same for every caller."""

    async def opened(request: Request) -> Any:
        return getattr(_services(request), name)

    return Depends(opened)


async def _documents(request: Request) -> DocumentService:
    """As the caller sees them."""
    service: DocumentService = _services(request).documents
    return service.for_caller(request.state.caller)


async def _catalog(request: Request) -> Catalog:
    """As the caller sees it."""
    services = _services(request)
    return Catalog(services.database, services.files, request.state.caller.reach)


async def visible_collections(request: Request) -> CollectionService:
    """As the caller sees them."""
    service: CollectionService = _services(request).collections
    return service.within(request.state.caller.reach)


async def visible_tasks(request: Request) -> VisibleTasks:
    """As the caller sees them."""
    return VisibleTasks(_services(request).progress, request.state.caller.reach)


async def _readiness(request: Request) -> Readiness:
    if request.app.state.is_draining:
        return Readiness({"shutdown": "This server is going down."}, [])
    services = _services(request)
    return await check_readiness(services.database, services.space_id, services.queue.ping)


async def _caller(request: Request) -> Caller:
    """The key's holder, or anybody (`security.Guard`)."""
    caller: Caller = request.state.caller
    return caller


async def _keys(request: Request) -> Keys:
    keys: Keys = request.app.state.keys
    return keys


RAGDep = Annotated[RAGService, _opened("rag")]
DocumentsDep = Annotated[DocumentService, Depends(_documents)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
CollectionsDep = Annotated[CollectionService, Depends(visible_collections)]
ProgressDep = Annotated[VisibleTasks, Depends(visible_tasks)]
CallerDep = Annotated[Caller, Depends(_caller)]
KeysDep = Annotated[Keys, Depends(_keys)]
PicturesDep = Annotated[PagePictures, _opened("pictures")]
WebhooksDep = Annotated[WebhookService, _opened("webhooks")]
FiguresDep = Annotated[Figures, _opened("figures")]
SandboxDep = Annotated[str, _opened("sandbox")]
ReadinessDep = Annotated[Readiness, Depends(_readiness)]
RosterDep = Annotated[Roster, _opened("roster")]
