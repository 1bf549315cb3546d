"""`X-Request-ID`: the client's own, if it can be trusted in a log line, else a new one; sent back."""

from uuid import uuid4

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.logs import sane_request_id

HEADER = b"x-request-id"


class RequestIds:
    """Every log line of a request carries its id, and so do those of the tasks it begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = sane_request_id(Headers(scope=scope).get(HEADER.decode())) or uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id.encode())]
            await send(message)

        # Not unbound at the end: the server logs an unexpected error after us. The next request clears it.
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        await self._app(scope, receive, send_with_id)
