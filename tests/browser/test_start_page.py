"""The program of docs/start.md in a real browser, exactly as printed."""

from __future__ import annotations

from pathlib import Path
import re

from playwright.async_api import Browser
from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess

TEXT = (ROOT / 'docs/start.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
TIMEOUT_MS = 30_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


async def test_text_of_one_window_appears_in_both_windows(
    browser: Browser, page: Page, tmp_path: Path
) -> None:
    """The first program of the documentation does what the page says."""
    (tmp_path / 'main.py').write_text(BLOCKS['main.py'])
    with ServerProcess(SERVE.command('main:app'), cwd=tmp_path) as server:
        second = await page.context.new_page()
        for window in (page, second):
            async with window.expect_websocket():
                await window.goto(f'{server.url}/')
            await window.wait_for_function('socket.readyState === WebSocket.OPEN')
        await page.get_by_placeholder('Write something').fill('hello')
        await page.keyboard.press('Enter')
        for window in (page, second):
            await expect(window.locator('#messages li')).to_have_text(
                ['hello'], timeout=TIMEOUT_MS
            )


async def test_page_has_one_program() -> None:
    """The page has no other code block, so all its code is run."""
    assert ['main.py'] == [*BLOCKS]
    assert 1 == TEXT.count('```python')
