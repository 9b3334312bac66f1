"""`falcon-channels new` from an installed wheel: serve the app, test it, open it."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.installed_wheel import install_wheel
from support.installed_wheel import InstalledWheel
from support.processes import free_port
from support.processes import ServerProcess

from falcon_channels import Channels

TIMEOUT_MS = 30_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> InstalledWheel:
    return install_wheel(tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def app(wheel: InstalledWheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new app, created in an empty folder."""
    folder = tmp_path_factory.mktemp('empty')
    subprocess.run(
        [wheel.command, 'new', 'myapp'],
        cwd=folder,
        env=wheel.env,
        check=True,
        timeout=60,
    )
    return folder / 'myapp'


def server(wheel: InstalledWheel, app: Path, port: int | None = None) -> ServerProcess:
    command = [str(wheel.command), 'serve', 'app:app', '--port', '{port}']
    env = {**wheel.env, 'CHANNELS_BROKER': 'sqlite:///messages.db'}
    return ServerProcess(command, cwd=app, env=env, port=port)


async def send(page: Page, text: str) -> None:
    await page.get_by_label('Message').fill(text)
    await page.get_by_role('button', name='Send').click()


def test_tests_of_a_new_app_pass(wheel: InstalledWheel, app: Path) -> None:
    """The tests of a new app pass as they are."""
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'],
        cwd=app,
        env=wheel.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == result.returncode, result.stdout + result.stderr
    assert '3 passed' in result.stdout


@pytest.mark.asyncio(loop_scope='session')
async def test_page_of_a_new_app_shows_messages_and_misses_none(
    page: Page, wheel: InstalledWheel, app: Path
) -> None:
    """Two pages show each message once and in order, also after a restart."""
    port = free_port()
    other = await page.context.new_page()
    items = page.locator('#messages li')
    with server(wheel, app, port) as first:
        for tab in (page, other):
            await tab.goto(first.url)
            await expect(tab.locator('#state')).to_have_text(
                'connected', timeout=TIMEOUT_MS
            )
        assert 'myapp' == await page.title()
        await send(page, 'Hello, <b>Bob</b>')
        await expect(other.locator('#messages li')).to_have_text(
            ['Hello, <b>Bob</b>'], timeout=TIMEOUT_MS
        )
        await send(other, 'Hello, Ann')
        await expect(items).to_have_count(2, timeout=TIMEOUT_MS)
    await expect(page.locator('#state')).to_have_text(
        'disconnected', timeout=TIMEOUT_MS
    )
    await expect(page.get_by_role('button', name='Send')).to_be_disabled()
    with server(wheel, app, port):
        for tab in (page, other):
            await expect(tab.locator('#state')).to_have_text(
                'connected', timeout=TIMEOUT_MS
            )
        await send(other, 'back again')
        texts = ['Hello, <b>Bob</b>', 'Hello, Ann', 'back again']
        await expect(items).to_have_text(texts, timeout=TIMEOUT_MS)
        await page.reload()
        await expect(items).to_have_text(texts, timeout=TIMEOUT_MS)


@pytest.mark.asyncio(loop_scope='session')
async def test_page_of_a_new_app_shows_that_a_message_was_refused(
    page: Page, wheel: InstalledWheel, app: Path
) -> None:
    """A refused message is reported, and the next message is sent as usual."""
    with server(wheel, app) as process:
        await page.goto(process.url)
        state = page.locator('#state')
        await expect(state).to_have_text('connected', timeout=TIMEOUT_MS)
        # The field has this limit, too; another client may not.
        await page.locator('#text').evaluate(
            "field => field.removeAttribute('maxlength')"
        )
        await send(page, 'x' * 501)
        await expect(state).to_contain_text('refused: ', timeout=TIMEOUT_MS)
        await send(page, 'short')
        await expect(page.locator('#messages li').last).to_have_text('short')
        await expect(state).to_have_text('connected')


@pytest.mark.asyncio(loop_scope='session')
async def test_page_of_a_new_app_does_not_return_after_a_disconnect(
    page: Page, wheel: InstalledWheel, app: Path
) -> None:
    """If the app disconnects the user of a page, the page shows the end."""
    state = page.locator('#state')
    with server(wheel, app) as process:
        await page.goto(process.url)
        await expect(state).to_have_text('connected', timeout=TIMEOUT_MS)
        async with Channels(f'sqlite:///{app}/messages.db') as channels:
            await channels.disconnect_user('')
        await expect(state).to_have_text('ended', timeout=TIMEOUT_MS)


@pytest.mark.asyncio(loop_scope='session')
async def test_page_of_a_new_app_loads_the_list_again_after_its_log_was_lost(
    page: Page, wheel: InstalledWheel, app: Path
) -> None:
    """If the log is new, the page does not show messages of the old one."""
    port = free_port()
    items = page.locator('#messages li')
    command = [str(wheel.command), 'serve', 'app:app', '--port', '{port}']
    with ServerProcess(command, cwd=app, env=wheel.env, port=port) as first:
        await page.goto(first.url)
        await expect(page.locator('#state')).to_have_text(
            'connected', timeout=TIMEOUT_MS
        )
        await send(page, 'lost')
        await expect(items).to_have_text(['lost'], timeout=TIMEOUT_MS)
    with ServerProcess(command, cwd=app, env=wheel.env, port=port):
        await expect(items).to_have_count(0, timeout=TIMEOUT_MS)
        await expect(page.locator('#state')).to_have_text(
            'connected', timeout=TIMEOUT_MS
        )
        await send(page, 'new')
        await expect(items).to_have_text(['new'], timeout=TIMEOUT_MS)
