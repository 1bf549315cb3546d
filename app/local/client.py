"""The service's HTTP API as the command line uses it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential

from app.local.failures import Failure
from app.loopback import open_client

FINAL = frozenset({"success", "error", "cancelled"})
WAIT_SECONDS = 0.5  # how long one poll waits for the end: short, so that the bar moves
RECONNECT_SECONDS = 30  # a restart of the API takes 2 s


class ServiceUnreachable(Failure):
    """Nothing answers at the service's address."""


class RequestRefused(Failure):
    """The service said no; the message is its own sentence."""

    def __init__(self, message: str, code: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class Client:
    """Use it in an `async with` block. Every method raises ServiceUnreachable or RequestRefused."""

    def __init__(self, url: str) -> None:
        """A service with keys wants one in PDF_INGEST_API_KEY."""
        self.url = url.rstrip("/")
        key = os.environ.get("PDF_INGEST_API_KEY")
        try:
            self._http = open_client(
                url,
                base_url=self.url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(60, connect=5),
            )
        except ValueError as error:
            raise ServiceUnreachable(str(error)) from error
        self.torn_uploads = 0
        """Files that were sent, in part or whole, without an answer; each was sent again or given up."""

    def use_key(self, key: str) -> None:
        """From now on."""
        self._http.headers["Authorization"] = f"Bearer {key}"

    @property
    def headers(self) -> dict[str, str]:
        """With the key, for requests of another client."""
        return {"Authorization": self._http.headers["Authorization"]}

    async def __aenter__(self) -> Self:
        """Asks once whether the service is there; later calls survive a restart of it."""
        try:
            await self._http.get("/livez")
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            await self._http.aclose()
            raise ServiceUnreachable(
                f"The service at {self.url} is not reachable. Start it with `pdf-ingest up`, "
                "or set PDF_INGEST_URL to where it runs."
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def upload(self, path: Path, fields: dict[str, str]) -> dict[str, Any]:
        """Send a PDF; waits while the service's queue is full. Sent again, it is still one upload."""
        headers = {"Idempotency-Key": str(uuid4())}
        while True:
            try:
                return await self._send("POST", "/documents", file=path, data=fields, headers=headers)
            except RequestRefused as refusal:
                if refusal.code not in {"queue_full", "idempotency_key_in_work"}:
                    raise
                await asyncio.sleep(refusal.retry_after_seconds)

    async def follow(self, task_id: str) -> AsyncIterator[dict[str, Any]]:
        """A task's status again and again, until it is final."""
        while True:
            task = await self.task(task_id, wait_seconds=WAIT_SECONDS)
            yield task
            if task["status"] in FINAL:
                return

    async def task(self, task_id: str, *, wait_seconds: float = 0) -> dict[str, Any]:
        return await self._send("GET", f"/tasks/{task_id}", params={"wait": wait_seconds})

    async def document(self, document_id: str) -> dict[str, Any]:
        return await self._send("GET", f"/documents/{document_id}")

    async def documents(self, **filters: str | int) -> AsyncIterator[dict[str, Any]]:
        async for document in self._pages("/documents", filters):
            yield document

    async def list_keys(self) -> AsyncIterator[dict[str, Any]]:
        async for key in self._pages("/keys", {}):
            yield key

    async def create_key(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return await self._send("POST", "/keys", json=wanted)

    async def revoke_key(self, key_id: str) -> None:
        await self._send("DELETE", f"/keys/{key_id}")

    async def retry(self, document_id: str, password: str | None = None) -> dict[str, Any]:
        """Ingest a document's file again, for example with its password."""
        body = {} if password is None else {"password": password}
        return await self._send("POST", f"/documents/{document_id}/retry", json=body)

    async def retry_failed(self, **filters: Any) -> int:
        """Ingest all failed documents again, of a `collection`, with one of some `codes`; how many."""
        return int((await self._send("POST", "/documents/retry", json=filters))["count"])

    async def replace(self, document_id: str, path: Path) -> dict[str, Any]:
        return await self._send("PUT", f"/documents/{document_id}", file=path)

    async def delete(self, document_id: str) -> None:
        await self._send("DELETE", f"/documents/{document_id}")

    async def delete_collection(self, name: str) -> dict[str, Any]:
        """The task that deletes its documents."""
        return await self._send("DELETE", f"/collections/{quote(name, safe='')}")

    async def cancel(self, task_id: str) -> None:
        await self._send("POST", f"/tasks/{task_id}/cancel")

    async def ready(self) -> dict[str, Any]:
        """What is degraded, and why."""
        return await self._send("GET", "/readyz")

    async def search(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self._send("POST", "/search", json=request)

    async def _pages(self, path: str, filters: dict[str, str | int]) -> AsyncIterator[dict[str, Any]]:
        after: str | None = None
        while True:
            page = await self._send("GET", path, params={**filters, **({"after": after} if after else {})})
            for entry in page["data"]:
                yield entry
            after = page["next"]
            if after is None:
                return

    async def _send(
        self, method: str, path: str, *, file: Path | None = None, **request: Any
    ) -> dict[str, Any]:
        try:
            response = await self._request(method, path, file, request)
        except httpx.TransportError as error:
            raise ServiceUnreachable(f"The service at {self.url} does not answer any more.") from error
        body = _json(response)
        if not response.is_success:
            message = body.get("detail", f"The service answered {response.status_code}.")
            retry_after_seconds = float(response.headers.get("Retry-After", 5))
            raise RequestRefused(message, body.get("code", ""), retry_after_seconds)
        return body

    async def _request(
        self, method: str, path: str, file: Path | None, request: dict[str, Any]
    ) -> httpx.Response:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(httpx.TransportError),
            wait=wait_exponential(0.2, max=3),
            stop=stop_after_delay(RECONNECT_SECONDS),
            reraise=True,
        ):
            with attempt, ExitStack() as opened:
                if file is not None:
                    content = opened.enter_context(file.open("rb"))
                    name = file.name.encode(errors="replace").decode()
                    request["files"] = {"file": (name, content, "application/pdf")}
                return await self._send_once(method, path, request)
        raise AssertionError("tenacity ended without an answer or an error")

    async def _send_once(self, method: str, path: str, request: dict[str, Any]) -> httpx.Response:
        try:
            return await self._http.request(method, path, **request)
        except httpx.TransportError as error:
            self.torn_uploads += "files" in request and not isinstance(error, httpx.ConnectError)
            raise


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
