"""The page of the chat in a real browser: messages, rooms, images, accessibility."""

from __future__ import annotations

from pathlib import Path
import re

from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.chat_pages import Guest
from support.chat_pages import Guests
from support.processes import ROOT
from support.processes import ServerProcess

AXE = ROOT / 'src/falcon_channels_chat/web/node_modules/axe-core/axe.min.js'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


async def test_two_people_receive_the_messages_of_each_other(
    guests: Guests, server: ServerProcess
) -> None:
    """A new member picks a name, opens a room, and both members get all messages."""
    (bob,) = await guests.room(server.url, 'talk', 'Bob')
    ada = await guests.come(server.url, 'Ada')
    await ada.context.clear_cookies()
    page = await ada.tab()
    await page.goto(f'{server.url}/rooms/talk')
    await page.get_by_label('Your name').fill('   ')
    await page.get_by_role('button', name='Enter the chat').click()
    await expect(page.get_by_role('alert')).to_contain_text('1 to 40 characters')
    await page.get_by_label('Your name').fill('Ada')
    await page.keyboard.press('Enter')
    await ada.live(page)
    await bob.say('Hello, Ada')
    await ada.sees('Hello, Ada')
    await ada.say('Hello, Bob')
    await bob.sees('Hello, Ada', 'Hello, Bob')
    assert bob.page is not None
    await expect(bob.page.locator('.message:not(.mine) .author')).to_have_text('Ada')
    await expect(bob.page.locator('.message.mine .words')).to_have_text('Hello, Ada')
    await expect(page.locator('.day')).to_have_text('Today')
    await expect(page.locator('#announcer')).to_have_text('Bob: Hello, Ada')


async def test_member_list_and_typing_line_follow_other_members(
    guests: Guests, server: ServerProcess
) -> None:
    """The page shows the present members, and those that type or have left."""
    ada, bob = await guests.room(server.url, 'presence', 'Ada', 'Bob')
    assert ada.page is not None
    assert bob.page is not None
    names = ada.page.locator('#members bdi')
    await expect(names).to_have_text(['Ada', 'Bob'])
    await bob.page.get_by_label('Message', exact=True).press_sequentially('soon')
    await expect(ada.page.locator('#typing')).to_have_text('Bob is typing')
    await expect(bob.page.locator('#typing')).to_have_text('')
    await bob.page.keyboard.press('Enter')
    await expect(ada.page.locator('#typing')).to_have_text('')
    await bob.page.get_by_label('Message', exact=True).press_sequentially('and')
    await expect(ada.page.locator('#typing')).to_have_text('Bob is typing')
    # A member who closes the page while typing disappears after a while.
    await bob.page.close()
    await expect(ada.page.locator('#typing')).to_have_text('')
    await expect(names).to_have_text(['Ada'])


async def test_person_with_two_tabs_is_listed_once(
    guests: Guests, server: ServerProcess
) -> None:
    """A member with two tabs is listed once, until the last tab is closed."""
    ada, bob = await guests.room(server.url, 'tabs', 'Ada', 'Bob')
    first = ada.page
    second = await ada.open('tabs')
    assert bob.page is not None
    assert first is not None
    names = bob.page.locator('#members bdi')
    await expect(names).to_have_text(['Ada', 'Bob'])
    await ada.say('from the second')
    await expect(first.locator('.message.mine .words')).to_have_text('from the second')
    await second.close()
    await bob.say('still here?')
    await expect(first.locator('#messages .words').last).to_have_text('still here?')
    await expect(names).to_have_text(['Ada', 'Bob'])
    await first.close()
    await expect(names).to_have_text(['Bob'])


async def test_reload_restores_messages_and_draft(
    guests: Guests, server: ServerProcess
) -> None:
    """A reload restores all messages and the draft."""
    ada, bob = await guests.room(server.url, 'reload', 'Ada', 'Bob')
    await ada.say('one')
    await bob.say('two')
    await ada.sees('one', 'two')
    assert ada.page is not None
    field = ada.page.get_by_label('Message', exact=True)
    await field.fill('not yet sent')
    await ada.page.reload()
    await ada.live(ada.page)
    await ada.sees('one', 'two')
    await expect(field).to_have_value('not yet sent')


async def test_edited_and_deleted_message_changes_on_other_pages(
    guests: Guests, server: ServerProcess
) -> None:
    """An edit or deletion changes the message on the pages of other members."""
    ada, bob = await guests.room(server.url, 'edit', 'Ada', 'Bob')
    await ada.say('helo')
    await bob.sees('helo')
    assert ada.page is not None
    assert bob.page is not None
    await expect(bob.page.get_by_label('Edit this message')).to_have_count(0)
    await ada.page.keyboard.press('ArrowUp')
    field = ada.page.get_by_label('Message', exact=True)
    await expect(field).to_have_value('helo')
    await field.fill('hello')
    await ada.page.keyboard.press('Enter')
    await bob.sees('hello')
    await expect(bob.page.locator('.foot')).to_contain_text('edited')
    await ada.page.locator('.message').hover()
    await ada.page.get_by_label('Delete this message', exact=True).click()
    await ada.page.get_by_role('button', name='Keep it').click()
    await ada.sees('hello')
    await ada.page.get_by_label('Delete this message', exact=True).click()
    await ada.page.get_by_role('button', name='Delete', exact=True).click()
    await expect(bob.page.locator('.gone')).to_have_text('This message was deleted.')
    await bob.sees()


async def test_scrolling_up_loads_older_messages_and_keeps_the_position(
    guests: Guests, server: ServerProcess
) -> None:
    """Scrolling up loads 500 messages page by page and keeps the scroll position."""
    ada = await guests.come(server.url, 'Ada')
    await ada.ask('POST', '/api/rooms', {'name': 'long'})
    texts = [f'message {number}' for number in range(500)]
    for text in texts:
        await ada.post('long', text)
    page = await ada.open('long')
    rows = page.locator('#messages .words')
    await expect(rows).to_have_text(texts[-50:])
    await expect(rows.last).to_be_in_viewport()
    timeline = page.locator('#timeline')
    first = rows.first
    for count in range(100, 550, 50):
        seen = await first.text_content()
        await timeline.evaluate('it => { it.scrollTop = 0; }')
        await expect(rows).to_have_count(count)
        await expect(page.get_by_text(seen or '', exact=True)).to_be_in_viewport()
    await expect(rows).to_have_text(texts)
    await expect(page.get_by_text('This is where the room begins.')).to_be_attached()
    await ada.shot('scrolled')
    await ada.post('long', 'the newest')
    await page.get_by_role('button', name='Newest').click()
    await expect(page.get_by_text('the newest')).to_be_in_viewport()


TEXTS = [
    '<img src=x onerror="document.title=1">',
    '<script>document.title = 1</script> &amp; "quotes"',
    'مرحبا بالعالم',
    '👩‍👩‍👧‍👦 🦅',
    'line one\nline two',
    "'; DROP TABLE messages; --",
    'x' * 4000,
]


async def test_text_of_any_kind_is_shown_as_typed(
    guests: Guests, server: ServerProcess
) -> None:
    """Markup, other scripts, emoji and long texts are shown as they were typed."""
    name = '<b onclick="x">شهرزاد</b>'
    ada, bob = await guests.room(server.url, 'words', name, 'Bob')
    for text in TEXTS:
        await ada.say(text)
    assert ada.page is not None
    assert bob.page is not None
    await expect(bob.page.locator('#messages .words')).to_have_count(len(TEXTS))
    shown = await bob.page.locator('#messages .words').all_text_contents()
    assert TEXTS == shown
    assert 0 == await bob.page.locator('#messages :is(script, b, img)').count()
    await expect(bob.page.locator('.message .author').first).to_have_text(name)
    arabic = bob.page.locator('#messages .words').nth(2)
    assert 'rtl' == await arabic.evaluate('it => getComputedStyle(it).direction')
    assert await fits(bob.page)
    field = ada.page.get_by_label('Message', exact=True)
    await field.fill('x' * 4001)
    await expect(ada.page.locator('#counter')).to_have_text(
        '1 over the limit of 4000 characters'
    )
    await ada.page.keyboard.press('Enter')
    await expect(field).to_have_value('x' * 4001)
    await expect(ada.messages).to_have_count(len(TEXTS))


async def test_only_http_addresses_become_links(
    guests: Guests, server: ServerProcess
) -> None:
    """Only http and https addresses become links, with rel="noopener"."""
    (ada,) = await guests.room(server.url, 'links', 'Ada')
    await ada.say(
        'see (https://example.com/a_(b)?c=d#e), javascript:alert(1) and ftp://x'
    )
    assert ada.page is not None
    links = ada.page.locator('#messages .words a')
    await expect(links).to_have_text(['https://example.com/a_(b)?c=d#e'])
    await expect(links).to_have_attribute('href', 'https://example.com/a_(b)?c=d#e')
    await expect(links).to_have_attribute('rel', re.compile('noopener'))


async def test_unread_badge_of_another_room_is_cleared_by_reading(
    guests: Guests, server: ServerProcess
) -> None:
    """A badge counts unread messages of a room until any tab has shown them."""
    ada, bob = await guests.room(server.url, 'here', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    assert bob.page is not None
    await bob.page.get_by_label('Name of a new room').fill('Over There')
    await bob.page.keyboard.press('Enter')
    await expect(bob.page).to_have_url(f'{server.url}/rooms/over-there')
    await bob.live(bob.page)
    for text in ('one', 'two'):
        await bob.say(text)
    link = page.get_by_role('link', name='over-there')
    await expect(link.locator('.badge')).to_have_text('2 unread')
    await expect(page).to_have_title('(2) #here · Falcon Chat')
    other = await ada.open('here')
    await expect(other.locator('.badge')).to_have_text('2 unread')
    await other.get_by_role('link', name='over-there').click()
    await ada.sees('one', 'two')
    await expect(page.locator('.badge')).to_have_count(0)
    await other.go_back()
    await expect(other.locator('#room-name')).to_have_text('here')
    await other.goto(f'{server.url}/rooms/no-such-room')
    await expect(other.locator('#empty')).to_contain_text('There is no such room.')
    await other.get_by_role('button', name='Create it').click()
    await ada.live(other)


async def test_image_can_be_sent_and_other_files_are_refused(
    guests: Guests, server: ServerProcess, tmp_path: Path
) -> None:
    """An image can be sent; a file that is not an image is refused."""
    ada, bob = await guests.room(server.url, 'images', 'Ada', 'Bob')
    assert ada.page is not None
    assert bob.page is not None
    picture = tmp_path / 'picture.png'
    await ada.page.screenshot(path=picture)
    await ada.page.set_input_files('#file', picture)
    await expect(ada.page.locator('#attachment img')).to_be_visible()
    await ada.say('my screen')
    image = bob.page.locator('.picture img')
    await expect(image).to_be_visible()
    await expect(image).to_have_js_property('complete', True)
    assert 0 < await image.evaluate('it => it.naturalWidth')
    text = tmp_path / 'notes.txt'
    text.write_text('no picture')
    await ada.page.set_input_files('#file', text)
    await expect(ada.page.locator('#context')).to_contain_text(
        'PNG, JPEG, GIF and WebP'
    )
    liar = tmp_path / 'liar.png'
    liar.write_text('<svg/>')
    await ada.page.set_input_files('#file', liar)
    await ada.page.keyboard.press('Enter')
    await expect(ada.page.locator('.failure')).to_contain_text(
        'PNG, JPEG, GIF and WebP'
    )
    await ada.shot('image')


async def test_pasted_image_is_sent(guests: Guests, server: ServerProcess) -> None:
    """An image from the clipboard can be sent, too."""
    (ada,) = await guests.room(server.url, 'paste', 'Ada')
    assert ada.page is not None
    await ada.page.evaluate(
        """async () => {
            const canvas = document.createElement('canvas');
            const blob = await new Promise((done) => canvas.toBlob(done, 'image/jpeg'));
            const clipboardData = new DataTransfer();
            clipboardData.items.add(new File([blob], 'a.jpg', { type: 'image/jpeg' }));
            document.getElementById('text').dispatchEvent(
                new ClipboardEvent('paste', { clipboardData, cancelable: true }));
        }"""
    )
    await expect(ada.page.locator('#attachment img')).to_be_visible()
    await ada.page.keyboard.press('Enter')
    await expect(
        ada.page.locator('.message:not(.pending) .picture img')
    ).to_be_visible()


async def test_keyboard_can_insert_newline_and_emoji(
    guests: Guests, server: ServerProcess
) -> None:
    """Shift+Enter inserts a new line, and the keyboard can pick an emoji."""
    (ada,) = await guests.room(server.url, 'keys', 'Ada')
    assert ada.page is not None
    keyboard = ada.page.keyboard
    field = ada.page.get_by_label('Message', exact=True)
    await field.press_sequentially('a')
    await keyboard.press('Shift+Enter')
    await field.press_sequentially('b ')
    await keyboard.press('Tab')
    await keyboard.press('Enter')
    await keyboard.press('ArrowRight')
    await keyboard.press('Enter')
    await expect(field).to_be_focused()
    await keyboard.press('Enter')
    await ada.sees('a\nb 😄')


async def test_narrow_screen_opens_panels_with_buttons(
    guests: Guests, server: ServerProcess
) -> None:
    """On a narrow screen two buttons open the panels, and nothing overflows."""
    ada = await guests.come(
        server.url,
        'Ada',
        viewport={'width': 360, 'height': 700},
        has_touch=True,
        is_mobile=True,
    )
    page = await ada.open('lobby')
    await ada.say('From the bus: ' + 'long ' * 60 + 'x' * 300)
    assert await fits(page)
    await expect(page.get_by_role('link', name='lobby')).to_be_hidden()
    await page.get_by_role('button', name='Rooms').tap()
    await expect(page.get_by_role('link', name='lobby')).to_be_visible()
    await ada.shot('phone-rooms')
    await page.keyboard.press('Escape')
    await expect(page.get_by_role('link', name='lobby')).to_be_hidden()
    await page.locator('#show-members').tap()
    await expect(page.locator('#members')).to_be_visible()
    await page.locator('#shade').tap(position={'x': 5, 'y': 300})
    await expect(page.locator('#members')).to_be_hidden()
    assert await fits(page)
    await ada.shot('phone')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
async def test_page_has_no_serious_accessibility_findings(
    guests: Guests, server: ServerProcess, scheme: str
) -> None:
    """axe finds nothing serious on any view, on wide and narrow screens."""
    bob = await guests.come(server.url, 'Bob')
    ada = await guests.come(server.url, 'Ada Lovelace', color_scheme=scheme)
    room = f'axe-{scheme}'
    await ada.ask('POST', '/api/rooms', {'name': room})
    await bob.open(room)
    page = await ada.open(room)
    await bob.say('Good morning! The notes are at https://falcon.readthedocs.io/ now.')
    await ada.say('Thank you')
    await bob.say('You are welcome 🌱')
    deleted = await ada.post(room, 'oh')
    await ada.ask('DELETE', f'/api/rooms/{room}/messages/{deleted["id"]}')
    await expect(page.locator('.gone')).to_have_count(1)
    assert [] == await serious_findings(page)
    await ada.shot(scheme)
    await page.get_by_role('button', name='Emoji').click()
    assert [] == await serious_findings(page)
    await page.set_viewport_size({'width': 360, 'height': 700})
    await page.get_by_role('button', name='Rooms').click()
    assert [] == await serious_findings(page)
    stranger = Guest(ada.context, server.url, '')
    await ada.context.clear_cookies()
    page = await stranger.tab()
    await page.goto(server.url)
    await expect(page.get_by_label('Your name')).to_be_focused()
    assert [] == await serious_findings(page)
    assert [] == stranger.errors


async def serious_findings(page: Page) -> list[str]:
    """Return the serious and critical findings of axe, with the elements."""
    await page.evaluate(AXE.read_text())
    # Wait for animations, because a fading element has too little contrast.
    await page.evaluate(
        'Promise.all(document.getAnimations().map((it) => it.finished))'
    )
    results = await page.evaluate('axe.run()')
    return [
        f'{found["id"]}: {node["html"]} {node["failureSummary"]}'
        for found in results['violations']
        if found['impact'] in ('serious', 'critical')
        for node in found['nodes']
    ]


async def fits(page: Page) -> bool:
    """Return whether nothing is wider than the window."""
    return bool(
        await page.evaluate(
            """() => [document.documentElement, document.getElementById('timeline')]
                .every((it) => it.scrollWidth <= it.clientWidth)"""
        )
    )
