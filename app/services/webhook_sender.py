"""Sends what a webhook is told, signed as Standard Webhooks 1.0.0 says, to public addresses only.

The address a name resolves to is checked and then connected to itself: a name that resolves to something else
a moment later gains nothing.
"""

import asyncio
import base64
import hmac
import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import httpx

from app.errors import WebhookAddressRefused
from app.storage.outbox import Answer

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
TIMEOUT_SECONDS = 15.0
MAX_BODY_CHARACTERS = 1000
_MAX_BODY_BYTES = 4 * MAX_BODY_CHARACTERS  # a character of UTF-8 has at most four
_LOOKUPS_AT_ONCE = 64  # threads of their own: a name server that is silent holds up nothing else

Resolve = Callable[..., Sequence[tuple[Any, ...]]]


class WebhookSender:
    """Keeps no connection: what was checked for one name is never used for another."""

    def __init__(self, *, allow_private: bool, resolve: Resolve = socket.getaddrinfo) -> None:
        """`resolve` has the form of `socket.getaddrinfo`."""
        self._addresses = _Addresses(allow_private=allow_private, resolve=resolve)

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        """Made by who sends: to read all certificates takes 30 ms, and one process of all sends."""
        return httpx.AsyncClient(
            transport=_CheckedTransport(self._addresses),
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )

    async def check(self, url: str) -> None:
        """Raises WebhookAddressRefused if the URL leads to none but private addresses."""
        parsed = httpx.URL(url)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._addresses.of(parsed.host, parsed.port)
        except (OSError, TimeoutError, UnicodeError):
            return

    async def send(self, url: str, message_id: str, body: bytes, secrets: Sequence[str]) -> Answer:
        """Try once. Never raises: what went wrong is the answer."""
        began = time.monotonic()
        status, text, error = None, "", None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, text = await self._post(url, body, signed(message_id, body, secrets))
        except TimeoutError:
            error = f"No answer within {TIMEOUT_SECONDS:.0f} seconds."
        except WebhookAddressRefused as refused:
            error = refused.message
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:MAX_BODY_CHARACTERS].replace("\0", "")
        return Answer(status, round((time.monotonic() - began) * 1000), text, error)

    async def close(self) -> None:
        self._addresses.close()
        if "_client" in vars(self):
            await self._client.aclose()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        async with self._client.stream("POST", url, content=body, headers=headers) as response:
            content = b""
            async for part in response.aiter_raw():
                content += part
                if len(content) >= _MAX_BODY_BYTES:
                    break
            text = content[:_MAX_BODY_BYTES].decode(errors="replace").replace("\0", "")
            return response.status_code, text[:MAX_BODY_CHARACTERS]


def signed(message_id: str, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of a message; a signature for each of the secrets (`whsec_` and base64)."""
    timestamp = str(int(time.time()))
    content = f"{message_id}.{timestamp}.".encode() + body
    return {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "pdf-ingest",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{_signature(secret, content)}" for secret in secrets),
    }


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return base64.b64encode(hmac.digest(key, content, "sha256")).decode()


class _Addresses:
    """What names resolve to, and whether it may be connected to."""

    def __init__(self, *, allow_private: bool, resolve: Resolve) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="webhook-names")

    async def of(self, host: str, port: int | None) -> list[str]:
        """Those that may be connected to. Raises WebhookAddressRefused, and OSError of the lookup."""
        look_up = partial(self._resolve, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if self._allow_private or is_public(address)]
        if not allowed:
            raise WebhookAddressRefused
        return allowed

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _CheckedTransport(httpx.AsyncHTTPTransport):
    """Connects to an address that was checked; `Host` and what a certificate must show stay the name."""

    def __init__(self, addresses: _Addresses) -> None:
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
        self._addresses = addresses

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        *others, last = await self._addresses.of(request.url.host, request.url.port)
        for address in others:
            try:
                return await super().handle_async_request(_to_address(request, address))
            except httpx.ConnectError:
                continue
        return await super().handle_async_request(_to_address(request, last))


def _to_address(request: httpx.Request, address: str) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, also where an IPv4 address is wrapped in IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip in _NAT64 and ipaddress.IPv4Address(int(ip) % 2**32))
        return is_public(str(inner)) if inner else ip.is_global and ip in _GLOBAL_UNICAST
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# All that is given out. Outside of it are older ways to write an IPv4 address, and networks within a site.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
