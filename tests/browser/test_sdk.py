"""The JavaScript SDK in a real browser, and the browser's own APIs without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from endpoint.peer import Peer
from endpoint.peer import serving
import httpx
from playwright.async_api import Page
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess

from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.transports import http_stream

pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.xdist_group('browser'),
    pytest.mark.timeout(120),
    pytest.mark.asyncio(loop_scope='session'),
]


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    with ServerProcess(asgi_server.command('tests.conformance.js_app:app')) as server:
        yield server


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        """Let every client connect."""


USE_SDK = """async (transport) => {
  const scheme = transport === 'websocket' ? 'ws' : 'http';
  const endpoint = `${scheme}://${location.host}/connection/${transport}`;
  const client = new Centrifuge([{ transport, endpoint }], { data: { user: 'ann' } });
  const used = new Promise((resolve) => {
    client.on('connected', (context) => resolve(context.transport));
  });
  const subscription = client.newSubscription(`rooms:browser-${transport}`);
  const publication = new Promise((resolve) => {
    subscription.on('publication', (context) => resolve(context.data));
  });
  subscription.subscribe();
  client.connect();
  await subscription.ready(30000);
  await subscription.publish({ text: 'héllo' });
  const result = [await used, await publication];
  client.disconnect();
  return result;
}"""


@pytest.mark.parametrize('transport', ['websocket', 'http_stream', 'sse'])
async def test_sdk_in_a_page_receives_its_own_publication(
    page: Page, server: ServerProcess, transport: str
) -> None:
    """A page connects with each transport and receives its own publication."""
    await page.goto(f'{server.url}/page')
    assert [transport, {'text': 'héllo'}] == await page.evaluate(USE_SDK, transport)


LISTEN = """() => {
  window.seen = [];
  window.connects = 0;
  const source = new EventSource(
    '/connection/uni_sse?channel=rooms:native&'
    + `cf_connect=${encodeURIComponent('{"data":{"user":"eve"}}')}`,
  );
  source.onmessage = ({ data }) => {
    const push = JSON.parse(data);
    if (push.connect) window.connects += 1;
    if (push.pub) window.seen.push(push.pub.data);
  };
  return new Promise((resolve) => { source.onopen = () => resolve(); });
}"""


async def test_event_source_recovers_missed_publications_without_sdk(
    page: Page, server: ServerProcess
) -> None:
    """An EventSource reconnects and receives the missed publications automatically."""
    await page.goto(f'{server.url}/page')
    await page.evaluate(LISTEN)
    await page.wait_for_function('window.connects === 1')
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        await client.post('/rooms/native', json=1)
        await page.wait_for_function('window.seen.length === 1')
        await client.post('/users/eve/disconnect?code=4000')
        for number in (2, 3):
            await client.post('/rooms/native', json=number)
        await page.wait_for_function('window.connects === 2')
        await client.post('/rooms/native', json=4)
        await page.wait_for_function('window.seen.length >= 4')
    assert [1, 2, 3, 4] == await page.evaluate('window.seen')


REFUSED = """(url) => {
  window.events = [];
  const source = new EventSource(url);
  source.onmessage = ({ data }) => window.events.push(Object.keys(JSON.parse(data))[0]);
  source.onerror = () => window.events.push(source.readyState);
}"""


async def test_refused_event_source_connects_when_there_is_room(
    page: Page,
    server: ServerProcess,
    asgi_server: AsgiServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full process does not shut an EventSource out for ever."""
    monkeypatch.setattr(http_stream, 'REFUSED_RETRY_MS', (100, 200))
    options = NodeOptions(max_connections=1, allowed_origins=(server.url,))
    channels = Channels(options=options)
    with serving(channels, Clients(), asgi_server=asgi_server) as full:
        await page.goto(f'{server.url}/page')
        with Peer.to(full) as peer:
            peer.connect()
            await page.evaluate(
                REFUSED, f'http://127.0.0.1:{full.port}/connection/uni_sse'
            )
            await page.wait_for_function('window.events.length >= 4')
            refused = await page.evaluate('window.events.slice(0, 4)')
        assert ['disconnect', 0, 'disconnect', 0] == refused
        await page.wait_for_function("window.events.includes('connect')")


WEBSOCKET = """() => new Promise((resolve) => {
  const socket = new WebSocket(`ws://${location.host}/connection/uni_websocket`);
  const seen = [];
  socket.onopen = () => socket.send('{"subs":{"rooms:plain":{}}}');
  socket.onmessage = ({ data }) => {
    for (const line of data.split('\\n')) seen.push(Object.keys(JSON.parse(line))[0]);
    if (seen.length === 1) {
      fetch('/rooms/plain', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: '"x"',
      });
    }
    if (data.includes('"pub"')) resolve(seen);
  };
})"""


async def test_unidirectional_websocket_receives_publications_without_sdk(
    page: Page, server: ServerProcess
) -> None:
    """A browser's own WebSocket receives publications after it has sent one message."""
    await page.goto(f'{server.url}/page')
    seen = await page.evaluate(WEBSOCKET)
    assert 'connect' == seen[0]
    assert {'channel'} == set(seen[1:])
