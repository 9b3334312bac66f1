"""The rooms on the page of the chat: loading, reading, and the list of rooms."""

from __future__ import annotations

import asyncio
from pathlib import Path

from playwright.async_api import expect
from playwright.async_api import Route
from playwright.async_api import WebSocketRoute
import pytest
from support.chat_pages import chat_server
from support.chat_pages import Guests
from support.chat_pages import new_folder
from support.processes import free_port
from support.processes import ServerProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


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


async def test_page_shows_what_a_server_with_an_empty_database_has(
    guests: Guests,
) -> None:
    """After a restart without its data, the page shows the messages of the server.

    New messages have the ids of old ones. A room that the server does not know any
    more can be created again.
    """
    port, secret = free_port(), {'CHAT_SECRET': 's' * 32}
    with new_folder() as folder, chat_server(Path(folder), port, **secret) as server:
        ada, bob = await guests.room(server.url, 'lobby', 'Ada', 'Bob')
        for text in ('old one', 'old two', 'old three'):
            await bob.say(text)
        await ada.sees('old one', 'old two', 'old three')
        (cy,) = await guests.room(server.url, 'garden', 'Cy')
        await cy.say('an old flower')
    assert ada.page is not None
    assert bob.page is not None
    assert cy.page is not None
    await expect(ada.page.locator('#status-text')).to_have_text('connecting')
    requested, answer = asyncio.Event(), asyncio.Event()

    async def answer_slowly(route: Route) -> None:
        response = await route.fetch()
        requested.set()
        await answer.wait()
        await route.fulfill(response=response)

    await bob.page.route('**/api/rooms/lobby', answer_slowly)
    new = ('new one', 'new two', 'new three', 'new four')
    with new_folder() as folder, chat_server(Path(folder), port, **secret) as server:
        await ada.live(ada.page)
        await ada.sees()
        await requested.wait()
        for text in new:
            await ada.say(text)
        await ada.sees(*new)
        # The messages of the channel overtake the answer, which is without them.
        await expect(bob.messages.last).to_have_text('new four')
        answer.set()
        await bob.sees(*new)
        await expect(cy.page.locator('#empty')).to_contain_text('no such room')
        await cy.sees()
        await cy.page.get_by_role('button', name='Create it').click()
        await cy.live(cy.page)
        await cy.say('a new flower')
        await cy.sees('a new flower')
        for guest in (ada, bob, cy):
            assert guest.page is not None
            await guest.page.close()


async def test_room_link_keeps_the_focus_when_a_message_arrives(
    guests: Guests, server: ServerProcess
) -> None:
    """The list of rooms changes in place, so the keyboard focus stays where it is."""
    ada, bob = await guests.room(server.url, 'focus', 'Ada', 'Bob')
    await ada.ask('POST', '/api/rooms', {'name': 'focus-other'})
    page = ada.page
    assert page is not None
    link = page.locator('#rooms a', has_text='focus-other')
    await link.focus()
    for number in ('1', '2'):
        await bob.post('focus-other', number)
        await expect(link.locator('.badge')).to_contain_text(number)
        await expect(link).to_be_focused()
    await page.keyboard.press('Enter')
    await ada.sees('1', '2')
    await expect(link).to_have_attribute('aria-current', 'page')
    await expect(page.locator('#rooms a[aria-current]')).to_have_count(1)
    await expect(link.locator('.badge')).to_have_count(0)


async def test_news_that_arrive_while_the_rooms_are_loaded_are_not_lost(
    guests: Guests, server: ServerProcess
) -> None:
    """The list has the rooms and messages that are newer than a slow answer."""
    ada, bob = await guests.room(server.url, 'slow', 'Ada', 'Bob')
    await ada.ask('POST', '/api/rooms', {'name': 'slow-known'})
    page = ada.page
    assert page is not None
    known = page.locator('#rooms a', has_text='slow-known')
    await expect(known).to_be_visible()
    requested, answer = asyncio.Event(), asyncio.Event()

    async def answer_slowly(route: Route) -> None:
        response = await route.fetch()
        requested.set()
        await answer.wait()
        await route.fulfill(response=response)

    await page.route('**/api/rooms', answer_slowly)
    await bob.ask('POST', '/api/rooms', {'name': 'slow-first'})
    await requested.wait()
    await bob.post('slow-known', 'hello')
    await bob.ask('POST', '/api/rooms', {'name': 'slow-second'})
    await expect(known.locator('.badge')).to_contain_text('1')
    await bob.say('last news')
    await ada.sees('last news')
    answer.set()
    for name in ('slow-first', 'slow-second'):
        await expect(page.locator('#rooms a', has_text=name)).to_be_visible()
    await expect(known.locator('.badge')).to_contain_text('1')


async def test_older_messages_are_loaded_although_the_member_cannot_scroll(
    guests: Guests, server: ServerProcess
) -> None:
    """All messages can be reached on a tall screen, and after an error."""
    ada = await guests.come(server.url, 'Ada', viewport={'width': 1200, 'height': 2900})
    await ada.ask('POST', '/api/rooms', {'name': 'tall'})
    texts = [str(number) for number in range(80)]
    for text in texts:
        await ada.post('tall', text)
    failures: list[str] = []

    async def fail_once(route: Route) -> None:
        if failures:
            await route.continue_()
            return
        failures.append(route.request.url)
        await route.abort('connectionreset')

    await ada.context.route('**/api/rooms/tall/messages?*', fail_once)
    await ada.context.clock.install()
    async with ada.context.expect_event('requestfailed'):
        page = await ada.open('tall')
    # The next attempt follows after two seconds.
    await page.clock.fast_forward(2_000)
    await ada.sees(*texts)
    assert 1 == len(failures)
    await expect(page.locator('#beginning')).to_be_visible()


async def test_older_messages_that_the_server_refuses_are_requested_once(
    guests: Guests, server: ServerProcess
) -> None:
    """The member learns why. A room that is opened again begins again.

    Before, the page repeated the request every two seconds, without end.
    """
    ada = await guests.come(server.url, 'Ada', viewport={'width': 1200, 'height': 2900})
    for room in ('refused', 'allowed'):
        await ada.ask('POST', '/api/rooms', {'name': room})
        for number in range(60):
            await ada.post(room, f'{room} {number}')
    requests: list[str] = []

    async def refuse(route: Route) -> None:
        requests.append(route.request.url)
        await route.fulfill(status=403, json={'description': 'not for you'})

    await ada.context.route('**/api/rooms/refused/messages?*', refuse)
    await ada.context.clock.install()
    page = await ada.open('refused')
    notice = 'Older messages cannot be loaded: not for you'
    await expect(page.locator('#notice-text')).to_have_text(notice)
    await expect(page.locator('#older')).to_be_hidden()
    num_before = len(requests)
    # Each new message updates the page, which is not full.
    for number in range(3):
        await page.clock.fast_forward(10_000)
        await ada.post('refused', f'new {number}')
        await expect(ada.messages.last).to_have_text(f'new {number}')
    assert num_before == len(requests)
    await page.locator('#rooms a', has_text='allowed').click()
    await ada.sees(*[f'allowed {number}' for number in range(60)])
    assert num_before == len(requests)
    async with page.expect_request('**/api/rooms/refused/messages?*'):
        await page.locator('#rooms a', has_text='refused').click()


async def test_older_messages_of_a_room_are_loaded_while_another_answer_is_late(
    guests: Guests, server: ServerProcess
) -> None:
    """The other room did not fill a tall screen until the next message arrived."""
    ada = await guests.come(server.url, 'Ada', viewport={'width': 1200, 'height': 2900})
    for room in ('late', 'early'):
        await ada.ask('POST', '/api/rooms', {'name': room})
        for number in range(60):
            await ada.post(room, f'{room} {number}')
    asked, released = asyncio.Event(), asyncio.Event()

    async def answer_late(route: Route) -> None:
        asked.set()
        await released.wait()
        await route.continue_()

    await ada.context.route('**/api/rooms/late/messages?*', answer_late)
    page = await ada.open('late')
    await asyncio.wait_for(asked.wait(), 30)
    await page.locator('#rooms a', has_text='early').click()
    await expect(ada.messages.last).to_have_text('early 59')
    released.set()
    await ada.sees(*[f'early {number}' for number in range(60)])


async def test_created_room_has_the_address_of_its_name(
    guests: Guests, server: ServerProcess
) -> None:
    """A room that is created at another spelling of its name is opened by its name."""
    ada = await guests.come(server.url, 'Ada')
    page = await ada.tab()
    await page.goto(f'{server.url}/rooms/My%20Garden')
    await page.get_by_role('button', name='Create it').click()
    await ada.live(page)
    assert f'{server.url}/rooms/my-garden' == page.url
    current = page.locator('#rooms a[aria-current]')
    await expect(current).to_contain_text('my-garden')
    await expect(page).to_have_title('#my-garden · Falcon Chat')


async def test_skip_link_keeps_what_the_member_prepared(
    guests: Guests, server: ServerProcess
) -> None:
    """The link to the message field does not open the room again."""
    ada, bob = await guests.room(server.url, 'skipping', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    await ada.say('helo')
    await page.get_by_label('Edit this message').click()
    field = page.get_by_label('Message', exact=True)
    await field.fill('hello')
    await page.locator('.skip').focus()
    await page.keyboard.press('Enter')
    await expect(field).to_be_focused()
    await expect(field).to_have_value('hello')
    await page.keyboard.press('Enter')
    await bob.sees('hello')


async def test_message_that_was_read_in_another_tab_is_not_unread_again(
    guests: Guests, server: ServerProcess
) -> None:
    """The read mark and the news of a message can arrive in any order."""
    ada, bob = await guests.room(server.url, 'marks', 'Ada', 'Bob')
    await ada.ask('POST', '/api/rooms', {'name': 'marked'})
    is_holding = False
    held: list[str] = []
    sockets: list[WebSocketRoute] = []
    read = asyncio.Event()

    def relay(socket: WebSocketRoute) -> None:
        upstream = socket.connect_to_server()
        sockets.append(socket)

        def on_message(frame: str | bytes) -> None:
            assert isinstance(frame, str)
            for line in frame.split('\n'):
                if is_holding and '"channel":"news"' in line:
                    held.append(line)
                else:
                    socket.send(line)
                if '"read":' in line:
                    read.set()

        upstream.on_message(on_message)

    await ada.context.route_web_socket('**/connection/websocket', relay)
    page = await ada.open('marks')
    link = page.locator('#rooms a', has_text='marked')
    await expect(link).to_be_visible()
    is_holding = True
    message = await bob.post('marked', 'read me')
    await ada.ask('PUT', '/api/rooms/marked/read', {'message': message['id']})
    await read.wait()
    is_holding = False
    assert 1 == len(held)
    sockets[0].send(held[0])
    await bob.post('marked', 'read me, too')
    await expect(link.locator('.badge')).to_contain_text('1')
