"""The page of the chat when the connection, the server or a request fails."""

from __future__ import annotations

from pathlib import Path
import time
from urllib.parse import urlsplit

from playwright.async_api import expect
from playwright.async_api import Route
from playwright.async_api import WebSocketRoute
import pytest
from support.chat_pages import chat_server
from support.chat_pages import Guests
from support.chat_pages import new_folder
from support.processes import free_port
from support.processes import ServerProcess
from support.proxy import Proxy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


async def test_messages_sent_while_offline_appear_once_after_reconnect(
    guests: Guests, server: ServerProcess
) -> None:
    """Messages sent and received while offline appear once after the reconnect."""
    bob = await guests.come(server.url, 'Bob')
    async with Proxy(server.port) as cable:
        ada = await guests.come(cable.url, 'Ada')
        page = await ada.open('lobby')
        await ada.say('before')
        await cable.cut()
        cut_s = time.monotonic()
        await expect(page.locator('#status-text')).to_have_text('connecting')
        await expect(page.locator('#offline')).to_be_hidden()
        texts = [f'meanwhile {number}' for number in range(30)]
        for text in texts[:15]:
            await bob.post('lobby', text)
        field = page.get_by_label('Message', exact=True)
        await field.fill('from the tunnel')
        await page.keyboard.press('Enter')
        await field.fill('and a second')
        await page.keyboard.press('Enter')
        await expect(page.locator('.message.failed')).to_have_count(2)
        # The banner appears after 5 s, not before.
        await expect(page.locator('#offline')).to_be_visible()
        await ada.shot('offline')
        for text in texts[15:]:
            await bob.post('lobby', text)
        await page.wait_for_function(
            'begun => performance.now() - begun > 10_000',
            arg=await page.evaluate('performance.now()')
            - (time.monotonic() - cut_s) * 1000,
        )
        await cable.mend()
        await expect(page.locator('#offline')).to_be_hidden()
        await ada.sees('before', *texts, 'from the tunnel', 'and a second')
        await expect(page.locator('.failed, .pending')).to_have_count(0)
        await expect(page.locator('#notice')).to_be_hidden()
        await page.close()


async def test_device_back_online_reconnects_at_once(
    guests: Guests, server: ServerProcess
) -> None:
    """When the device is online again, the page reconnects without a delay."""
    ada, bob = await guests.room(server.url, 'device', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    await ada.context.set_offline(True)
    await expect(page.locator('#status-text')).to_have_text('connecting')
    await bob.say('are you there?')
    await page.get_by_label('Message', exact=True).fill('yes')
    await page.keyboard.press('Enter')
    await ada.context.set_offline(False)
    await ada.sees('are you there?', 'yes')
    await bob.sees('are you there?', 'yes')


async def test_network_without_websockets_uses_http_instead(
    guests: Guests, server: ServerProcess
) -> None:
    """If the network blocks WebSockets, the page uses HTTP streaming."""
    ada, bob = await guests.room(server.url, 'no-ws', 'Ada', 'Bob')
    await ada.context.route_web_socket(
        '**/connection/websocket', lambda socket: socket.close()
    )
    paths: list[str] = []
    ada.context.on('request', lambda request: paths.append(urlsplit(request.url).path))
    page = await ada.open('no-ws')
    assert '/connection/http_stream' in paths
    assert bob.page is not None
    await bob.say('Hello')
    await ada.say('Hello by HTTP')
    for guest in (ada, bob):
        await guest.sees('Hello', 'Hello by HTTP')
    await page.get_by_label('Message', exact=True).press_sequentially('more')
    await expect(bob.page.locator('#typing')).to_have_text('Ada is typing')


async def test_server_restart_under_open_pages_loses_no_message(guests: Guests) -> None:
    """After a restart of the server two open pages continue and lose no message."""
    port = free_port()
    with new_folder() as folder:
        with chat_server(Path(folder), port) as server:
            ada, bob = await guests.room(server.url, 'restart', 'Ada', 'Bob')
            await ada.say('before')
            await bob.sees('before')
        for guest in (ada, bob):
            assert guest.page is not None
            await expect(guest.page.locator('#status-text')).to_have_text('connecting')
        with chat_server(Path(folder), port) as server:
            for guest in (ada, bob):
                assert guest.page is not None
                await guest.live(guest.page)
            await bob.say('after')
            await ada.sees('before', 'after')
            await ada.say('indeed')
            await bob.sees('before', 'after', 'indeed')
            for guest in (ada, bob):
                assert guest.page is not None
                await expect(guest.page.locator('#members bdi')).to_have_text(
                    ['Ada', 'Bob']
                )
                await expect(guest.page.locator('#notice')).to_be_hidden()
                await guest.page.close()


async def test_unrecoverable_gap_reloads_the_room_with_a_notice(guests: Guests) -> None:
    """If the channel has lost its history, the page reloads the room with a notice."""
    port = free_port()
    memory = {'CHAT_BROKER': 'memory://'}
    with new_folder() as folder:
        with chat_server(Path(folder), port, **memory) as server:
            ada, bob = await guests.room(server.url, 'gap', 'Ada', 'Bob')
            page = ada.page
            assert page is not None
            await ada.say('before')
            await bob.sees('before')
        await expect(page.locator('#status-text')).to_have_text('connecting')
        with chat_server(Path(folder), port, **memory) as server:
            await bob.post('gap', 'while nobody listened')
            await ada.live(page)
            await expect(page.locator('#notice')).to_contain_text('loaded again')
            await ada.sees('before', 'while nobody listened')
            for guest in (ada, bob):
                assert guest.page is not None
                await guest.page.close()


async def test_failed_message_can_be_sent_again(
    guests: Guests, server: ServerProcess
) -> None:
    """A failed message is marked, and is sent once by "Send again"."""
    ada, bob = await guests.room(server.url, 'fail', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    path = '**/api/rooms/fail/messages'
    await page.route(path, lambda route: route.fulfill(status=403, json={}))
    field = page.get_by_label('Message', exact=True)
    await field.fill('hello?')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed .words')).to_have_text('hello?')
    await ada.shot('failed')
    await page.unroute(path)
    await page.get_by_role('button', name='Send again').click()
    await bob.sees('hello?')
    await ada.sees('hello?')
    await expect(page.locator('.failed')).to_have_count(0)


async def test_message_with_lost_response_is_retried_and_appears_once(
    guests: Guests, server: ServerProcess
) -> None:
    """A message whose response was lost is sent again, and appears once.

    At first the page receives neither the response nor the publication.
    """
    ada, bob = await guests.room(server.url, 'lost', 'Ada', 'Bob')
    drop_pushes = False
    attempts: list[int] = []

    def relay(socket: WebSocketRoute) -> None:
        upstream = socket.connect_to_server()
        upstream.on_message(lambda text: None if drop_pushes else socket.send(text))

    async def lose_the_answer(route: Route) -> None:
        response = await route.fetch()
        attempts.append(response.status)
        if len(attempts) > 1:
            await route.fulfill(response=response)
        else:
            await route.abort('connectionreset')

    await ada.context.route_web_socket('**/connection/websocket', relay)
    page = await ada.open('lost')
    drop_pushes = True
    await page.route('**/api/rooms/lost/messages', lose_the_answer)
    await page.get_by_label('Message', exact=True).fill('once')
    await page.keyboard.press('Enter')
    await bob.sees('once')
    # The page retries automatically because the server did not refuse the message.
    await expect(page.locator('.message:not(.failed):not(.pending)')).to_have_count(1)
    assert [201, 200] == attempts
    drop_pushes = False
    await bob.say('twice')
    await ada.sees('once', 'twice')
    await bob.sees('once', 'twice')


async def test_unsent_message_is_sent_after_a_reload(
    guests: Guests, server: ServerProcess
) -> None:
    """An unsent message survives a reload, and is sent then."""
    ada, bob = await guests.room(server.url, 'kept', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    path = '**/api/rooms/kept/messages'
    await page.route(path, lambda route: route.abort('internetdisconnected'))
    await page.get_by_label('Message', exact=True).fill('keep me')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    await page.unroute(path)
    await page.reload()
    await bob.sees('keep me')
    await ada.sees('keep me')


async def test_leaving_shows_the_welcome_form_in_every_tab(
    guests: Guests, server: ServerProcess
) -> None:
    """After leaving, every tab asks for a name again."""
    (ada,) = await guests.room(server.url, 'leaving', 'Ada')
    first = ada.page
    second = await ada.open('leaving')
    assert first is not None
    await second.get_by_role('button', name='Leave the chat').click()
    await expect(second.get_by_label('Your name')).to_be_visible()
    await expect(first.get_by_label('Your name')).to_be_visible()


async def test_connection_that_the_server_closes_for_good_is_shown_as_lost(
    guests: Guests, server: ServerProcess
) -> None:
    """After a close code that ends the connection for good, the page says so.

    The SDK does not reconnect after such a code. The page does, later or when the
    device is online again.
    """
    sockets: list[WebSocketRoute] = []

    def relay(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    ada = await guests.come(server.url, 'Ada')
    await ada.context.route_web_socket('**/connection/websocket', relay)
    page = await ada.open('lobby')
    await sockets[0].close(code=3501, reason='bad request')
    await expect(page.locator('#status-text')).to_have_text('connecting')
    await page.evaluate("dispatchEvent(new Event('online'))")
    await ada.live(page)
