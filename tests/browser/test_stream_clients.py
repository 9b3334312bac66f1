"""EventSource, htmx and Datastar behind nginx, as the page on event streams shows."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path
import re
import shutil
import subprocess
import time
from typing import NamedTuple

import httpx
from playwright.async_api import Browser
from playwright.async_api import BrowserContext
from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.asgi_servers import SERVE
from support.nginx import nginx_process
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]

JS_TESTS = ROOT / 'tests/conformance/js'
TEXT = (ROOT / 'docs/event_streams.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.\w+) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
SERVER_TEXT = (ROOT / 'docs/server.md').read_text()
[NGINX] = re.findall(r'^For nginx:\n\n```\n(.*?)```', SERVER_TEXT, re.DOTALL | re.M)

#: Datastar 1.0 is not on npm. Its beta has other names for the same event.
BETA_NAMES = {
    'datastar-patch-elements': 'datastar-merge-fragments',
    'elements <p': 'fragments <p',
}

COMMAND = SERVE.command('app:app')
PAGES = """

import os

import falcon


class Page:
    async def on_get(self, req, resp, name):
        resp.content_type = falcon.MEDIA_HTML
        with open(f'{name}.html') as file:
            resp.text = file.read()


app.add_route('/pages/{name}', Page())
app.add_static_route('/scripts', os.path.abspath('scripts'))
"""

EVENT_SOURCE = """<ul></ul><script>
const source = new EventSource('/comments');
source.onmessage = ({ data }) => {
  document.querySelector('ul').insertAdjacentHTML('beforeend', data);
};
</script>"""

#: Scripts of each page, by its name.
SCRIPTS = {
    'event_source': [],
    'htmx2': ['htmx-2.js', 'sse.js'],
    'htmx4': ['htmx-4.js', 'hx-sse.js'],
    'datastar': ['datastar.js'],
}
FILES = {
    'htmx-2.js': 'htmx-2/dist/htmx.js',
    'sse.js': 'htmx-ext-sse/dist/sse.js',
    'htmx-4.js': 'htmx.org/dist/htmx.js',
    'hx-sse.js': 'htmx.org/dist/ext/hx-sse.js',
}


def write_app(folder: Path) -> None:
    """Write the app and the pages of the documentation, and the scripts of npm."""
    code = BLOCKS['app.py'] + '\n\n' + BLOCKS['datastar.py'] + PAGES
    for name, beta in BETA_NAMES.items():
        assert 1 == code.count(name)
        code = code.replace(name, beta)
    (folder / 'app.py').write_text(code)
    scripts = folder / 'scripts'
    scripts.mkdir()
    modules = JS_TESTS / 'node_modules'
    assert modules.is_dir(), f'run npm ci in {JS_TESTS}: make test does'
    for name, path in FILES.items():
        shutil.copyfile(modules / path, scripts / name)
    bundle = modules / '@starfederation/datastar/dist/bundles/datastar.js'
    subprocess.run(
        [
            *(modules / '.bin/esbuild', bundle, '--bundle', '--format=esm'),
            *('--log-level=error', f'--outfile={scripts / "datastar.js"}'),
        ],
        check=True,
        timeout=60,
    )
    for name, files in SCRIPTS.items():
        kind = 'module' if name == 'datastar' else 'text/javascript'
        tags = [
            f'<script type="{kind}" src="/scripts/{file}"></script>' for file in files
        ]
        body = BLOCKS.get(f'{name}.html', EVENT_SOURCE)
        head = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
        (folder / f'{name}.html').write_text('\n'.join([head, *tags, body]))


class Site(NamedTuple):
    """An app behind nginx.

    Attributes:
        port: Port of the server behind nginx, which tests start and stop.
        other: Another process of the app, which is not behind nginx.
        nginx: The proxy.
        folder: Folder of the app.
    """

    port: int
    other: ServerProcess
    nginx: ServerProcess
    folder: Path

    def server(self) -> ServerProcess:
        """Return the server behind nginx, not started yet."""
        return ServerProcess(COMMAND, cwd=self.folder, port=self.port)

    def publish(self, text: str) -> None:
        """Publish a comment, and an element for Datastar, by the other process."""
        for path in ('comments', 'feed'):
            answer = httpx.post(f'{self.other.url}/{path}', json={'text': text})
            assert 200 == answer.status_code

    def retries(self) -> int:
        """Return how many streams nginx has answered itself."""
        log = (self.folder / 'access.log').read_text()
        return log.count('GET /comments 200 502\n')


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    write_app(tmp_path)
    port, nginx_port = free_port(), free_port()
    assert 1 == NGINX.count('server {')
    config = NGINX.replace('127.0.0.1:8000', f'127.0.0.1:{port}').replace(
        'server {',
        f'server {{\nlisten 127.0.0.1:{nginx_port};\n{BLOCKS["retry.conf"]}',
    )
    text = (
        'pid nginx.pid; error_log stderr warn; events {} http {'
        "log_format short '$request_method $uri $status $upstream_status';"
        f'access_log access.log short; {config} }}'
    )
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(ServerProcess(COMMAND, cwd=tmp_path))
        nginx = stack.enter_context(nginx_process(tmp_path, text, nginx_port))
        yield Site(port, other, nginx, tmp_path)


async def open_pages(site: Site, context: BrowserContext) -> dict[str, Page]:
    """Open all pages, and wait until each shows the comment `first`."""
    site.publish('first')
    pages = {}
    for name in SCRIPTS:
        pages[name] = await context.new_page()
        await pages[name].goto(f'{site.nginx.url}/pages/{name}')
    await expect_texts(pages, 'first')
    return pages


async def expect_texts(pages: dict[str, Page], *texts: str) -> None:
    """Wait until the pages show these comments, each of them once and in order."""
    for name, page in pages.items():
        if name == 'datastar':
            await expect(page.locator('#feed')).to_have_text(texts[-1])
        else:
            await expect(page.locator('li')).to_have_text(texts)


async def test_pages_show_each_comment_once_across_a_restart_behind_nginx(
    browser: Browser, site: Site
) -> None:
    """A page gets the comments of a time in which its server was not running."""
    expect.set_options(timeout=30_000)
    async with await browser.new_context() as context:
        with site.server() as server:
            pages = await open_pages(site, context)
            server.kill()
            site.publish('second')
            site.publish('third')
            wait_until(lambda: site.retries() > 2, 'requests of three pages')
        with site.server():
            await expect_texts(pages, 'first', 'second', 'third')
            site.publish('fourth')
            await expect_texts(pages, 'first', 'second', 'third', 'fourth')
            site.publish('<i>')
            for name in ('htmx2', 'htmx4'):
                await pages[name].locator('input').fill(name)
                await pages[name].keyboard.press('Enter')
                await expect(pages[name].locator('li').last).to_have_text(name)
            del pages['datastar']
            texts = ('first', 'second', 'third', 'fourth', '<i>', 'htmx2', 'htmx4')
            await expect_texts(pages, *texts)


async def test_pages_show_each_comment_once_after_ten_seconds_offline(
    browser: Browser, site: Site
) -> None:
    """A page gets the comments of a time in which its device had no network."""
    expect.set_options(timeout=30_000)
    async with await browser.new_context() as context:
        with site.server():
            pages = await open_pages(site, context)
            await context.set_offline(True)
            begun_s = time.monotonic()
            site.publish('second')
            site.publish('third')
            await pages['event_source'].wait_for_function(
                'begun => performance.now() - begun > 10_000',
                arg=await pages['event_source'].evaluate('performance.now()')
                - (time.monotonic() - begun_s) * 1000,
            )
            await context.set_offline(False)
            await expect_texts(pages, 'first', 'second', 'third')
            site.publish('fourth')
            await expect_texts(pages, 'first', 'second', 'third', 'fourth')


async def test_nginx_passes_on_the_error_to_other_clients(site: Site) -> None:
    """Only a client that accepts event streams gets an empty one instead of 502."""
    url = f'{site.nginx.url}/comments'
    assert 502 == httpx.get(url).status_code
    assert 502 == httpx.post(url, json={'text': 'lost'}).status_code
    stream = httpx.get(url, headers={'Accept': 'text/event-stream'})
    assert (200, 'retry: 3000\n\n') == (stream.status_code, stream.text)
    assert 'text/event-stream' == stream.headers['Content-Type']
