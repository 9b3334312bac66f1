"""The pages of the hello examples in a real browser, served by real servers."""

from __future__ import annotations

from collections.abc import Iterator

from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess

ARTIFACTS = ROOT / 'artifacts'
TIMEOUT_MS = 30_000

COMMANDS = {
    'asgi': ['python', '-m', 'examples.hello_asgi', '--port', '{port}'],
    'wsgi': ['python', 'examples/wsgi.py', '--port', '{port}'],
    'gunicorn': [
        *('python', '-m', 'gunicorn', '--worker-class', 'gevent'),
        *('--bind', '127.0.0.1:{port}', '--no-control-socket'),
        # A page that stays open would delay the stop by 30 s.
        *('--graceful-timeout', '2'),
        'examples.hello_wsgi:app',
    ],
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


@pytest.fixture(scope='module', params=list(COMMANDS))
def name(request: pytest.FixtureRequest) -> str:
    """The name of an example in `COMMANDS`."""
    name: str = request.param
    return name


@pytest.fixture(scope='module')
def server(name: str) -> Iterator[ServerProcess]:
    with ServerProcess(COMMANDS[name]) as server:
        yield server


async def open_page(page: Page, url: str) -> None:
    """Open the page and wait until its WebSocket is connected."""
    await page.goto(f'{url}/hello')
    await expect(page.locator('#status')).to_have_text('connected', timeout=TIMEOUT_MS)


async def send(page: Page, text: str) -> None:
    """Type a text, press Send, and wait for its answer at the end of the list."""
    await page.get_by_label('Message').fill(text)
    await page.get_by_role('button', name='Send').click()
    await expect(page.locator('#messages li').last).to_have_text(
        f'Message text was: {text}', timeout=TIMEOUT_MS
    )


async def test_sent_text_is_answered_in_the_list(
    page: Page, server: ServerProcess, name: str
) -> None:
    """The answer to a sent text is added to the list, and the field is cleared."""
    await open_page(page, server.url)
    assert 'WebSocket Chat' == await page.title()
    await expect(page.locator('#messages li')).to_have_count(0)
    await send(page, 'Hello, Falcon')
    assert '' == await page.get_by_label('Message').input_value()
    await page.get_by_label('Message').fill('and again')
    await page.keyboard.press('Enter')
    await expect(page.locator('#messages li')).to_have_text(
        ['Message text was: Hello, Falcon', 'Message text was: and again']
    )
    ARTIFACTS.mkdir(exist_ok=True)
    await page.screenshot(path=ARTIFACTS / f'{name}.png')


async def test_markup_in_a_message_is_shown_as_text(
    page: Page, server: ServerProcess
) -> None:
    """Markup in a message is shown as it was typed, and runs no script."""
    await open_page(page, server.url)
    evil = '<img src=x onerror="document.title = \'owned\'">'
    await send(page, evil)
    assert 0 == await page.locator('#messages img').count()
    await send(page, '<script>document.title = "owned"</script>')
    assert 'WebSocket Chat' == await page.title()


async def test_two_tabs_have_separate_connections(
    page: Page, server: ServerProcess
) -> None:
    """Each of two tabs has its own connection and gets only its own answers."""
    await open_page(page, server.url)
    other = await page.context.new_page()
    await open_page(other, server.url)
    await send(page, 'from the first')
    await send(other, 'from the second')
    await expect(page.locator('#messages li')).to_have_count(1)
    await expect(other.locator('#messages li')).to_have_count(1)
    await other.close()
    await send(page, 'the other tab is closed')


async def test_page_reconnects_after_a_server_restart(page: Page, name: str) -> None:
    """The page shows that it is disconnected, and reconnects automatically."""
    port = free_port()
    with ServerProcess(COMMANDS[name], port=port) as server:
        await open_page(page, server.url)
        await send(page, 'before')
    await expect(page.locator('#status')).to_have_text(
        'disconnected', timeout=TIMEOUT_MS
    )
    await expect(page.get_by_role('button', name='Send')).to_be_disabled()
    with ServerProcess(COMMANDS[name], port=port):
        await expect(page.locator('#status')).to_have_text(
            'connected', timeout=TIMEOUT_MS
        )
        await send(page, 'after')
        await expect(page.locator('#messages li')).to_have_text(
            ['Message text was: before', 'Message text was: after']
        )
