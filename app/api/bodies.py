"""Bodies of requests: how long they may be, and how fast they must come."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_of, problem_response
from app.errors import BodyTooLarge, UploadTooSlow

# 1,000 ids of documents are 39,000; metadata may be long.
MAX_BODY_BYTES = 1_000_000
PACE_SECONDS = 60.0
# 1 kB/s, with pauses of a minute: a bad line, not one that is held open.
PACE_BYTES = 60_000


class BodyLimit:
    """Refuses large bodies: at once when their length is announced, else when the limit is reached.

    Uploads have limits of their own (`uploads.read_form`) and are never held in memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_upload(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
            await problem_response(problem_of(BodyTooLarge()))(scope, receive, send)
            return
        received_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > MAX_BODY_BYTES:
                raise HTTPException(
                    BodyTooLarge.status_code, BodyTooLarge.default_message
                )  # FastAPI lets it pass
            return message

        await self._app(scope, receive_within_limit, send)


def _is_upload(method: str, path: str) -> bool:
    return (method, path) == ("POST", "/documents") or (method == "PUT" and path.startswith("/documents/"))


class BodyPace:
    """Refuses a body that stands still: in every `PACE_SECONDS` of waiting come `PACE_BYTES`, or its end.

    Only waiting counts. While the file store is slow, or the request waits for its turn, nobody receives.
    """

    def __init__(
        self, app: ASGIApp, *, pace_seconds: float = PACE_SECONDS, pace_bytes: int = PACE_BYTES
    ) -> None:
        self._app = app
        self._pace_seconds = pace_seconds
        self._pace_bytes = pace_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        paced = self._paced(receive) if scope["type"] == "http" else receive
        await self._app(scope, paced, send)

    def _paced(self, receive: Receive) -> Receive:
        waited_seconds, received_bytes, is_complete = 0.0, 0, False

        async def receive_in_time() -> Message:
            nonlocal waited_seconds, received_bytes, is_complete
            if is_complete:  # what comes now is that the client is gone
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._pace_seconds - waited_seconds):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(UploadTooSlow.status_code, UploadTooSlow.default_message) from error
            is_complete = not message.get("more_body", False)
            waited_seconds += time.monotonic() - began
            received_bytes += len(message.get("body", b""))
            if received_bytes >= self._pace_bytes:
                waited_seconds, received_bytes = 0.0, 0
            return message

        return receive_in_time
