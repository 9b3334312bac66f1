"""The page of the chat sends each message once, in order, and as its writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from playwright.async_api import expect
import pytest
from support.asgi_servers import AsgiServer
from support.chat_pages import chat_server
from support.chat_pages import Guests
from support.chat_pages import new_folder
from support.processes import ServerProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    with (
        new_folder() as folder,
        chat_server(Path(folder), asgi_server=asgi_server) as server,
    ):
        yield server


async def test_message_on_plain_http_of_another_host_is_sent(
    guests: Guests, server: ServerProcess
) -> None:
    """A page without HTTPS sends messages, too.

    Browsers trust plain HTTP of localhost only. On other addresses, parts of the web
    platform are missing, such as `crypto.randomUUID`.
    """
    ada = await guests.come(f'http://0.0.0.0:{server.port}', 'Ada')
    page = await ada.open('lobby')
    assert not await page.evaluate('isSecureContext')
    await ada.say('Hello from the phone')
    await expect(page.locator('.message.mine .words')).to_have_text(
        'Hello from the phone'
    )


async def test_new_message_does_not_overtake_a_failed_one(
    guests: Guests, server: ServerProcess
) -> None:
    """After a failure of the network, messages are sent in the order of writing."""
    ada, bob = await guests.room(server.url, 'order', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    path = '**/api/rooms/order/messages'
    await page.route(path, lambda route: route.abort('internetdisconnected'))
    field = page.get_by_label('Message', exact=True)
    await field.fill('first')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    await page.unroute(path)
    await field.fill('second')
    await page.keyboard.press('Enter')
    await bob.sees('first', 'second')
    await ada.sees('first', 'second')
