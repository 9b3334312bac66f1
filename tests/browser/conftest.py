"""Fixtures: one Chromium for all tests of pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Iterator
from pathlib import Path
import shutil

from playwright.async_api import async_playwright
from playwright.async_api import Browser
from playwright.async_api import expect
from playwright.async_api import Page
import pytest
import pytest_asyncio
from support.asgi_servers import AsgiServer
from support.chat_pages import chat_server
from support.chat_pages import Guests
from support.chat_pages import new_folder
from support.processes import ServerProcess

FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]

#: Errors that the browser itself logs while a server is down, or was killed.
EXPECTED = (
    'ERR_CONNECTION_REFUSED',
    'ERR_CONNECTION_RESET',
    'ERR_INCOMPLETE_CHUNKED_ENCODING',
)


@pytest_asyncio.fixture(scope='session', loop_scope='session')
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which('chromium')
    assert path is not None, 'chromium is missing: run `make system`'
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=60_000
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope='session')
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in its own context. Errors of its scripts and console fail the test."""
    async with await browser.new_context() as context:
        context.set_default_timeout(30_000)
        page = await context.new_page()
        errors: list[str] = []
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on(
            'console',
            lambda message: (
                errors.append(message.text) if message.type == 'error' else None
            ),
        )
        yield page
        assert [] == [e for e in errors if not any(part in e for part in EXPECTED)]


@pytest_asyncio.fixture(loop_scope='session')
async def guests(browser: Browser) -> AsyncIterator[Guests]:
    """Creates members with a browser; errors in their pages fail the test."""
    expect.set_options(timeout=30_000)
    guests = Guests(browser)
    yield guests
    await guests.leave()


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    """The chat, once for each module; modules of other pages replace this fixture."""
    with (
        new_folder() as folder,
        chat_server(Path(folder), asgi_server=asgi_server) as server,
    ):
        yield server
