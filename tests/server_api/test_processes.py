"""The server API of two processes that share a broker, with SDK clients on both."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from typing import Any

import cent
import centrifuge
import httpx
from prometheus_client.parser import text_string_to_metric_families
import pytest
from support.api_app import KEY
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('api processes')]

#: Number of connections. With so many, both processes almost certainly have some.
CLIENTS = 8


@pytest.fixture(scope='module')
def server(
    asgi_server: AsgiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    command = asgi_server.command('support.api_app:app', '--workers', '2')
    folder = tmp_path_factory.mktemp('api')
    env = {'PYTHONPATH': 'tests', 'API_BROKER': f'sqlite:///{folder}/channels.db'}
    with ServerProcess(command, env=env) as process:
        wait_until(
            lambda: len(call(process, 'info')['nodes']) == 2,
            'both processes have started',
        )
        yield process


@pytest.fixture
def api(server: ServerProcess) -> Iterator[cent.Client]:
    client = cent.Client(f'{server.url}/api', KEY)
    yield client
    client._session.close()


def call(server: ServerProcess, method: str, **request: Any) -> Any:
    headers = {'X-API-Key': KEY}
    answer = httpx.post(
        f'{server.url}/api/{method}', json=request, headers=headers, timeout=30
    )
    return answer.json()['result']


class Events(centrifuge.ClientEventHandler):
    """Records the events of an SDK client."""

    def __init__(self) -> None:
        self.received: list[tuple[Any, ...]] = []

    async def on_connected(self, ctx: Any) -> None:
        self.received.append(('connected',))

    async def on_connecting(self, ctx: Any) -> None:
        self.received.append(('connecting', ctx.code))

    async def on_disconnected(self, ctx: Any) -> None:
        self.received.append(('disconnected', ctx.code))

    async def on_subscribed(self, ctx: Any) -> None:
        self.received.append(('subscribed', ctx.channel, ctx.data))

    async def on_unsubscribed(self, ctx: Any) -> None:
        self.received.append(('unsubscribed', ctx.channel))

    async def on_publication(self, ctx: Any) -> None:
        self.received.append(('publication', ctx.channel, ctx.pub.data, ctx.pub.offset))


@contextlib.asynccontextmanager
async def clients(server: ServerProcess, user: str) -> AsyncIterator[list[Events]]:
    """Connect SDK clients of one user; yield the events that follow."""
    url = f'{server.ws_url}/connection/websocket?user={user}'
    before = asyncio.all_tasks()
    events = [Events() for _ in range(CLIENTS)]
    connections = [centrifuge.Client(url, events=e) for e in events]
    try:
        for client in connections:
            await client.connect()
        await wait_for(lambda: all(('connected',) in e.received for e in events))
        for e in events:
            e.received.clear()
        yield events
    finally:
        for client in connections:
            await client.disconnect()
        # NOTE: the SDK closes its sockets in background tasks. Wait for them.
        await wait_for(lambda: asyncio.all_tasks() <= before)


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def expect_events(events: list[Events], *expected: tuple[Any, ...]) -> None:
    """Wait until each client has exactly the expected events, and clear them."""
    await wait_for(lambda: all(len(e.received) >= len(expected) for e in events))
    assert [list(expected)] * len(events) == [e.received for e in events]
    for e in events:
        e.received.clear()


async def test_commands_about_a_user_reach_the_clients_of_all_processes(
    server: ServerProcess, api: cent.Client
) -> None:
    """Subscribing, publishing, unsubscribing and disconnecting reach all clients."""
    before = api.publish(cent.PublishRequest(channel='rooms:s', data='before'))
    async with clients(server, 'ann') as ann, clients(server, 'bob') as bob:
        since = cent.StreamPosition(offset=before.offset - 1, epoch=before.epoch)
        api.subscribe(
            cent.SubscribeRequest(
                user='ann', channel='rooms:s', data={'a': 1}, recover_since=since
            )
        )
        await expect_events(
            ann,
            ('subscribed', 'rooms:s', {'a': 1}),
            ('publication', 'rooms:s', 'before', 1),
        )
        api.publish(cent.PublishRequest(channel='rooms:s', data='after'))
        await expect_events(ann, ('publication', 'rooms:s', 'after', 2))
        channels = api.channels(cent.ChannelsRequest(pattern='rooms:s')).channels
        assert CLIENTS == channels['rooms:s'].num_clients
        api.unsubscribe(cent.UnsubscribeRequest(user='ann', channel='rooms:s'))
        await expect_events(ann, ('unsubscribed', 'rooms:s'))
        api.disconnect(
            cent.DisconnectRequest(
                user='ann', disconnect=cent.Disconnect(code=4501, reason='bye')
            )
        )
        await expect_events(ann, ('disconnected', 4501))
        assert [[]] * CLIENTS == [e.received for e in bob]


async def test_connections_of_all_processes_are_described(
    server: ServerProcess,
) -> None:
    """The answer of one process has the connections of both, each with its node."""
    async with clients(server, 'amy'):
        found: dict[str, Any] = {}
        by_node: Counter[str] = Counter()

        def all_found() -> bool:
            # NOTE: a survey omits a process that does not answer for some seconds.
            found.update(call(server, 'connections', user='amy'))
            nodes = call(server, 'info')['nodes']
            by_node.clear()
            by_node.update({node['uid']: node['num_clients'] for node in nodes})
            totals = (found['total'], found['num_nodes'], by_node.total(), len(nodes))
            return (CLIENTS, 2, CLIENTS, 2) == totals

        await wait_for(all_found)
        connections = found['connections'].values()
    # NOTE: on an idle machine, one process may accept all connections.
    assert by_node == Counter(facts['node'] for facts in connections)
    assert [('amy', 'websocket', 'json', 'python')] * CLIENTS == [
        (facts['user'], facts['transport'], facts['protocol'], facts['app_name'])
        for facts in connections
    ]


async def test_clients_refreshed_as_expired_reconnect(
    server: ServerProcess, api: cent.Client
) -> None:
    """After a refresh with `expired`, SDK clients reconnect automatically."""
    async with clients(server, 'eve') as eve:
        api.refresh(cent.RefreshRequest(user='eve', expired=True))
        await expect_events(eve, ('connecting', 3005), ('connected',))


async def test_info_and_metrics_count_all_processes(
    server: ServerProcess, api: cent.Client
) -> None:
    """`info` and the page of metrics have both processes and all connections."""
    async with clients(server, 'joe'):
        nodes: list[cent.Node] = []

        def all_counted() -> bool:
            # NOTE: a survey omits a process that does not answer for some seconds.
            nodes[:] = api.info(cent.InfoRequest()).nodes
            return (2, CLIENTS) == (len(nodes), sum(n.num_clients for n in nodes))

        await wait_for(all_counted)
        page = httpx.get(f'{server.url}/metrics/all', timeout=30).text
        counts = {
            sample.labels['node']: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == 'falcon_channels_connections'
        }
    assert {node.name: node.num_clients for node in nodes} == counts
