"""The page of the inspector in a real browser: each view shows the truth.

Two workers share a broker. A request of the page reaches any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
from pathlib import Path
import re

from playwright.async_api import Browser
from playwright.async_api import Dialog
from playwright.async_api import expect
from playwright.async_api import Locator
from playwright.async_api import Page
from playwright.async_api import Route
import pytest
import pytest_asyncio
from support.inspected_crowd import Crowd
from support.inspected_crowd import crowd_of
from support.inspected_crowd import inspected_server
from support.inspected_crowd import NUM_CONNECTIONS
from support.inspected_crowd import REFUSED
from support.inspected_crowd import SCRIPT_NAME
from support.inspected_crowd import SLOW
from support.inspected_crowd import until
from support.inspector_app import KEY
from support.inspector_app import WRITE_KEY
from support.nginx import nginx_process
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess
from support.workers import broker_url

AXE = ROOT / 'src/falcon_channels_chat/web/node_modules/axe-core/axe.min.js'
VIEWS = [
    'processes',
    'channels',
    'channel/rooms%3Aquiet',
    'users',
    f'user/{REFUSED}',
    'events',
    'slow',
    'explain/rooms%3Aquiet/1',
]

#: The views read their numbers again four times a second, so that no test waits long.
OFTEN = """
const setTimer = window.setTimeout.bind(window);
window.setTimeout = (call, ms, ...rest) =>
  setTimer(call, ms >= 2000 && ms <= 5000 ? 250 : ms, ...rest);
"""

#: The page is the same on all brokers, so most tests use one of them.
on_sqlite = pytest.mark.parametrize('server', ['sqlite'], indirect=True, scope='module')
on_both = pytest.mark.parametrize(
    'server', ['sqlite', 'redis'], indirect=True, scope='module'
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope='session'),
]


@pytest.fixture(scope='module')
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp('inspector')
    with broker_url(request.param, folder) as url, inspected_server(url) as process:
        yield process


@pytest_asyncio.fixture(scope='module', loop_scope='session')
async def crowd(server: ServerProcess) -> AsyncIterator[Crowd]:
    async with crowd_of(server) as crowd:
        await crowd.fill_the_slow_reader()
        yield crowd


@pytest.fixture(autouse=True)
def patience() -> None:
    expect.set_options(timeout=30_000)


@pytest_asyncio.fixture(loop_scope='session')
async def page(page: Page) -> Page:
    await page.add_init_script(OFTEN)
    return page


async def log_in(page: Page, server: ServerProcess, key: str, view: str = '') -> None:
    """Open the page and type a key, with the keyboard."""
    await page.goto(f'{server.url}/_channels#/{view}')
    await expect(page.get_by_label('Key')).to_be_focused()
    await page.keyboard.type(key)
    await page.keyboard.press('Enter')
    await expect(page.locator('h1#title')).to_be_focused()


async def go(page: Page, server: ServerProcess, view: str) -> None:
    """Open another view."""
    await page.goto(f'{server.url}/_channels#/{view}')


def rows(page: Page, table: str) -> Locator:
    """Return the rows of a table."""
    return page.get_by_role('region', name=table, exact=True).locator('tbody tr')


def fact(page: Page, name: str) -> Locator:
    """Return the value of a fact."""
    return page.locator('dl > div', has=page.locator(f'dt:text-is("{name}")')).locator(
        'dd'
    )


@on_both
async def test_each_view_shows_what_happened_in_both_processes(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """The numbers of the page are those of the clients of the test."""
    await log_in(page, server, KEY)
    processes = rows(page, 'Processes that share the broker')
    await expect(processes).to_have_count(2)
    await expect(fact(page, 'Connections')).to_have_text(str(NUM_CONNECTIONS))
    numbers = [
        int(await row.locator('td').nth(5).inner_text())
        for row in await processes.all()
    ]
    assert NUM_CONNECTIONS == sum(numbers)
    assert ['ok', 'ok'] == await processes.locator('td:nth-child(2)').all_inner_texts()
    assert all(
        'MiB' in text
        for text in await processes.locator('td:nth-child(5)').all_inner_texts()
    )
    chart = page.get_by_role('img', name=re.compile('^Delivered'))
    while True:
        await crowd.publish('rooms:staff', {'text': 'hello'})
        label = await chart.get_attribute('aria-label')
        highest = re.search(r'highest ([\d.]+)', label or '')
        if highest and float(highest[1]) > 0:
            break

    await page.get_by_role('link', name='Channels', exact=True).click()
    channels = rows(page, 'Channels by number of subscribers')
    await expect(channels).to_have_text(
        [re.compile(r'rooms:lobby\s*150'), 'rooms:staff48', 'states:load1']
    )
    await page.get_by_label('Part of the name').fill('staff')
    await expect(channels).to_have_text(['rooms:staff48'])

    await go(page, server, 'events')
    reasons = rows(page, 'Reasons since the processes started')
    await expect(reasons.filter(has_text='command_refused')).to_have_text(
        ['command_refused103not for you1']
    )
    await expect(reasons.filter(has_text='reader_slow')).to_have_count(1)
    await expect(reasons.filter(has_text='publications_dropped')).to_have_count(1)
    refusals = rows(page, 'Latest events, newest first')
    refusal = refusals.filter(has_text='command_refused')
    await expect(refusal.locator('td:nth-child(n+2)')).to_have_text(
        ['command_refused', REFUSED, 'closed:vault', '103', 'not for you', 'subscribe']
    )
    await refusal.get_by_role('link', name=REFUSED).click()
    await expect(page.locator('#title')).to_have_text(f'User {REFUSED}')
    await expect(fact(page, 'Connections')).to_have_text('1')
    await expect(
        rows(page, 'Last refusals and closes, newest first').filter(
            has_text='not for you'
        )
    ).to_have_count(1)

    await go(page, server, 'slow')
    slow = rows(page, 'Connections with a backlog, the slowest first').first
    await expect(slow.locator('td').first).to_have_text(SLOW)
    await expect(slow.locator('td').last).to_have_text('states:load')
    await expect(slow.locator('td').nth(3)).to_have_text('488.4 KiB')

    await go(page, server, 'channel/states%3Aload')
    subscriber = rows(page, 'Subscribers').filter(has_text=SLOW)
    await expect(subscriber.locator('td').nth(3)).to_have_text('lagging')
    offset = int(await subscriber.locator('td').nth(4).inner_text())
    newest = int(await fact(page, 'Offset').inner_text())
    assert 0 < offset < newest
    await expect(subscriber.locator('td').nth(5)).to_have_text(str(newest - offset))


@on_both
async def test_channel_shows_history_subscribers_and_live_publications(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A publication appears in the live tail and in the history; markup is text."""
    await log_in(page, server, WRITE_KEY, 'channel/rooms%3Alobby')
    await expect(fact(page, 'Subscribers')).to_have_text('150')
    await expect(fact(page, 'Present')).to_have_text('150 connections, 150 users')
    await expect(fact(page, 'Route')).to_have_text('rooms:{room}')
    await expect(rows(page, 'Subscribers')).to_have_count(100)
    await expect(page.get_by_text('The 100 oldest of 150 connections.')).to_be_visible()
    await page.get_by_text('Options of the route').click()
    await expect(fact(page, 'history_size')).to_have_text('100')
    before = int(await fact(page, 'Offset').inner_text())

    await page.get_by_role('button', name='Start the live tail').click()
    # The tail is a subscriber, too.
    await expect(fact(page, 'Subscribers')).to_have_text('151')
    await crowd.publish('rooms:lobby', '<script>alert(1)</script>')
    live = rows(page, 'Live publications, newest first')
    await expect(live.locator('code')).to_have_text(['"<script>alert(1)</script>"'])
    await page.get_by_label('Data, in JSON').fill('{"n": }')
    await page.get_by_role('button', name='Publish').click()
    await expect(page.get_by_text('This is not JSON')).to_be_visible()
    await page.get_by_label('Data, in JSON').fill('{"n": 1}')
    await page.get_by_role('button', name='Publish').click()
    await expect(
        page.get_by_text(f'Published with offset {before + 2}.')
    ).to_be_visible()
    await expect(live.first.locator('code')).to_have_text('{"n":1}')
    await page.get_by_role('button', name='Stop the live tail').click()
    await expect(page.get_by_text('The tail is stopped.')).to_be_visible()
    await expect(fact(page, 'Subscribers')).to_have_text('150')

    stored = rows(page, 'Stored publications, newest first')
    await expect(stored.nth(0).locator('code')).to_have_text('{"n":1}')
    # Times of the log are in UTC, and those of the page in the zone of the browser.
    time = stored.nth(0).get_by_text(re.compile(r'^\d+:\d\d:\d\d [A-Z]\S+$'))
    zone = (await time.inner_text()).split(' ')[1]
    await expect(time).to_have_attribute(
        'title', re.compile(rf'^../../\d{{4}}, \d+:\d\d:\d\d {re.escape(zone)}$')
    )
    await expect(stored.nth(1).locator('code')).to_have_text(
        '"<script>alert(1)</script>"'
    )
    await expect(fact(page, 'Offset')).to_have_text(str(before + 2))
    behind = rows(page, 'Subscribers').locator('td:nth-child(6)')
    await expect(behind).to_have_text(['0'] * 100)


@on_sqlite
async def test_name_with_markup_and_control_characters_is_shown_as_text(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A name that a client chose runs no script, and hides no character."""
    dialogs: list[str] = []
    page.on('dialog', lambda dialog: dialogs.append(dialog.message))
    await log_in(page, server, KEY, 'channel/rooms%3Alobby')
    shown = SCRIPT_NAME.replace('\u202e', r'\u{202e}')
    link = rows(page, 'Presence').get_by_role('link', name=shown)
    await expect(link).to_have_count(1)
    await link.click()
    await expect(page.locator('#title')).to_have_text(f'User {shown}')
    await expect(rows(page, 'Connections')).to_have_count(1)
    assert 0 == await page.locator('#inspector img, #inspector script').count()
    assert [] == dialogs


@on_sqlite
async def test_user_is_disconnected_and_revoked_after_a_question(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """With a key for writing, a person can close connections and revoke rights."""
    questions: list[str] = []

    async def accept(dialog: object) -> None:
        questions.append(dialog.message)  # type: ignore[attr-defined]
        await dialog.accept()  # type: ignore[attr-defined]

    page.on('dialog', accept)
    await log_in(page, server, WRITE_KEY, 'user/staff-7')
    await page.get_by_role('button', name='Disconnect all connections').click()
    await until(crowd.members['staff-7'].lost.is_set)
    await expect(page.get_by_text('The user is not connected.')).to_be_visible()
    await expect(
        rows(page, 'Last refusals and closes, newest first').filter(has_text='3503')
    ).to_have_count(1)

    await go(page, server, 'user/staff-8')
    await page.get_by_label('Channel').fill('rooms:staff')
    await page.get_by_role('button', name='Revoke').click()
    await until(crowd.members['staff-8'].lost.is_set)
    await expect(page.get_by_text('Done: revoke.')).to_be_visible()
    assert 2 == len(questions)
    for name in ('staff-7', 'staff-8'):
        again = crowd.members[name]
        again.num_messages = 0
        await again.connect()
    await until(lambda: crowd.members['staff-7'].num_messages)
    await until(lambda: crowd.members['staff-8'].status == 403)
    await page.get_by_role('button', name='Restore').click()
    await expect(page.get_by_text('Done: restore.')).to_be_visible()
    await crowd.members['staff-8'].connect()
    await until(lambda: crowd.members['staff-8'].num_messages)


@on_sqlite
async def test_page_without_write_key_has_no_forms_that_change_something(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A person who may only read sees no button that would be refused."""
    await log_in(page, server, KEY, 'user/user-1')
    await expect(page.get_by_text('read only')).to_be_visible()
    await expect(rows(page, 'Connections')).to_have_count(1)
    assert 0 == await page.get_by_role('button', name='Disconnect').count()
    await go(page, server, 'channel/rooms%3Alobby')
    await expect(fact(page, 'Subscribers')).to_have_text('150')
    assert 0 == await page.get_by_role('button', name='Publish').count()


@on_sqlite
async def test_keyboard_focus_stays_while_the_numbers_change(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A table changes in place, so that a person can follow a link by keyboard."""
    await log_in(page, server, KEY, 'channels')
    row = rows(page, 'Channels by number of subscribers').nth(1)
    await expect(row).to_have_text('rooms:staff48')
    await page.keyboard.press('Tab')
    await expect(page.get_by_label('Part of the name')).to_be_focused()
    for _ in range(3):
        # The table itself, the first row and the second one.
        await page.keyboard.press('Tab')
    await expect(row.get_by_role('link')).to_be_focused()
    crowd.members['staff-9'].cut()
    await expect(row).to_have_text('rooms:staff47')
    await expect(row.get_by_role('link')).to_be_focused()
    await page.keyboard.press('Enter')
    await expect(page.locator('#title')).to_have_text('Channel rooms:staff')
    crowd.members['staff-9'].num_messages = 0
    await crowd.members['staff-9'].connect()
    await until(lambda: crowd.members['staff-9'].num_messages)


@on_sqlite
async def test_delivery_is_explained_from_the_history(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A person follows a publication to the answer what a user got of it."""
    await log_in(page, server, WRITE_KEY, 'explain')
    await page.get_by_label('Id of the user').fill('staff-9')
    await page.get_by_role('button', name='Record this user').click()
    await expect(page.get_by_text('2 processes record this user now.')).to_be_visible()
    await crowd.publish('rooms:staff', {'text': 'explain me'})
    await go(page, server, 'channel/rooms%3Astaff')
    stored = rows(page, 'Stored publications, newest first').first
    await expect(stored).to_contain_text('explain me')
    await stored.get_by_role('link').click()
    await page.get_by_label('Id of the user').fill('staff-9')
    await page.keyboard.press('Enter')
    answers = rows(page, 'Answers, one for each connection of the user')
    await expect(answers.locator('strong')).to_have_text(['delivered'])
    await expect(answers).to_contain_text('written to the socket')
    await expect(answers).to_contain_text('PlainConnection')
    (connection,) = await answers.locator('td:nth-child(4)').all_inner_texts()
    await go(page, server, 'user/staff-9')
    await expect(rows(page, 'Connections')).to_contain_text(connection)


NGINX = """
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 100; }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port};
    location /chat/ {{
      proxy_pass http://127.0.0.1:{target}/;
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""


@on_sqlite
async def test_page_works_behind_a_proxy_that_removes_a_prefix(
    page: Page, server: ServerProcess, crowd: Crowd, tmp_path: Path
) -> None:
    """The page finds its files and its API, and the browser sends the cookie back.

    The app does not know the prefix. The live tail arrives, although nginx buffers.
    """
    port = free_port()
    text = NGINX.format(folder=tmp_path, port=port, target=server.port)
    with nginx_process(tmp_path, text, port) as proxy:
        await page.goto(f'{proxy.url}/chat/_channels/#/channel/rooms%3Astaff')
        await expect(page.get_by_label('Key')).to_be_focused()
        await page.keyboard.type(KEY)
        await page.keyboard.press('Enter')
        await expect(fact(page, 'Route')).to_have_text('rooms:{room}')
        await page.get_by_role('button', name='Start the live tail').click()
        await expect(fact(page, 'Subscribers')).to_have_text('49')
        await crowd.publish('rooms:staff', {'text': 'through the proxy'})
        live = rows(page, 'Live publications, newest first')
        await expect(live).to_contain_text(['through the proxy'])
        await page.get_by_role('button', name='Stop the live tail').click()
        await expect(fact(page, 'Subscribers')).to_have_text('48')


@on_sqlite
async def test_session_survives_a_reload_and_ends_with_the_logout(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """The key is in no storage and no URL; a person logs in once for all tabs."""
    requested: list[str] = []
    page.on('request', lambda request: requested.append(request.url))
    await log_in(page, server, KEY, 'slow')
    await page.reload()
    await expect(page.locator('#title')).to_have_text('Slow readers')
    storage = await page.evaluate('[localStorage.length, sessionStorage.length]')
    assert [0, 0] == storage
    assert '' == await page.evaluate('document.cookie')
    assert [] == [url for url in requested if KEY in url]
    await page.get_by_role('button', name='Log out').click()
    await expect(page.get_by_label('Key')).to_be_focused()
    await page.reload()
    await expect(page.get_by_label('Key')).to_be_focused()


@on_sqlite
async def test_older_pages_of_the_history_stay_while_publications_arrive(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """Older pages have no gap, and stay until the newest one is opened again."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(crowd.publish('rooms:pages', number))
    await log_in(page, server, KEY, 'channel/rooms%3Apages')
    offsets = rows(page, 'Stored publications, newest first').locator('td:first-child')
    await expect(offsets).to_have_text([str(n) for n in range(60, 40, -1)])
    older = page.get_by_role('button', name='Older')
    newest = page.get_by_role('button', name='Newest')
    asked, answer = asyncio.Event(), asyncio.Event()

    async def answer_slowly(route: Route) -> None:
        if 'before' in (route.request.post_data or ''):
            asked.set()
            await answer.wait()
        await route.continue_()

    await page.route('**/api/log', answer_slowly)
    await older.dblclick()
    await asked.wait()
    await crowd.publish('rooms:pages', 61)
    await expect(fact(page, 'Offset')).to_have_text('61')
    answer.set()
    await expect(offsets).to_have_text([str(n) for n in range(60, 20, -1)])
    await crowd.publish('rooms:pages', 62)
    await expect(fact(page, 'Offset')).to_have_text('62')
    await page.unroute('**/api/log')
    await page.route('**/api/log', lambda route: route.abort('connectionrefused'))
    await older.click()
    await expect(
        page.get_by_text('were not read: The server does not answer.')
    ).to_be_visible()
    await expect(offsets).to_have_count(40)
    await page.unroute('**/api/log')
    await newest.click()
    await expect(offsets).to_have_text([str(n) for n in range(62, 42, -1)])
    await expect(newest).to_be_hidden()


@on_sqlite
async def test_test_message_is_published_as_it_was_typed(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """JavaScript has no exact large integers, but the published data has."""
    await log_in(page, server, WRITE_KEY, 'channel/rooms%3Atyped')
    await page.get_by_label('Data, in JSON').fill('{"id": 12345678901234567890}')
    await page.get_by_role('button', name='Publish').click()
    await expect(page.get_by_text('Published with offset 1.')).to_be_visible()
    stored = rows(page, 'Stored publications, newest first')
    await expect(stored.locator('code')).to_have_text('{"id":12345678901234567890}')


@on_sqlite
async def test_live_tail_of_a_busy_channel_is_shown_with_few_updates(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """The page stays usable, however many publications a second arrive."""
    await log_in(page, server, KEY, 'channel/rooms%3Abusy')
    async with page.expect_response('**/api/tail'):
        await page.get_by_role('button', name='Start the live tail').click()
    await expect(fact(page, 'Subscribers')).to_have_text('1')
    live = rows(page, 'Live publications, newest first')
    await page.evaluate(
        """() => {
          window.numUpdates = 0;
          const table = [...document.querySelectorAll('[role=region]')].find(
            (region) => region.ariaLabel.startsWith('Live'),
          );
          new MutationObserver(() => { window.numUpdates += 1; }).observe(
            table.querySelector('tbody'), { childList: true },
          );
        }"""
    )
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(crowd.publish('rooms:busy', number))
    await crowd.publish('rooms:busy', 'last')
    await expect(live.first.locator('code')).to_have_text('"last"')
    await expect(live).to_have_count(61)
    num_updates = await page.evaluate('window.numUpdates')
    # At most one in 200 ms. Two more may begin and end in this time.
    assert num_updates <= (loop.time() - start_s) / 0.2 + 2


@on_sqlite
async def test_live_tail_says_that_its_connection_was_lost(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """A tail that ends without an announcement does not seem to wait."""
    await log_in(page, server, KEY, 'channel/rooms%3Aquiet')
    body = 'event: begin\ndata: {}\n\n'
    await page.route('**/api/tail', lambda route: route.fulfill(body=body))
    await page.get_by_role('button', name='Start the live tail').click()
    await expect(
        page.get_by_text('The tail has ended: the connection was lost')
    ).to_be_visible()
    await expect(page.get_by_role('button', name='Start the live tail')).to_be_visible()


@on_sqlite
async def test_explain_drops_the_slow_answer_to_an_earlier_question(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """The answer on the page is that to the question on the page."""
    await log_in(page, server, KEY, 'explain/rooms%3Aquiet/1')
    answer = asyncio.Event()

    async def answer_the_first_slowly(route: Route) -> None:
        if 'first' in (route.request.post_data or ''):
            await answer.wait()
            await route.fulfill(json={'error': {'message': 'late'}})
        else:
            await route.fulfill(json={'error': {'message': 'in time'}})

    await page.route('**/api/explain', answer_the_first_slowly)
    for user in ('first', 'second'):
        await page.get_by_label('Id of the user').fill(user)
        await page.get_by_role('button', name='Explain').click()
    await expect(page.get_by_text('No answer: in time')).to_be_visible()
    async with page.expect_response('**/api/explain'):
        answer.set()
    await page.get_by_label('Id of the user').fill('third')
    await expect(page.get_by_text('No answer: in time')).to_be_visible()


@on_sqlite
async def test_double_click_logs_in_once(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """The login form is sent once, and a form without a key is not sent."""
    bodies: list[str | None] = []
    page.on(
        'request',
        lambda request: (
            bodies.append(request.post_data) if request.url.endswith('login') else None
        ),
    )
    await page.goto(f'{server.url}/_channels')
    await page.get_by_label('Key').fill(KEY)
    await page.get_by_role('button', name='Log in').dblclick()
    await expect(page.locator('h1#title')).to_be_focused()
    await expect(page.locator('h1#title')).to_have_text('Processes')
    assert 1 == len(bodies)


@on_sqlite
async def test_logout_without_an_answer_does_not_look_like_a_logout(
    page: Page, server: ServerProcess, crowd: Crowd
) -> None:
    """If the cookie is still valid, the page says so, and stays as it is."""
    texts: list[str] = []

    async def read(dialog: Dialog) -> None:
        texts.append(dialog.message)
        await dialog.accept()

    page.on('dialog', read)
    await log_in(page, server, KEY, 'slow')
    path = '**/api/logout'
    await page.route(path, lambda route: route.abort('connectionrefused'))
    await page.get_by_role('button', name='Log out').click()
    await until(lambda: texts)
    assert ['You are still logged in: The server does not answer.'] == texts
    await expect(page.locator('#title')).to_have_text('Slow readers')
    await page.unroute(path)
    await page.get_by_role('button', name='Log out').click()
    await expect(page.get_by_label('Key')).to_be_focused()


@on_sqlite
@pytest.mark.parametrize('scheme', ['light', 'dark'])
async def test_views_are_accessible(
    browser: Browser, server: ServerProcess, crowd: Crowd, scheme: str
) -> None:
    """axe finds nothing serious on any view, on wide and narrow screens.

    The colour scheme changes only colours.
    """
    rules: dict[str, object] = {'resultTypes': ['violations']}
    if scheme == 'dark':
        rules['runOnly'] = ['color-contrast']
    context = await browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    # PERF: axe takes seconds for a table with a hundred rows.
    await crowd.publish('rooms:quiet', {'text': 'hello'})
    async with context:
        page = await context.new_page()
        await page.goto(f'{server.url}/_channels')
        await expect(page.get_by_label('Key')).to_be_focused()
        await page.evaluate(AXE.read_text())
        assert [] == await serious_findings(page, rules)
        await page.keyboard.type(WRITE_KEY)
        await page.keyboard.press('Enter')
        for view in VIEWS:
            await go(page, server, view)
            if view not in ('users', 'slow', 'explain/rooms%3Aquiet/1'):
                await expect(page.locator('tbody tr').first).to_be_visible()
            assert [] == await serious_findings(page, rules), view
        if scheme == 'dark':
            return
        await page.set_viewport_size({'width': 360, 'height': 700})
        for view in ('processes', 'channel/rooms%3Aquiet'):
            await go(page, server, view)
            await expect(page.locator('tbody tr').first).to_be_visible()
            width = await page.evaluate('document.documentElement.scrollWidth')
            assert width <= 360, view
        assert [] == await serious_findings(page, rules)


async def serious_findings(page: Page, options: dict[str, object]) -> list[str]:
    """Return the serious and critical findings of axe, with the elements."""
    results = await page.evaluate('(options) => axe.run(options)', options)
    return [
        f'{found["id"]}: {node["html"]} {node["failureSummary"]}'
        for found in results['violations']
        if found['impact'] in ('serious', 'critical')
        for node in found['nodes']
    ]
