"""The rooms on the page of the chat: loading, reading, and the list of rooms."""

from __future__ import annotations

import asyncio
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


async def test_missed_messages_are_shown_with_few_updates(
    guests: Guests, server: ServerProcess
) -> None:
    """The page updates once a frame, however many messages arrive together."""
    ada, bob = await guests.room(server.url, 'many', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    await ada.context.set_offline(True)
    await expect(page.locator('#status-text')).to_have_text('connecting')
    await asyncio.gather(*[bob.post('many', f'{number}') for number in range(300)])
    devtools = await ada.context.new_cdp_session(page)
    await devtools.send('Performance.enable')

    async def num_layouts() -> int:
        metrics = (await devtools.send('Performance.getMetrics'))['metrics']
        return next(int(m['value']) for m in metrics if m['name'] == 'LayoutCount')

    before = await num_layouts()
    await ada.context.set_offline(False)
    await expect(page.locator('.message')).to_have_count(300)
    assert await num_layouts() - before < 100


async def test_room_that_was_open_for_a_moment_is_read(
    guests: Guests, server: ServerProcess
) -> None:
    """The server learns what a member has read, also if another room is opened."""
    ada, bob = await guests.room(server.url, 'glance', 'Ada', 'Bob')
    await ada.ask('POST', '/api/rooms', {'name': 'news-room'})
    page = ada.page
    assert page is not None
    await bob.post('news-room', 'read me')
    await expect(page.locator('#rooms .badge')).to_have_count(1)
    link = page.locator('#rooms a', has_text='news-room')
    await link.click()
    async with page.expect_response('**/api/rooms/news-room/read') as read:
        await ada.sees('read me')
        await page.locator('#rooms a', has_text='glance').click()
    assert 204 == (await read.value).status
    await page.reload()
    await ada.live(page)
    await expect(link).to_be_visible()
    await expect(page.locator('#rooms .badge')).to_have_count(0)
