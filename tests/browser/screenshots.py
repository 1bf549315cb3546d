"""Takes the pictures of README.md anew: the samples, one search, light and dark."""

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import quote_plus

from playwright.async_api import expect

from tests.browser.browsing import browsing, visiting
from tests.stacks import PROJECT, Up

FOLDER = PROJECT / "docs" / "pictures"
SAMPLES = ("annual-report.pdf", "salt-marsh-article.pdf", "wildbienen.pdf")
QUESTION = "How often did the camera stop the turbines for birds?"


async def take(url: str, scheme: str) -> None:
    async with (
        browsing() as browser,
        visiting(browser, url, viewport={"width": 1200, "height": 800}, color_scheme=scheme) as visit,
    ):
        page = await visit.open(f"#/search?q={quote_plus(QUESTION)}")
        for _ in range(4):  # the first searches of a service open what later ones use
            await page.reload()
            for place in range(2):
                await expect(page.locator(".hit img").nth(place)).to_be_visible()
        await page.evaluate("document.activeElement.blur()")
        await page.screenshot(path=FOLDER / f"search-{scheme}.png")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Up(Path(folder) / "data") as service:
        for sample in SAMPLES:
            service.ingest(sample)
        for scheme in ("light", "dark"):
            asyncio.run(take(service.url, scheme))


if __name__ == "__main__":
    main()
