"""The search of the documentation's site, in a browser."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import http.server
import subprocess
import sys
import threading
from typing import Any
from urllib.parse import quote

from playwright.async_api import Page
import pytest
from support.processes import ROOT

pytestmark = pytest.mark.asyncio(loop_scope='session')

SITE = ROOT / 'build/site'
#: Words of a task, and pages that answer; one of them is in the first results.
TASKS = {
    'publish cron': ['jobs'],
    'authorise room': ['channels', 'login', 'tutorial'],
    'members only': ['channels', 'login', 'tutorial'],
    'resume': ['event_streams', 'recovery'],
    'missed messages': ['faq', 'recovery', 'tutorial'],
    'who is online': ['channels', 'tutorial'],
    'deploy workers': ['deployment'],
    'multiple workers': ['deployment', 'hosts'],
    'pytest': ['testing'],
    'test resource': ['testing'],
    'metrics': ['metrics'],
    'existing wsgi': ['wsgi_channels'],
    'gunicorn': ['wsgi', 'wsgi_channels'],
    'private notification': ['recipes'],
    'notify user': ['recipes'],
    'django consumer': ['migrate_django_channels'],
    'quickstart': ['start'],
}
#: Number of results that a reader looks at.
FIRST = 5


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope='module')
def site_url() -> Iterator[str]:
    """The site, built from the pages as they are now."""
    sphinx = [sys.executable, '-m', 'sphinx', '-q', '-b', 'html', 'docs', str(SITE)]
    subprocess.run(sphinx, cwd=ROOT, check=True, timeout=300)
    handler = functools.partial(_Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    with contextlib.ExitStack() as stack:
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever).start()
        yield f'http://127.0.0.1:{server.server_port}'


@pytest.mark.parametrize('words', TASKS)
async def test_search_for_a_task_finds_its_page_first(
    site_url: str, page: Page, words: str
) -> None:
    """The page that answers is among the first results."""
    await page.goto(f'{site_url}/search.html?q={quote(words)}')
    await page.wait_for_function(
        "document.querySelector('.search-summary')?.textContent.includes('finished')"
        " || document.querySelector('.search-summary')?.textContent.includes('found')"
    )
    items = page.locator('ul.search > li > a')
    await items.first.wait_for()
    links = [await item.get_attribute('href') or '' for item in await items.all()]
    found = [link.partition('?')[0].partition('.html')[0] for link in links[:FIRST]]
    assert {*found} & {*TASKS[words]}, links
