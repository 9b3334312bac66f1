"""Take the pictures of the inspector for docs/inspector.md, in light and dark.

    make screenshots

They show the crowd of the tests: two workers with 200 connections, a slow reader and a
refused user. The system needs Chromium.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
import shutil
import sys
import tempfile

from playwright.async_api import async_playwright
from playwright.async_api import Browser
from playwright.async_api import expect

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))

from support.inspected_crowd import Crowd  # noqa: E402 - tests are no package
from support.inspected_crowd import crowd_of  # noqa: E402
from support.inspected_crowd import inspected_server  # noqa: E402
from support.inspected_crowd import REFUSED  # noqa: E402
from support.inspector_app import WRITE_KEY  # noqa: E402

FOLDER = ROOT / 'docs/images'
SIZE = {'width': 1000, 'height': 560}
#: Address of each view, and the name of its picture. The slow reader is first, because
#: it answers no pings, and is closed after a while.
VIEWS = {
    'slow': 'slow',
    'processes': 'processes',
    'channels': 'channels',
    'channel/rooms%3Astaff': 'channel',
    f'user/{REFUSED}': 'user',
    'events': 'refusals',
}
#: Seconds for which the charts are filled.
_CHART_S = 40


async def publish(crowd: Crowd) -> None:
    """Publish now and then, so that the charts have something to show."""
    number = 0
    while True:
        number += 1
        await crowd.publish('rooms:staff', {'text': 'Good morning', 'number': number})
        await asyncio.sleep(0.1 + number % 40 / 100)


async def take(browser: Browser, url: str, scheme: str) -> None:
    """Take the pictures of one colour scheme."""
    context = await browser.new_context(
        viewport=SIZE,  # type: ignore[arg-type]
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = await context.new_page()
    await page.goto(f'{url}/_channels')
    await page.get_by_label('Key').fill(WRITE_KEY)
    await page.keyboard.press('Enter')
    await expect(page.locator('#title')).to_be_focused()
    for view, name in VIEWS.items():
        await page.goto(f'{url}/_channels#/{view}')
        await expect(page.locator('tbody tr').first).to_be_visible(timeout=30_000)
        if name == 'processes':
            await asyncio.sleep(_CHART_S)
        await page.screenshot(path=FOLDER / f'inspector-{name}-{scheme}.png')
    await page.goto(f'{url}/_channels#/explain')
    await page.get_by_label('Id of the user').fill('staff-1')
    await page.get_by_role('button', name='Record this user').click()
    await asyncio.sleep(2)
    await page.goto(f'{url}/_channels#/channel/rooms%3Astaff')
    log = page.get_by_role('region', name='Stored publications, newest first')
    await log.locator('tbody').get_by_role('link').first.click()
    await page.get_by_label('Id of the user').fill('staff-1')
    await page.keyboard.press('Enter')
    await page.locator('tbody summary').click()
    await page.screenshot(path=FOLDER / f'inspector-explain-{scheme}.png')
    await context.close()


async def main() -> None:
    """Start the server, the crowd and the browser, and take all pictures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        inspected_server(f'sqlite:///{folder}/channels.db') as server,
    ):
        async with crowd_of(server) as crowd, async_playwright() as playwright:
            await crowd.fill_the_slow_reader()
            publishing = asyncio.ensure_future(publish(crowd))
            browser = await playwright.chromium.launch(
                executable_path=shutil.which('chromium'),
                args=['--no-sandbox', '--disable-gpu'],
            )
            await asyncio.gather(
                *(take(browser, server.url, scheme) for scheme in ('light', 'dark'))
            )
            publishing.cancel()
            await browser.close()


if __name__ == '__main__':
    asyncio.run(main())
