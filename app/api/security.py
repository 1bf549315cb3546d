"""Who may ask: holders of a key or, on a service without keys, programs that are not foreign web pages."""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_of, problem_response
from app.errors import (
    DatabaseUnavailable,
    ForeignHost,
    ForeignOrigin,
    KeyMissing,
    KeyUnknown,
    PDFIngestError,
    RateLimited,
    RequestRefused,
    ScopeMissing,
)
from app.services.keys import Caller, Keys
from app.services.keys import Scope as KeyScope
from app.services.quotas import WINDOW_SECONDS, Allowance

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""For whoever runs the service; they tell nothing about anybody's documents, and want no key."""
ALIVE = "/livez"
"""Says nothing but that: whoever starts the service's processes may ask under any name."""
DESCRIPTION = frozenset(
    {
        "/",
        "/favicon.ico",
        "/docs",
        "/docs/scripts/swagger-ui-bundle.js",
        "/docs/scripts/swagger-ui.css",
        "/openapi.json",
    }
)
"""A browser opens these pages, and it has no key until somebody types it there."""
PAGE = "/web/"
"""What the page at / is made of: it asks for a key and is the same for all."""

LINKED = re.compile(r"/documents/[^/]+/(file|pages/[^/]+\.png)")
"""What a page shows by its address alone, which may have a token."""
STILL_OPEN_SECONDS = 1.0

ADMINISTRATION = frozenset({"keys", "stats", "webhooks", "workers"})
"""Paths begin with it that are about the whole service, or about who may use it."""

_SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_POLICIES = {
    # /docs: Swagger UI, begun by a script in the page
    b"text/html": b"default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    b"script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # a browser shows a PDF with a page of its own, which default-src would stop
    b"application/pdf": b"frame-ancestors 'none'",
}

log = structlog.get_logger(__name__)


def scope_for(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs; None: any key will do. docs/security.md has the same as a table."""
    if (method, path) == ("POST", "/keys/tokens"):
        return None
    if path.removeprefix("/").split("/")[0] in ADMINISTRATION:  # `OPTIONS *` has no slash
        return "admin"
    is_reading = method in {"GET", "HEAD", "OPTIONS"} or (method, path) == ("POST", "/search")
    return "read" if is_reading else "write"


class Guard:
    """Lets a request through, before anything of its body is read, or answers with the reason why not.

    With keys, everything but the probes and the API's description needs one, and those answer anybody.
    Without keys anybody who reaches the port may ask, so web pages are kept out: any page can post to a
    loopback address, and one whose name is made to mean 127.0.0.1 can read the answers too.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := path_of(scope)) != ALIVE:
            allowance: Allowance | None = None
            try:
                keys: Keys = scope["app"].state.keys
                token = _taken_token(scope, path)
                caller = await self._caller(keys, path, Headers(scope=scope), token)
                if (allowance := keys.count_request(caller)) and allowance.is_used_up:
                    raise RateLimited
                if (wanted := scope_for(scope["method"], path)) and not caller.has_scope(wanted):
                    raise ScopeMissing(f"This request needs a key with the scope {wanted}; this one has not.")
            except (RequestRefused, DatabaseUnavailable) as error:
                log.info("request refused", code=error.code, method=scope["method"], path=path)
                headers = {**_challenge(error), **_rate_headers(allowance)}
                await problem_response(problem_of(error), headers)(scope, receive, send)
                return
            send = _with_headers(send, _rate_headers(allowance)) if allowance else send
            scope.setdefault("state", {})["caller"] = caller
            if caller.name:
                structlog.contextvars.bind_contextvars(caller=caller.name, key_id=caller.key_id)
            if caller.key_id:
                await _while_open(keys, caller, self._app, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _caller(self, keys: Keys, path: str, headers: Headers, token: str | None) -> Caller:
        """The key's holder, or anybody where no key is needed. Raises RequestRefused, DatabaseUnavailable.

        Without a database nobody is let in but holders of API_KEYS, who need none.
        """
        if not keys.are_wanted:
            self._require_no_foreign_page(headers)
        if path in DESCRIPTION | PROBES or path.startswith(PAGE):
            return Caller()
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return await keys.caller(key.strip().encode("latin-1")) or Caller()  # the bytes as they came
        if token is not None:
            return await keys.bearer_of(token)
        if not keys.are_wanted:
            await keys.refresh()
        if keys.are_wanted:
            raise KeyMissing
        return Caller()

    def _require_no_foreign_page(self, headers: Headers) -> None:
        if "*" in self._allowed_hosts:
            return
        host, origin = headers.get("host", ""), headers.get("origin")
        if "host" in headers and not self._is_own(_hostname(host)):  # without are old probes, never browsers
            raise ForeignHost
        if origin is None or origin.partition("://")[2].lower() == host.lower():
            return
        if _hostname(origin.partition("://")[2]) not in self._allowed_hosts:
            raise ForeignOrigin

    def _is_own(self, hostname: str) -> bool:
        """Addresses are: a name can be made to mean any address, an address means itself."""
        return hostname == "localhost" or hostname in self._allowed_hosts or _is_address(hostname)


def _rate_headers(allowance: Allowance | None) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers-10; there is one policy, of requests in a minute."""
    if allowance is None:
        return {}
    again = {"Retry-After": str(allowance.reset_seconds)} if allowance.is_used_up else {}
    return again | {
        "RateLimit-Policy": f'"requests";q={allowance.limit};w={WINDOW_SECONDS}',
        "RateLimit": f'"requests";r={allowance.remaining};t={allowance.reset_seconds}',
    }


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


async def _while_open(
    keys: Keys, caller: Caller, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Ends what goes on for long, as streams and uploads do, when its key ends.

    To the handler the client is gone; who has no answer yet is told why.
    """
    loop = asyncio.get_running_loop()
    is_ended = is_begun = is_under_way = False
    look_at = loop.time() + STILL_OPEN_SECONDS

    async def receive_while_open() -> Message:
        nonlocal is_ended, look_at
        while not is_ended:
            message = None
            with suppress(TimeoutError):
                message = await asyncio.wait_for(receive(), STILL_OPEN_SECONDS)
            if message is None or loop.time() > look_at:
                look_at = loop.time() + STILL_OPEN_SECONDS
                with suppress(DatabaseUnavailable):
                    is_ended = not await keys.is_open_to(caller)
            if message is not None and not is_ended:
                return message
        return {"type": "http.disconnect"}

    async def send_and_note(message: Message) -> None:
        nonlocal is_begun, is_under_way
        if is_ended and not is_begun:
            return
        is_begun = True
        await send(message)
        is_under_way = message["type"] == "http.response.start" or message.get("more_body", False)

    await app(scope, receive_while_open, send_and_note)
    if is_ended and not is_begun:
        error = KeyUnknown()
        await problem_response(problem_of(error), _challenge(error))(scope, receive, send)
    elif is_ended and is_under_way:
        await send({"type": "http.response.body", "body": b""})


def _taken_token(scope: Scope, path: str) -> str | None:
    """Of a link, and taken out of it: an address may go to a log."""
    if scope["method"] not in {"GET", "HEAD"} or not LINKED.fullmatch(path):
        return None
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "token"]).encode()
    return next((value for name, value in pairs if name == "token"), None)


def path_of(scope: Scope) -> str:
    """As the routes have it: without the part that a proxy has put before it."""
    path, root = str(scope["path"]), scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


@lru_cache(maxsize=128)
def _hostname(authority: str) -> str:
    """The lower-case name of `name:port`; empty if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=128)
def _is_address(hostname: str) -> bool:
    try:
        ip_address(hostname)
    except ValueError:
        return False
    return True


def _challenge(error: PDFIngestError) -> Mapping[str, str]:
    """RFC 6750, section 3."""
    if isinstance(error, ScopeMissing):
        return {"WWW-Authenticate": 'Bearer realm="pdf-ingest", error="insufficient_scope"'}
    if isinstance(error, KeyUnknown):
        return {"WWW-Authenticate": 'Bearer realm="pdf-ingest", error="invalid_token"'}
    return {"WWW-Authenticate": 'Bearer realm="pdf-ingest"'} if isinstance(error, KeyMissing) else {}


class SecurityHeaders:
    """Tells browsers to take every answer for what it says it is, and to show none inside another page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = dict(message["headers"])
                media_type = given.get(b"content-type", b"").partition(b";")[0]
                headers = _SECURITY_HEADERS | {b"content-security-policy": _POLICIES.get(media_type, _POLICY)}
                added = [header for header in headers.items() if header[0] not in given]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_with_headers)
