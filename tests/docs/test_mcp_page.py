"""Test the event store of the page on MCP servers with the real SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
import contextlib
from pathlib import Path
import re
from typing import Any

import httpx
from mcp.client import ClientSession
from mcp.client.streamable_http import streamable_http_client
import pytest
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess
from support.proxy import Proxy

TEXT = (ROOT / 'docs/mcp.md').read_text()
[APP] = re.findall(r'<!-- app.py -->\n```python\n(.*?)```', TEXT, re.DOTALL)

pytestmark = [pytest.mark.server, pytest.mark.timeout(60)]

MCP_HEADERS = {'Accept': 'application/json, text/event-stream'}
INITIALIZE = {
    'jsonrpc': '2.0',
    'id': 1,
    'method': 'initialize',
    'params': {
        'protocolVersion': '2025-11-25',
        'capabilities': {},
        'clientInfo': {'name': 'other', 'version': '1'},
    },
}
CALL = {
    'jsonrpc': '2.0',
    'id': 2,
    'method': 'tools/call',
    'params': {
        'name': 'count',
        'arguments': {'last': 2},
        '_meta': {'progressToken': 1},
    },
}
#: A tool whose steps the test decides, by publishing to a channel.
STEPS = """

channels.add_route('steps', None, ChannelOptions(history_size=1000))
taken = Position(0, '')


async def next_step():
    global taken
    async with channels.subscribe('steps', since=taken) as steps:
        step = await anext(steps)
    taken = Position(step.offset, (await channels.position('steps')).epoch)


class Steps:
    async def on_post(self, req, resp):
        await channels.publish('steps', None)


falcon_app.add_route('/steps', Steps())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    assert 1 == APP.count('retry_interval=1000')
    app = APP.replace('retry_interval=1000', 'retry_interval=50')
    (tmp_path / 'app.py').write_text(app + STEPS)
    with ServerProcess(SERVE.command('app:app'), cwd=tmp_path) as server:
        yield server


async def take_steps(server: ServerProcess, count: int) -> None:
    async with httpx.AsyncClient() as client:
        for _ in range(count):
            answer = await client.post(f'{server.url}/steps')
            assert 200 == answer.status_code


@contextlib.asynccontextmanager
async def session_of(url: str) -> AsyncIterator[ClientSession]:
    async with streamable_http_client(f'{url}/mcp') as streams:
        async with ClientSession(*streams) as session:
            await session.initialize()
            yield session


async def test_client_gets_each_step_once_although_its_connection_breaks(
    server: ServerProcess,
) -> None:
    """A client of the SDK resumes the stream of its tool, and misses no message."""
    seen: list[float] = []
    changed = asyncio.Condition()

    async def on_progress(value: float, total: float | None, text: str | None) -> None:
        async with changed:
            seen.append(value)
            changed.notify_all()

    async def wait_for(count: int) -> None:
        async with changed:
            await changed.wait_for(lambda: len(seen) >= count)

    async with Proxy(server.port) as cable, session_of(cable.url) as session:
        # The client of the SDK resumes a call only once with its newest event id.
        for before in range(1, 6):
            seen.clear()
            call = asyncio.create_task(
                session.call_tool('count', {'last': 8}, progress_callback=on_progress)
            )
            await take_steps(server, before)
            await wait_for(before)
            await take_steps(server, 1)
            cable.drop()
            await take_steps(server, 7 - before)
            result = await call
            assert [*range(1, 9)] == seen
            assert 'counted to 8' == result.content[0].text


async def test_stream_with_a_gap_is_not_resumed() -> None:
    """If the missed events are too large to recover, the client is told so."""
    page: dict[str, Any] = {'__name__': 'app'}
    exec(APP, page)
    channels = page['channels']

    async def send(event: Any) -> None:
        raise AssertionError('an event after the gap')

    async with channels:
        store = page['ChannelEventStore']('mcp:one')
        first = await store.store_event('stream', None)
        large = {'stream': 'stream', 'message': None, 'text': 'x' * 900_000}
        for _ in range(6):
            await channels.publish('mcp:one', large)
        async with asyncio.timeout(30):
            assert await store.replay_events_after(first, send) is None


async def test_event_id_of_another_session_shows_none_of_its_events(
    server: ServerProcess,
) -> None:
    """A client that sends the event id of another session gets nothing of it."""
    url = f'{server.url}/mcp'

    async def open_session() -> dict[str, str]:
        answer = await client.post(url, json=INITIALIZE, headers=MCP_HEADERS)
        return {**MCP_HEADERS, 'mcp-session-id': answer.headers['mcp-session-id']}

    async def replay(session: dict[str, str], event_id: str) -> str:
        headers = {**session, 'last-event-id': event_id}
        answer = await client.get(url, headers=headers)
        assert 200 == answer.status_code
        return answer.text

    async with httpx.AsyncClient(timeout=30) as client:
        own, other = await open_session(), await open_session()
        await take_steps(server, 2)
        answer = await client.post(url, json=CALL, headers=own)
        first_id = re.findall('^id: (.*?)\r?$', answer.text, re.M)[0]
        assert 1 == (await replay(own, first_id)).count('"progress"')
        wrong = [first_id, '0:x', '1:', 'nonsense', '-1:x', '9' * 400 + ':x']
        for event_id in wrong:
            assert '"progress"' not in await replay(other, event_id)
    assert 'ERROR' not in server.log()
