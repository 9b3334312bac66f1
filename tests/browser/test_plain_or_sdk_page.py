"""Test the snippet of the page about plain WebSockets and SDKs in a real browser."""

from __future__ import annotations

from pathlib import Path
import re

import httpx
from playwright.async_api import Page
import pytest
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess

TEXT = (ROOT / 'docs/plain_or_sdk.md').read_text()
[SNIPPET] = re.findall(r'<!-- stream\.js -->\n```js\n(.*?)```', TEXT, re.DOTALL)
APP = """
import falcon
import falcon.asgi
from falcon_channels import ChannelOptions
from falcon_channels import Channels

channels = Channels()


class Publish:
    async def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_HTML
        resp.text = '<!doctype html><link rel=icon href="data:,">'

    async def on_post(self, req, resp):
        await channels.publish(req.get_param('channel'), await req.get_media())


for name in ('rooms:{room}', 'news'):
    options = ChannelOptions(subscribers='anybody', history_size=5)
    channels.add_route(name, None, options)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/', Publish())
channels.add_endpoints(app)
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


async def test_event_stream_of_the_page_receives_from_both_channels(
    page: Page, tmp_path: Path
) -> None:
    """The snippet logs the publications of both channels with their offsets."""
    (tmp_path / 'app.py').write_text(APP)
    logged: list[str] = []
    page.on('console', lambda message: logged.append(message.text))
    with ServerProcess(SERVE.command('app:app'), cwd=tmp_path) as server:
        await page.goto(server.url)
        await page.evaluate(
            f'() => new Promise((resolve) => {{ {SNIPPET} events.onopen = resolve; }})'
        )
        for channel in ('rooms:lobby', 'news'):
            async with page.expect_console_message():
                httpx.post(server.url, params={'channel': channel}, json='hi')
    assert ['rooms:lobby 1 hi', 'news 1 hi'] == logged


async def test_every_code_block_is_run() -> None:
    """The page has no code block that is not run by a test."""
    assert 2 == TEXT.count('```')
