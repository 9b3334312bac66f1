"""The page of the chat sends each message once, in order, and as its writer."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from playwright.async_api import expect
from playwright.async_api import Page
from playwright.async_api import Request
from playwright.async_api import Route
import pytest
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


#: The smallest PNG image.
PIXEL = base64.b64decode(
    'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9'
    'awAAAABJRU5ErkJggg=='
)


async def attach(page: Page) -> None:
    """Attach an image to the message that is written next."""
    image = {'name': 'a.png', 'mimeType': 'image/png', 'buffer': PIXEL}
    await page.locator('#file').set_input_files(image)
    await expect(page.locator('#attachment')).to_be_visible()


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


async def test_full_image_storage_does_not_stop_the_next_messages(
    guests: Guests,
) -> None:
    """If the server has no space for an image, the image waits for its sender.

    It is not uploaded again without a request, and the next messages are sent.
    """
    with (
        new_folder() as folder,
        chat_server(Path(folder), CHAT_MAX_IMAGES_BYTES='10') as server,
    ):
        ada, bob = await guests.room(server.url, 'full', 'Ada', 'Bob')
        page = ada.page
        assert page is not None
        uploads: list[Request] = []
        page.on(
            'request',
            lambda request: (
                uploads.append(request) if request.url.endswith('/api/images') else None
            ),
        )
        await attach(page)
        await page.keyboard.press('Enter')
        await expect(page.locator('.failure')).to_contain_text('is full')
        field = page.get_by_label('Message', exact=True)
        for text in ('one', 'two'):
            await field.fill(text)
            await page.keyboard.press('Enter')
        await bob.sees('one', 'two')
        assert 1 == len(uploads)
        await expect(page.locator('.message.failed')).to_have_count(1)


async def test_deleted_image_is_uploaded_again_by_send_again(
    guests: Guests, server: ServerProcess
) -> None:
    """If the server has deleted the image of a message, the page uploads it again."""
    ada, bob = await guests.room(server.url, 'again', 'Ada', 'Bob')
    page = ada.page
    assert page is not None

    async def answer_other_id(route: Route) -> None:
        await route.fetch()
        await route.fulfill(json={'id': 'deleted'})

    await page.route('**/api/images', answer_other_id)
    await attach(page)
    await page.keyboard.press('Enter')
    await expect(page.locator('.failure')).to_contain_text('Upload it again')
    await page.unroute('**/api/images')
    await page.get_by_role('button', name='Send again').click()
    assert bob.page is not None
    await expect(bob.page.locator('.message img')).to_have_count(1)
    await expect(page.locator('.failed, .pending')).to_have_count(0)


async def test_retry_after_with_a_date_is_not_an_endless_loop(
    guests: Guests, server: ServerProcess
) -> None:
    """The page waits at least a second after 429, whatever `Retry-After` says."""
    ada, bob = await guests.room(server.url, 'date', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    attempts: list[float] = []

    async def refuse_once(route: Route) -> None:
        attempts.append(asyncio.get_running_loop().time())
        if len(attempts) > 1:
            await route.continue_()
            return
        date = 'Wed, 21 Oct 2037 07:28:00 GMT'
        await route.fulfill(status=429, headers={'Retry-After': date}, json={})

    await page.route('**/api/rooms/date/messages', refuse_once)
    await page.get_by_label('Message', exact=True).fill('patient')
    await page.keyboard.press('Enter')
    await bob.sees('patient')
    assert 2 == len(attempts)
    assert attempts[1] - attempts[0] > 0.9


async def test_tab_of_a_member_who_has_left_sends_nothing_for_the_next_member(
    guests: Guests, server: ServerProcess
) -> None:
    """Messages of a member are never sent under the name of another member.

    Ada writes while she is offline. Meanwhile Zoe picks a name in the same browser.
    """
    ada = await guests.come(server.url, 'Ada')
    await ada.ask('POST', '/api/rooms', {'name': 'next'})
    page = await ada.open('next')
    await ada.context.set_offline(True)
    await expect(page.locator('#status-text')).to_have_text('connecting')
    await page.get_by_label('Message', exact=True).fill('a secret of Ada')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    await ada.context.clear_cookies()
    await ada.ask('POST', '/api/session', {'name': 'Zoe'})
    await ada.context.set_offline(False)
    await expect(page.locator('#my-name')).to_have_text('Zoe')
    await ada.live(page)
    await ada.say('I am Zoe')
    await ada.sees('I am Zoe')


async def test_page_asks_for_a_name_when_the_session_has_ended(
    guests: Guests, server: ServerProcess
) -> None:
    """If the browser has no session any more, the page shows the form for the name."""
    ada = await guests.come(server.url, 'Ada')
    page = await ada.open('lobby')
    await page.get_by_label('Message', exact=True).fill('hello')
    # From here on, each request of the page may show the form, also one of its start.
    await ada.context.clear_cookies()
    await page.keyboard.press('Enter')
    await expect(page.get_by_label('Your name')).to_be_visible()


async def test_edit_that_fails_keeps_its_text(
    guests: Guests, server: ServerProcess
) -> None:
    """If an edit cannot be sent, the member does not have to write it again."""
    ada, bob = await guests.room(server.url, 'editing', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    await ada.say('one')
    field = page.get_by_label('Message', exact=True)
    path = '**/api/rooms/editing/messages/*'
    await page.route(path, lambda route: route.abort('internetdisconnected'))
    await page.keyboard.press('ArrowUp')
    await field.fill('one, and much more')
    await page.keyboard.press('Enter')
    await expect(page.locator('#notice')).to_be_visible()
    await expect(page.locator('#context')).to_have_text('Editing your message')
    await expect(field).to_have_value('one, and much more')
    # Another room is opened before the edit is sent again.
    await page.locator('#rooms a', has_text='lobby').click()
    await page.locator('#rooms a', has_text='editing').click()
    await page.unroute(path)
    await page.get_by_label('Edit this message').click()
    await expect(field).to_have_value('one, and much more')
    await page.keyboard.press('Enter')
    await bob.sees('one, and much more')


async def test_image_that_is_late_is_not_attached_in_another_room(
    guests: Guests, server: ServerProcess
) -> None:
    """An image is only attached in the room in which it was picked."""
    ada, _ = await guests.room(server.url, 'slow-image', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    # The page draws each JPEG again. Here, this takes until the promise is resolved.
    await page.evaluate(
        """() => {
          const create = window.createImageBitmap.bind(window);
          const drawn = new Promise((resolve) => { window.finishDrawing = resolve; });
          window.createImageBitmap = async () => {
            await drawn;
            return create(new ImageData(1, 1));
          };
        }"""
    )
    image = {'name': 'a.jpg', 'mimeType': 'image/jpeg', 'buffer': b'\xff\xd8\xff'}
    await page.locator('#file').set_input_files(image)
    await page.locator('#rooms a', has_text='lobby').click()
    await expect(page.locator('#room-name')).to_have_text('lobby')
    await page.evaluate('window.finishDrawing()')
    # The next image comes after the late one.
    await page.evaluate(
        """() => new Promise((resolve) => {
          const canvas = document.createElement('canvas');
          canvas.toBlob(() => resolve(true), 'image/jpeg');
        })"""
    )
    await expect(page.locator('#attachment')).to_be_hidden()
    await attach(page)
    await page.get_by_label('Remove the image').click()
    await expect(page.locator('#attachment')).to_be_hidden()


async def test_message_with_lost_response_is_shown_once_when_the_page_is_back(
    guests: Guests, server: ServerProcess
) -> None:
    """A stored message that waits for its answer is shown as stored, and once."""
    (ada,) = await guests.room(server.url, 'shown-once', 'Ada')
    page = ada.page
    assert page is not None
    await ada.context.set_offline(True)
    await expect(page.locator('#status-text')).to_have_text('connecting')
    await page.get_by_label('Message', exact=True).fill('once')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    key = await page.locator('.message.failed').get_attribute('data-key')
    path = '/api/rooms/shown-once/messages'
    await ada.ask('POST', path, {'text': 'once', 'key': key})
    await page.route(f'**{path}', lambda route: asyncio.sleep(0))
    await page.goto('about:blank')
    await ada.context.set_offline(False)
    await page.goto(f'{server.url}/rooms/shown-once')
    await ada.live(page)
    await expect(page.locator('.message')).to_have_count(1)
    await expect(page.locator('.pending, .failed')).to_have_count(0)


async def test_unsent_message_of_a_copied_tab_is_sent_once_to_its_room(
    guests: Guests, server: ServerProcess
) -> None:
    """A tab that the page opens has a copy of its unsent messages."""
    ada, bob = await guests.room(server.url, 'copied', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    path = '**/api/rooms/copied/messages'
    await ada.context.route(path, lambda route: route.abort('internetdisconnected'))
    await page.get_by_label('Message', exact=True).fill('only once')
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    async with ada.context.expect_page() as opened:
        await page.evaluate("window.open('/rooms/lobby')")
    copy = await opened.value
    await ada.live(copy)
    stored = 'Object.keys(sessionStorage).length'
    assert 1 == await copy.evaluate(stored)
    await expect(copy.locator('.message', has_text='only once')).to_have_count(0)
    await ada.context.unroute(path)
    for tab in (page, copy):
        await tab.reload()
        await ada.live(tab)
        await tab.wait_for_function(f'{stored} === 0')
    await bob.say('after')
    await bob.sees('only once', 'after')


async def test_page_with_a_waiting_image_asks_before_it_is_closed(
    guests: Guests, server: ServerProcess
) -> None:
    """An image that waits is not stored, so it is not lost without a question."""
    ada, bob = await guests.room(server.url, 'waiting', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    await page.route('**/api/images', lambda route: route.abort('connectionreset'))
    await attach(page)
    await page.keyboard.press('Enter')
    await expect(page.locator('.message.failed')).to_have_count(1)
    async with page.expect_event('dialog') as asked:
        await page.close(run_before_unload=True)
    dialog = await asked.value
    assert 'beforeunload' == dialog.type
    await dialog.dismiss()
    await page.unroute('**/api/images')
    await page.get_by_role('button', name='Send again').click()
    assert bob.page is not None
    await expect(bob.page.locator('.message img')).to_have_count(1)
    await expect(page.locator('.failed, .pending')).to_have_count(0)
    await page.close(run_before_unload=True)
