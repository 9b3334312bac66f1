"""Members who use the chat in a browser."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
import tempfile
from typing import Any

from playwright.async_api import Browser
from playwright.async_api import BrowserContext
from playwright.async_api import expect
from playwright.async_api import Locator
from playwright.async_api import Page

from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess

ARTIFACTS = ROOT / 'artifacts'
TIMEOUT_MS = 30_000


def chat_server(
    folder: Path,
    port: int | None = None,
    *,
    asgi_server: AsgiServer = SERVE,
    workers: int = 1,
    **env: str,
) -> ServerProcess:
    """Return a server process of the chat, with its files in a folder."""
    if asgi_server is SERVE:
        command = ['python', '-m', 'falcon_channels_chat', '--port', '{port}']
    else:
        command = asgi_server.factory_command('falcon_channels_chat.serving:app')
    return ServerProcess(
        [*command, '--workers', str(workers)],
        port=port,
        cwd=folder,
        env={
            'CHAT_MESSAGES_PER_S': '1000',
            'CHAT_MESSAGE_BURST': '1000',
            'CHAT_LEAVE_GRACE_S': '2',
            **env,
        },
    )


class Guest:
    """A person with their own browser context."""

    def __init__(self, context: BrowserContext, url: str, name: str) -> None:
        self.context = context
        self.url = url
        self.name = name
        self.id = ''
        self.page: Page | None = None
        self.errors: list[str] = []

    async def sign_in(self) -> None:
        """Create a session."""
        made = await self.ask('POST', '/api/session', {'name': self.name})
        self.id = made['id']

    async def ask(self, method: str, path: str, data: Any = None) -> Any:
        """Send a request directly to the server, without the page."""
        response = await self.context.request.fetch(
            self.url + path, method=method, data=data, headers={'Origin': self.url}
        )
        assert response.ok, await response.text()
        return await response.json() if response.status != 204 else None

    async def post(self, room: str, text: str) -> Any:
        """Send a message directly to the server, without the page."""
        return await self.ask('POST', f'/api/rooms/{room}/messages', {'text': text})

    async def open(self, room: str) -> Page:
        """Open a room in a new tab and wait until it is connected."""
        page = await self.tab()
        await page.goto(f'{self.url}/rooms/{room}')
        await self.live(page)
        return page

    async def tab(self) -> Page:
        """Open an empty tab whose errors are recorded."""
        page = await self.context.new_page()
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.on('console', self._on_console)
        self.page = page
        return page

    def _on_console(self, message: Any) -> None:
        # The browser itself logs an error while the server is down, and for a header
        # that it does not use on plain HTTP. That is expected.
        expected = (
            'Failed to load',
            'WebSocket connection to',
            'The Cross-Origin-Opener-Policy header has been ignored',
        )
        if message.type == 'error' and not message.text.startswith(expected):
            self.errors.append(message.text)

    async def live(self, page: Page) -> None:
        """Wait until a tab is connected and sees its own member in the list."""
        await expect(page.locator('#status')).to_have_attribute(
            'data-state', 'connected'
        )
        await expect(page.locator('#members .quiet')).to_have_text('you')

    @property
    def messages(self) -> Locator:
        """Locator of the texts of all messages in the newest tab."""
        assert self.page is not None
        return self.page.locator('#messages .words')

    async def say(self, text: str) -> None:
        """Type a message, press Enter, and wait until the server has confirmed it."""
        assert self.page is not None
        await self.page.get_by_label('Message', exact=True).fill(text)
        await self.page.keyboard.press('Enter')
        await expect(self.page.locator('.message.pending')).to_have_count(0)

    async def sees(self, *texts: str) -> None:
        """Wait until the page shows exactly these messages, in this order."""
        await expect(self.messages).to_have_text(list(texts))

    async def shot(self, name: str) -> None:
        """Save a screenshot of the page."""
        assert self.page is not None
        ARTIFACTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f'chat-{name}.png')


class Guests:
    """Creates guests, and closes their browser contexts at the end."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._stack = AsyncExitStack()
        self._guests: list[Guest] = []

    async def come(self, url: str, name: str, **context: Any) -> Guest:
        """Return a guest with a session; `context` has browser context options."""
        browser_context = await self._stack.enter_async_context(
            await self._browser.new_context(
                **{'locale': 'en-GB', 'timezone_id': 'Europe/Berlin', **context}
            )
        )
        browser_context.set_default_timeout(TIMEOUT_MS)
        guest = Guest(browser_context, url, name)
        self._guests.append(guest)
        await guest.sign_in()
        return guest

    async def room(self, url: str, room: str, *names: str) -> list[Guest]:
        """Create a room and return guests who have opened it."""
        guests = await asyncio.gather(*[self.come(url, name) for name in names])
        await guests[0].ask('POST', '/api/rooms', {'name': room})
        await asyncio.gather(*[guest.open(room) for guest in guests])
        return guests

    async def leave(self) -> None:
        """Close all browser contexts; assert that no page had an error."""
        await self._stack.aclose()
        assert [] == [error for guest in self._guests for error in guest.errors]


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder for the files of a chat."""
    return tempfile.TemporaryDirectory(prefix='chat-')
