"""Request targets that name scheme and host, as clients send them to what they take for a proxy."""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


class OriginForm:
    """Makes `GET http://host/path` into `GET /path` of that host, whatever `Host` says (RFC 9112, 3.2.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            _change_to_origin_form(scope)
        await self._app(scope, receive, send)


def _change_to_origin_form(scope: Scope) -> None:
    if absolute := _ABSOLUTE.fullmatch(scope["raw_path"]):
        host, path = absolute.groups()
        others = [header for header in scope["headers"] if header[0] != b"host"]
        scope["path"] = unquote(path.decode("ascii")) or "/"
        scope["raw_path"] = path or b"/"
        scope["headers"] = [(b"host", host), *others]
