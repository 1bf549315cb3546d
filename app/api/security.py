"""Who may ask: holders of a key or, on a service without keys, programs that are not foreign web pages."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_of, problem_response
from app.errors import ForeignHost, ForeignOrigin, KeyMissing, KeyUnknown, RequestRefused

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

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASHED = "sha256="
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = "default-src 'none'; frame-ancestors 'none'"
_POLICIES = {
    # /docs: Swagger UI, begun by a script in the page
    "text/html": "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # a browser shows a PDF with a page of its own, which default-src would stop
    "application/pdf": "frame-ancestors 'none'",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Names of callers with the SHA-256 of their keys; a name may have several, to change one for another."""

    keys: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def parse(cls, api_keys: SecretStr | None) -> "KeyRing":
        """From `name:key,name:sha256=<64 hex digits>`. Raises ValueError, without saying any key."""
        if api_keys is None:
            return cls()
        entries = api_keys.get_secret_value().rstrip(", ").split(",")
        return cls(tuple(_parsed(number, entry.strip()) for number, entry in enumerate(entries, 1)))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def caller(self, key: bytes) -> str | None:
        """The name of the key's holder. Takes as long for a wrong key as for a right one."""
        digest = sha256(key).digest()
        found = None
        for name, known in self.keys:
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _parsed(number: int, entry: str) -> tuple[str, bytes]:
    name, _, key = entry.partition(":")
    if not _NAME.fullmatch(name) or not key:
        raise ValueError(
            f"API_KEYS: entry {number} must be name:key or name:sha256=<hex>, "
            "the name made of letters, digits and ._-"
        )
    if not key.startswith(_HASHED):
        return name, sha256(key.encode()).digest()
    if not _DIGEST.fullmatch(key.removeprefix(_HASHED)):
        raise ValueError(f"API_KEYS: the SHA-256 of entry {number} must have 64 hex digits")
    return name, bytes.fromhex(key.removeprefix(_HASHED))


class Guard:
    """Lets a request through, before anything of its body is read, or answers with the reason why not.

    With keys, everything but the probes and the API's description needs one, and those answer anybody.
    Without keys anybody who reaches the port may ask, so web pages are kept out: any page can post to a
    loopback address, and one whose name is made to mean 127.0.0.1 can read the answers too.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, allowed_hosts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._keys = keys
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != ALIVE:
            try:
                caller = self._caller(scope["path"], Headers(scope=scope))
            except RequestRefused as error:
                log.info("request refused", code=error.code, method=scope["method"], path=scope["path"])
                response = problem_response(problem_of(error), _challenge(error))
                await response(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            if caller:
                structlog.contextvars.bind_contextvars(caller=caller)
        await self._app(scope, receive, send)

    def _caller(self, path: str, headers: Headers) -> str:
        """The name of the key's holder, empty when no key is needed. Raises RequestRefused."""
        if not self._keys:
            self._require_no_foreign_page(headers)
            return ""
        if path in DESCRIPTION | PROBES or path.startswith(PAGE):
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise KeyMissing
        caller = self._keys.caller(key.strip().encode("latin-1"))  # the bytes as they came
        if caller is None:
            raise KeyUnknown
        return caller

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


def _hostname(authority: str) -> str:
    """The lower-case name of `name:port`; empty if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_address(hostname: str) -> bool:
    try:
        ip_address(hostname)
    except ValueError:
        return False
    return True


def _challenge(error: RequestRefused) -> Mapping[str, str]:
    """RFC 6750, section 3."""
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
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                media_type = headers.get("content-type", "").partition(";")[0]
                headers.setdefault("Content-Security-Policy", _POLICIES.get(media_type, _POLICY))
            await send(message)

        await self._app(scope, receive, send_with_headers)
