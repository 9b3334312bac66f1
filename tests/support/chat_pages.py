"""People who use the chat in a browser."""

from __future__ import annotations

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
    """Return a chat whose database is in a folder."""
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
    """Somebody with a browser context of their own."""

    def __init__(self, context: BrowserContext, url: str, name: str) -> None:
        self.context = context
        self.url = url
        self.name = name
        self.id = ''
        self.page: Page | None = None
        self.faults: list[str] = []

    async def sign_in(self) -> None:
        """Get a session."""
        made = await self.ask('POST', '/api/session', {'name': self.name})
        self.id = made['id']

    async def ask(self, method: str, path: str, data: Any = None) -> Any:
        """Ask the server, past the page."""
        response = await self.context.request.fetch(
            self.url + path, method=method, data=data, headers={'Origin': self.url}
        )
        assert response.ok, await response.text()
        return await response.json() if response.status != 204 else None

    async def post(self, room: str, text: str) -> Any:
        """Send a message, past the page."""
        return await self.ask('POST', f'/api/rooms/{room}/messages', {'text': text})

    async def open(self, room: str) -> Page:
        """Open a room in a new tab and wait until it is live."""
        page = await self.tab()
        await page.goto(f'{self.url}/rooms/{room}')
        await self.live(page)
        return page

    async def tab(self) -> Page:
        """Return an empty tab whose faults are noted."""
        page = await self.context.new_page()
        page.on('pageerror', lambda error: self.faults.append(str(error)))
        page.on('console', self._on_console)
        self.page = page
        return page

    def _on_console(self, message: Any) -> None:
        # What the browser says about a server that is away is no fault.
        away = ('Failed to load', 'WebSocket connection to')
        if message.type == 'error' and not message.text.startswith(away):
            self.faults.append(message.text)

    async def live(self, page: Page) -> None:
        """Wait until a tab is connected and sees its own member in the list."""
        await expect(page.locator('#status')).to_have_attribute(
            'data-state', 'connected'
        )
        await expect(page.locator('#members .quiet')).to_have_text('you')

    @property
    def messages(self) -> Locator:
        """The texts of all messages in the tab that was opened last."""
        assert self.page is not None
        return self.page.locator('#messages .words')

    async def say(self, text: str) -> None:
        """Type a message, press Enter, and wait until it was sent."""
        assert self.page is not None
        await self.page.get_by_label('Message', exact=True).fill(text)
        await self.page.keyboard.press('Enter')
        await expect(self.page.locator('.message.pending')).to_have_count(0)

    async def sees(self, *texts: str) -> None:
        """Wait until exactly these messages are there, in this order."""
        await expect(self.messages).to_have_text(list(texts))

    async def shot(self, name: str) -> None:
        """Keep a picture of the page."""
        assert self.page is not None
        ARTIFACTS.mkdir(exist_ok=True)
        await self.page.screenshot(path=ARTIFACTS / f'chat-{name}.png')


class Guests:
    """Makes guests, and closes their browsers at the end."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._stack = AsyncExitStack()
        self._guests: list[Guest] = []

    async def come(self, url: str, name: str, **context: Any) -> Guest:
        """Return somebody with a name; `context` is for the browser's context."""
        made = await self._stack.enter_async_context(
            await self._browser.new_context(
                **{'locale': 'en-GB', 'timezone_id': 'Europe/Berlin', **context}
            )
        )
        made.set_default_timeout(TIMEOUT_MS)
        guest = Guest(made, url, name)
        self._guests.append(guest)
        await guest.sign_in()
        return guest

    async def room(self, url: str, room: str, *names: str) -> list[Guest]:
        """Return people who are in a new room."""
        guests = [await self.come(url, name) for name in names]
        await guests[0].ask('POST', '/api/rooms', {'name': room})
        for guest in guests:
            await guest.open(room)
        return guests

    async def leave(self) -> None:
        """Close all browsers; nobody's page may have had a fault."""
        await self._stack.aclose()
        assert [] == [fault for guest in self._guests for fault in guest.faults]


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for a chat's files."""
    return tempfile.TemporaryDirectory(prefix='chat-')
