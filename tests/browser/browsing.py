"""A browser for the tests of the page, and what they do with it again and again."""

import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright, expect

from tests.programs import PATH, find_program
from tests.stacks import SAMPLES

CHROMIUM = find_program(os.environ.get("CHROMIUM", "chromium"))
PATIENCE_MS = 20_000
OF_THE_BROWSER = ("chrome-extension://", "chrome://")  # what it shows a PDF with
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

expect.set_options(timeout=PATIENCE_MS)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, env=os.environ | {"PATH": PATH}
        )
        try:
            yield browser
        finally:
            await browser.close()


class Visit:
    """A person with a browser of their own: tabs share what is stored there, not what a session keeps.

    Whatever goes wrong in the page unseen is collected: errors of scripts, and requests to other hosts.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.faults: list[str] = []
        self.requests: list[Request] = []
        self.is_outage_expected = False
        context.on("request", self._note_request)
        context.on("weberror", lambda event: self.faults.append(str(event.error)))
        context.on("console", self._note_console)
        context.set_default_timeout(PATIENCE_MS)

    async def open(self, address: str = "") -> Page:
        page = await self.context.new_page()
        await page.goto(f"{self.url}/{address}")
        return page

    def _note_request(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((self.url, f"blob:{self.url}", "data:", *OF_THE_BROWSER)):
            self.faults.append(f"a request to {request.url}")

    def _note_console(self, message: Any) -> None:
        # Chromium itself tells of refused requests and lost connections: the tests that expect them say so.
        if message.type in {"error", "warning"} and not (
            self.is_outage_expected and message.text.startswith("Failed to load resource")
        ):
            self.faults.append(message.text)


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncIterator[Visit]:
    context = await browser.new_context(
        **{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB"} | options
    )
    try:
        visit = Visit(context, url)
        yield visit
        assert not visit.faults, visit.faults
    finally:
        await context.close()


async def drop(page: Page, files: Sequence[tuple[str, bytes]]) -> None:
    """Let files fall onto the page, as from a folder of the desktop."""
    encoded = [[name, base64.b64encode(content).decode()] for name, content in files]
    await page.evaluate(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: "application/pdf" }));
            }
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
                document.body.dispatchEvent(new DragEvent(kind, options));
            }
        }""",
        encoded,
    )


async def drop_from_disk(page: Page, path: Path) -> None:
    """Let a file or folder of the disk fall onto the page: only the browser itself can make its entries."""
    client = await page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        await client.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    await client.detach()


def sample(name: str) -> tuple[str, bytes]:
    return name, (SAMPLES / name).read_bytes()


async def shoot(page: Page, name: str) -> None:
    """A picture for people to look at, where the environment names a folder for it."""
    if folder := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(folder) / f"{name}.png")
