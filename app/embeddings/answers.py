"""Answers of model servers, of which no more is read than a right one could have."""

import asyncio

import httpx

_AS_IT_IS = {"Accept-Encoding": "identity"}  # what is packed a thousandfold is not for us to unpack


class AnswerUnfit(httpx.TransportError):
    """The server says more than it was asked for, or packs it."""


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str], most_bytes: int
) -> httpx.Response:
    """The answer, all of it within the client's timeout for a read.

    Raises AnswerUnfit, and what httpx raises.
    """
    try:
        async with asyncio.timeout(client.timeout.read):
            return await _post(client, url, body, headers | _AS_IT_IS, most_bytes)
    except TimeoutError as error:
        raise httpx.ReadTimeout("no end of the answer in time") from error


async def _post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str], most_bytes: int
) -> httpx.Response:
    content = bytearray()
    async with client.stream("POST", url, content=body, headers=headers) as response:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise AnswerUnfit("a packed answer, which was not asked for")
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > most_bytes:
                raise AnswerUnfit(f"an answer of more than {most_bytes:,} bytes")
    return httpx.Response(response.status_code, headers=response.headers, content=bytes(content))
