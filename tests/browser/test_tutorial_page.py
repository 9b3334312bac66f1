"""Test the tutorial with a web page: each step runs in a browser, as printed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path
import re
import shutil
import subprocess
import sys

from playwright.async_api import expect
from playwright.async_api import Page
import pytest
from support.asgi_servers import SERVE
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess

from falcon_channels import Channels

TEXT = (ROOT / 'docs/tutorial_page.md').read_text()
STEPS = TEXT.split('\n## ')[1:]
BLOCK = re.compile(r'<!-- ([\w/]+\.\w+) -->\n```\w+\n(.*?)```', re.DOTALL)
JS_TESTS = ROOT / 'tests/conformance/js'
SDK = JS_TESTS / 'node_modules/centrifuge/dist/centrifuge.js'
TIMEOUT_MS = 30_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


def write_step(folder: Path, number: int) -> None:
    """Write the files as they are after a step: of this step or the last that has them.

    Args:
        folder: Folder of the reader.
        number: Number of the step, from 1 on.
    """
    (folder / 'page').mkdir(exist_ok=True)
    for step in STEPS[:number]:
        for name, text in BLOCK.findall(step):
            (folder / name).write_text(text)
    if f'\n    cp {SDK.relative_to(JS_TESTS)} page/\n' in STEPS[number - 1]:
        shutil.copy(SDK, folder / 'page')


@contextlib.contextmanager
def serving(folder: Path, port: int) -> Iterator[ServerProcess]:
    """Serve the app of a step; its log must have no traceback."""
    command = SERVE.command('main:app')
    with ServerProcess(command, port=port, cwd=folder) as server:
        yield server
        assert 'Traceback' not in server.log()


async def open_board(page: Page, port: int, user: str) -> None:
    """Open the board as a user, and wait until the page is online."""
    await page.goto(f'http://localhost:{port}/?user={user}')
    await shows_status(page, 'online')


async def add_note(page: Page, text: str) -> None:
    await page.get_by_label('Note').fill(text)
    await page.get_by_role('button', name='Add').click()


async def shows_status(page: Page, status: str) -> None:
    await expect(page.locator('#status')).to_have_text(status, timeout=TIMEOUT_MS)


async def shows_users(page: Page, users: str) -> None:
    await expect(page.locator('#users')).to_have_text(users, timeout=TIMEOUT_MS)


async def shows_notes(page: Page, *notes: str) -> None:
    await expect(page.locator('#notes li')).to_have_text(notes, timeout=TIMEOUT_MS)


async def test_note_of_one_page_appears_on_all_pages(
    page: Page, tmp_path: Path
) -> None:
    """After step 1, a note appears in both windows, and markup stays text."""
    write_step(tmp_path, 1)
    other = await page.context.new_page()
    with serving(tmp_path, free_port()) as server:
        await open_board(page, server.port, 'ann')
        await open_board(other, server.port, 'bob')
        await add_note(page, 'Buy milk')
        await shows_notes(other, 'ann: Buy milk')
        await add_note(other, '<b>and bread</b>')
        for window in (page, other):
            await shows_notes(window, 'ann: Buy milk', 'bob: <b>and bread</b>')


async def test_page_shows_the_users_that_are_present(
    page: Page, tmp_path: Path
) -> None:
    """After step 2, both windows show both users until one is closed."""
    write_step(tmp_path, 2)
    other = await page.context.new_page()
    with serving(tmp_path, free_port()) as server:
        await open_board(page, server.port, 'ann')
        await shows_users(page, 'ann')
        await open_board(other, server.port, 'bob')
        for window in (page, other):
            await shows_users(window, 'ann, bob')
        await add_note(page, 'Buy milk')
        await shows_notes(other, 'ann: Buy milk')
        await other.close()
        await shows_users(page, 'ann')


async def test_page_of_a_disconnected_user_does_not_return(
    page: Page, tmp_path: Path
) -> None:
    """After step 3, the page of a disconnected user shows the end, and stays ended."""
    write_step(tmp_path, 3)
    with serving(tmp_path, free_port()) as server:
        await open_board(page, server.port, 'ann')
        async with Channels(f'sqlite:///{tmp_path}/board.db') as channels:
            await channels.disconnect_user('ann')
        await shows_status(page, 'ended')


@pytest.mark.parametrize('step', [3, 4])
async def test_page_continues_after_a_restart_and_misses_no_note(
    page: Page, tmp_path: Path, step: int
) -> None:
    """After step 3 and step 4, a note of the time without a server is shown once."""
    write_step(tmp_path, step)
    other = await page.context.new_page()
    port = free_port()
    with serving(tmp_path, port):
        await open_board(page, port, 'ann')
        await open_board(other, port, 'bob')
        await shows_users(page, 'ann, bob')
        await add_note(page, 'Buy milk')
        await shows_notes(other, 'ann: Buy milk')
    for window in (page, other):
        await shows_status(window, 'offline')
    done = subprocess.run(
        [sys.executable, 'remind.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ('', 0) == (done.stderr, done.returncode)
    with serving(tmp_path, port):
        for window in (page, other):
            await shows_status(window, 'online')
            await shows_notes(window, 'ann: Buy milk', 'cron: Water the plants')
        await add_note(other, 'Done')
        notes = ('ann: Buy milk', 'cron: Water the plants', 'bob: Done')
        await shows_notes(page, *notes)
        await page.reload()
        await shows_status(page, 'online')
        await shows_notes(page, *notes)
        for window in (page, other):
            await shows_users(window, 'ann, bob')


@pytest.mark.parametrize('step', [3, 4])
async def test_page_loads_the_board_again_if_the_history_is_lost(
    page: Page, tmp_path: Path, step: int
) -> None:
    """After step 3 and step 4, a page that cannot recover shows the new board."""
    write_step(tmp_path, step)
    port = free_port()
    with serving(tmp_path, port):
        await open_board(page, port, 'ann')
        await add_note(page, 'Buy milk')
        await shows_notes(page, 'ann: Buy milk')
    await shows_status(page, 'offline')
    for path in filter(Path.is_file, tmp_path.glob('board.db*')):
        path.unlink()
    with serving(tmp_path, port):
        await shows_status(page, 'online')
        await shows_notes(page)
        await add_note(page, 'Begin again')
        await shows_notes(page, 'ann: Begin again')


async def test_every_code_block_has_a_name_and_is_run() -> None:
    """The tutorial has no code block that is not run by a test."""
    names = [sorted(dict(BLOCK.findall(step))) for step in STEPS]
    assert [
        ['main.py', 'page/board.js', 'page/index.html'],
        ['main.py', 'page/board.js'],
        ['main.py', 'page/board.js', 'remind.py'],
        ['main.py', 'page/board.js', 'page/index.html'],
        [],
    ] == names
    assert TEXT.count('```') == 2 * sum(len(found) for found in names)
