"""The page of the chat, and the texts that it stores in the browser."""

from __future__ import annotations

from playwright.async_api import expect
import pytest
from support.chat_pages import Guests
from support.processes import ServerProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]

FILL_THE_STORAGE = """() => {
  for (let size = 8 << 20; size > 0; size >>= 1) {
    try { localStorage.setItem(`filler${size}`, 'x'.repeat(size)); } catch { }
  }
}"""

BLOCK_THE_STORAGE = """
for (const name of ['localStorage', 'sessionStorage'])
  Object.defineProperty(window, name, {
    get() { throw new DOMException('denied', 'SecurityError'); },
  });
"""


async def test_draft_is_not_shown_to_the_next_member_of_the_browser(
    guests: Guests, server: ServerProcess
) -> None:
    """The draft of a member is neither shown nor stored after the member has left."""
    ada = await guests.come(server.url, 'Ada')
    page = await ada.open('lobby')
    field = page.get_by_label('Message', exact=True)
    await field.fill('my secret')
    assert 'my secret' in await page.evaluate('Object.values(localStorage)')
    await page.get_by_role('button', name='Leave the chat').click()
    await page.get_by_label('Your name').fill('Zoe')
    await page.keyboard.press('Enter')
    await ada.live(page)
    await expect(field).to_have_value('')
    assert [] == await page.evaluate('Object.values(localStorage)')


async def test_draft_of_an_ended_session_is_removed(
    guests: Guests, server: ServerProcess
) -> None:
    """A draft of a session that ended without "Leave" is removed by the next member."""
    ada = await guests.come(server.url, 'Ada')
    page = await ada.open('lobby')
    field = page.get_by_label('Message', exact=True)
    await field.fill('my secret')
    await ada.context.clear_cookies()
    await ada.ask('POST', '/api/session', {'name': 'Zoe'})
    await page.reload()
    await ada.live(page)
    await expect(field).to_have_value('')
    assert [] == await page.evaluate('Object.values(localStorage)')


async def test_page_with_a_full_storage_works_as_before(
    guests: Guests, server: ServerProcess
) -> None:
    """If the storage is full, drafts last until the page is closed."""
    ada, bob = await guests.room(server.url, 'full-storage', 'Ada', 'Bob')
    page = ada.page
    assert page is not None
    assert bob.page is not None
    await page.evaluate(FILL_THE_STORAGE)
    field = page.get_by_label('Message', exact=True)
    await field.press_sequentially('Hi')
    await expect(bob.page.locator('#typing')).to_have_text('Ada is typing')
    await page.get_by_role('button', name='Emoji').click()
    await page.get_by_role('button', name='👍').click()
    await expect(page.locator('#emoji')).to_be_hidden()
    await page.locator('#rooms a', has_text='lobby').click()
    await expect(field).to_have_value('')
    await page.locator('#rooms a', has_text='full-storage').click()
    await expect(field).to_have_value('Hi👍')
    await page.keyboard.press('Enter')
    await bob.sees('Hi👍')


async def test_page_with_a_blocked_storage_opens_and_sends(
    guests: Guests, server: ServerProcess
) -> None:
    """If the browser blocks the storage, the page opens, and sends messages."""
    ada = await guests.come(server.url, 'Ada')
    await ada.ask('POST', '/api/rooms', {'name': 'blocked'})
    await ada.context.add_init_script(BLOCK_THE_STORAGE)
    page = await ada.open('blocked')
    await page.get_by_label('Message', exact=True).fill('draft')
    await ada.say('hello')
    await ada.sees('hello')
