"""Who is told by a webhook: real HTTP, which keeps what it gets and answers as it is told to."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message as it arrived, and the status it got."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class WebhookReceiver:
    """`answers` are used up one by one; after them it answers 204. `delay_seconds` holds for each."""

    answers: list[Response] = field(default_factory=list)
    delay_seconds: float = 0.0
    messages: list[ReceivedMessage] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.app = Starlette(routes=[Route("/{path:path}", self._receive, methods=["GET", "POST"])])

    @property
    def taken(self) -> list[ReceivedMessage]:
        """What got a status of success."""
        return [message for message in self.messages if message.status < 300]

    async def _receive(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:  # killed while it sent
            return Response(status_code=499)
        await self._take_time()
        answer = self.answers.pop(0) if self.answers else Response(status_code=204)
        self.messages.append(ReceivedMessage(dict(request.headers), body, answer.status_code))
        return answer

    async def _take_time(self) -> None:
        """As long as it was told before anybody could see that something is in flight."""
        delay_seconds = self.delay_seconds
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(delay_seconds)
        finally:
            self.in_flight -= 1
