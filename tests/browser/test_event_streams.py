"""Plain event streams with the EventSource of a browser."""

from __future__ import annotations

from pathlib import Path

import httpx
from playwright.async_api import Page
import pytest
from support.asgi_servers import AsgiServer
from support.processes import free_port
from support.processes import ServerProcess

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]

LISTEN = """() => {
  window.seen = [];
  window.errors = 0;
  window.opened = 0;
  const source = new EventSource('/events/a');
  source.onopen = () => { window.opened += 1; };
  source.onmessage = ({ data }) => window.seen.push(JSON.parse(data));
  source.onerror = () => { window.errors += 1; };
}"""


async def publish(server: ServerProcess, *values: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f'{server.url}/events/a', json=values)
        assert 200 == answer.status_code


async def test_event_source_resumes_after_a_restart_of_the_server(
    page: Page, asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """A browser receives every publication once, also one before its first event.

    The first stream ends before it has had an event. Its id has no data, and the
    browser sends it nevertheless.
    """
    port = free_port()
    env = {'PYTHONPATH': 'tests', 'BROKER': f'sqlite:///{tmp_path}/channels.db'}
    command = asgi_server.command('support.events_app:app')

    def server() -> ServerProcess:
        return ServerProcess(command, port=port, env=env)

    with ServerProcess(command, env=env) as other:
        with server() as first:
            await page.goto(f'{first.url}/page')
            await page.evaluate(LISTEN)
            await page.wait_for_function('window.opened === 1')
            first.kill()
        await page.wait_for_function('window.errors > 0')
        await publish(other, 1, 'text\nof two lines')
        with server() as second:
            await page.wait_for_function('window.seen.length === 2')
            await publish(second, 3)
            await page.wait_for_function('window.seen.length === 3')
            await page.evaluate('window.errors = 0')
            # This server ends its streams, and the browser connects again.
            second.stop()
        await page.wait_for_function('window.errors > 0')
        await publish(other, 4)
        with server() as third:
            await page.wait_for_function('window.seen.length === 4')
            await publish(third, 5)
            await page.wait_for_function('window.seen.length === 5')
    assert [1, 'text\nof two lines', 3, 4, 5] == await page.evaluate('window.seen')


async def test_event_source_stops_at_the_end_of_its_channel(
    page: Page, asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """A browser gets the end once, connects once more, and closes its source."""
    env = {'PYTHONPATH': 'tests', 'BROKER': f'sqlite:///{tmp_path}/channels.db'}
    command = asgi_server.command('support.events_app:app')
    with ServerProcess(command, env=env) as server:
        await page.goto(f'{server.url}/page')
        await page.evaluate(
            """() => {
              window.seen = [];
              window.source = new EventSource('/events/a');
              const add = ({ data }) => window.seen.push(data);
              window.source.onmessage = add;
              window.source.addEventListener('end', add);
            }"""
        )
        await page.wait_for_function('window.source.readyState === 1')
        await publish(server, 1, 2)
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.delete(f'{server.url}/events/a')
            assert 200 == answer.status_code
        await page.wait_for_function('window.source.readyState === 2')
        end = '{"channel":"rooms:a","error":""}'
        assert ['1', '2', end] == await page.evaluate('window.seen')
