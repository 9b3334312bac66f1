"""The example with answers: a plain EventSource, and the AI SDK from npm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from collections.abc import Iterator
from pathlib import Path

from playwright.async_api import Browser
from playwright.async_api import BrowserContext
from playwright.async_api import expect
from playwright.async_api import Page
import pytest
import pytest_asyncio
from support.asgi_servers import SERVE
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess

from examples import answers

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]

SCRIPT = ROOT / 'examples/answers_react/build/chat.js'


def server_of(folder: Path, port: int | None = None) -> ServerProcess:
    """Return a server of the example, not started yet."""
    env = {'BROKER': f'sqlite:///{folder}/answers.db', 'SECONDS_PER_WORD': '0.2'}
    return ServerProcess(SERVE.command('examples.answers:app'), env=env, port=port)


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_of(tmp_path_factory.mktemp('answers')) as server:
        yield server


@pytest_asyncio.fixture(loop_scope='session')
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    expect.set_options(timeout=30_000)
    async with await browser.new_context() as context:
        yield context


async def full_answer(question: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(answers, 'SECONDS_PER_WORD', 0)
    return ''.join([text async for text in answers.generate(question)])


async def ask(context: BrowserContext, url: str, question: str) -> Page:
    """Open a page, ask, and wait for the beginning of the answer."""
    page = await context.new_page()
    await page.goto(url)
    await page.get_by_label('Question').fill(question)
    await page.get_by_role('button', name='Ask').click()
    await expect(page.locator('p').filter(has_text='word 3')).to_be_visible()
    return page


async def open_again(context: BrowserContext, page: Page) -> Page:
    """Open another page with the same address."""
    other = await context.new_page()
    await other.goto(page.url)
    return other


async def test_answer_whose_log_is_lost_is_not_continued(
    context: BrowserContext, tmp_path: Path
) -> None:
    """The page says that a part is missing, and does not read the rest."""
    port = free_port()
    with server_of(tmp_path, port) as first:
        page = await ask(context, first.url, 'Why?')
    for path in tmp_path.glob('answers.db*'):
        if path.is_file():
            path.unlink()
    with server_of(tmp_path, port):
        await expect(page.locator('#status')).to_have_text('too old')
        closed = await page.evaluate('source.readyState === EventSource.CLOSED')
    assert closed


async def test_every_reader_of_an_answer_gets_it_once_across_a_reload(
    context: BrowserContext, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page shows the whole answer after a reload, offline, and if it comes late."""
    page = await ask(context, server.url, 'tea')
    await page.reload()
    pages = [page, await open_again(context, page)]
    for reader in pages:
        await expect(reader.locator('#answer')).to_contain_text('word 4')
    await context.set_offline(True)
    await context.set_offline(False)
    expected = await full_answer('tea', monkeypatch)
    for reader in pages:
        await expect(reader.locator('#status')).to_have_text('complete')
        assert expected == await reader.locator('#answer').text_content()
    late = await open_again(context, page)
    await expect(late.locator('#status')).to_have_text('complete')
    assert expected == await late.locator('#answer').text_content()


async def test_stop_button_ends_an_answer_for_all_its_readers(
    context: BrowserContext, server: ServerProcess
) -> None:
    """All readers learn that the answer was stopped, and have the same text."""
    page = await ask(context, server.url, 'coffee')
    other = await open_again(context, page)
    await expect(other.locator('#answer')).to_contain_text('word 4')
    await page.get_by_role('button', name='Stop').click()
    for reader in (page, other):
        await expect(reader.locator('#status')).to_have_text('aborted')
    text = await page.locator('#answer').text_content()
    assert text == await other.locator('#answer').text_content()
    assert 'and that is all' not in str(text)


async def test_page_of_an_answer_says_what_has_failed(
    context: BrowserContext, server: ServerProcess
) -> None:
    """A refused question opened the answer ``undefined``. A page waited for ever."""
    page = await context.new_page()
    await page.goto(server.url)
    await page.route('**/answers', lambda route: route.fulfill(status=503, json={}))
    await page.get_by_label('Question').fill('tea')
    await page.get_by_role('button', name='Ask').click()
    await expect(page.locator('#status')).to_have_text('not asked: status 503')
    assert f'{server.url}/' == page.url
    await page.unroute('**/answers')
    await page.route('**/answers/*', lambda route: route.fulfill(status=404, json={}))
    await page.get_by_role('button', name='Ask').click()
    await expect(page.locator('#status')).to_have_text('cannot be read')


async def test_chat_of_the_ai_sdk_that_cannot_be_loaded_says_so(
    context: BrowserContext, server: ServerProcess
) -> None:
    """The page was empty, because an error is no list of messages."""
    assert SCRIPT.exists(), f'{SCRIPT} is missing: `make test` builds it'
    page = await context.new_page()
    await page.route('**/api/chat/*', lambda route: route.fulfill(status=503, json={}))
    await page.goto(f'{server.url}/react')
    await expect(page.get_by_role('status')).to_have_text(
        'The chat cannot be loaded: status 503'
    )


async def test_chat_of_the_ai_sdk_resumes_after_a_reload_and_stops_on_all_pages(
    context: BrowserContext, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`useChat` shows an answer once on all pages, until its end or its stop."""
    assert SCRIPT.exists(), f'{SCRIPT} is missing: `make test` builds it'
    page = await ask(context, f'{server.url}/react', 'milk')
    await page.reload()
    pages = [page, await open_again(context, page)]
    expected = await full_answer('milk', monkeypatch)
    for reader in pages:
        await expect(reader.locator('.assistant')).to_have_text(expected.strip())
        await expect(reader.get_by_role('status')).to_have_text('ready')
        await expect(reader.locator('.user')).to_have_text('milk')
    await page.reload()
    await expect(page.locator('.user, .assistant')).to_have_text(['milk', expected])
    await page.get_by_label('Question').fill('honey')
    await page.get_by_role('button', name='Ask').click()
    await expect(page.locator('.assistant').last).to_contain_text('about honey')
    other = await open_again(context, page)
    await expect(other.locator('.assistant').last).to_contain_text('about honey')
    await page.get_by_role('button', name='Stop').click()
    for reader in (page, other):
        await expect(reader.get_by_role('status')).to_have_text('ready')
    stopped = str(await page.locator('.assistant').last.text_content())
    assert 'and that is all' not in stopped
    texts = ['milk', expected, 'honey', stopped]
    await expect(other.locator('.user, .assistant')).to_have_text(texts)
    await page.reload()
    await expect(page.locator('.user, .assistant')).to_have_text(texts)
