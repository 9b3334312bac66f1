"""`ClusterConnections`: descriptions of the connections of all nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
import time
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels.cluster import cluster
from falcon_channels.cluster import connections as module
from falcon_channels.cluster.connections import ConnectionQuery
from falcon_channels.hub.connection import Connection
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk

Nodes = tuple[Channels, Channels]


@pytest_asyncio.fixture
async def nodes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    # NOTE: both nodes have announced themselves, so no survey must wait for others.
    monkeypatch.setattr(cluster, '_DISCOVERY_S', 0.01)
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    for channels in (one, two):
        options = ChannelOptions(subscribers='anybody', history_size=10)
        channels.add_route('log:{name}', None, options)
    yield one, two
    await one.close()
    await two.close()


async def found(channels: Channels, **query: Any) -> list[tuple[str, str]]:
    """Return the user and the node of each connection that is found."""
    answer = await channels.node.connections.find(ConnectionQuery(**query))
    return sorted((facts.user, facts.node) for facts in answer.connections)


async def test_find_without_a_filter_returns_the_connections_of_all_nodes(
    nodes: Nodes,
) -> None:
    """Any node returns the connections of all nodes, each with the id of its node."""
    one, two = nodes
    id_one, id_two = one.node.cluster.id, two.node.cluster.id
    async with SimulatedClient(one, user='ann'), SimulatedClient(two, user='bob'):
        expected = sorted([('ann', id_one), ('bob', id_two)])
        for channels in nodes:
            assert expected == await found(channels)


async def test_find_with_a_user_returns_only_the_connections_of_this_user(
    nodes: Nodes,
) -> None:
    """A user has connections on several nodes; ``''`` means anonymous clients."""
    one, two = nodes
    id_one, id_two = one.node.cluster.id, two.node.cluster.id
    async with AsyncExitStack() as stack:
        for channels, user in [(one, 'ann'), (two, 'ann'), (one, ''), (two, 'bob')]:
            await stack.enter_async_context(SimulatedClient(channels, user=user))
        assert sorted([('ann', id_one), ('ann', id_two)]) == (
            await found(one, user='ann')
        )
        assert [('', id_one)] == await found(two, user='')
        assert [] == await found(two, user='nobody')


async def test_find_with_a_client_returns_one_connection(nodes: Nodes) -> None:
    """The id of a connection finds it on any node, if the other conditions hold."""
    one, two = nodes
    expected = [('ann', one.node.cluster.id)]
    async with (
        SimulatedClient(one, user='ann') as ann,
        SimulatedClient(two, user='ann'),
    ):
        await ann.subscribe('log:a')
        client = ann.connection.id
        assert expected == await found(two, client=client)
        assert expected == await found(two, client=client, user='ann')
        assert expected == await found(two, client=client, channel='log:a')
        assert [] == await found(two, client=client, user='bob')
        assert [] == await found(two, client=client, channel='log:b')


async def test_find_with_a_channel_returns_its_subscribers(nodes: Nodes) -> None:
    """Subscribers are found without presence; other connections are left out."""
    one, two = nodes
    async with AsyncExitStack() as stack:
        for channels, user in [(one, 'ann'), (two, 'bob'), (one, 'eve')]:
            client = await stack.enter_async_context(
                SimulatedClient(channels, user=user)
            )
            await client.subscribe('log:b' if user == 'eve' else 'log:a')
        expected = [('ann', one.node.cluster.id), ('bob', two.node.cluster.id)]
        assert expected == await found(two, channel='log:a')
        answer = await one.node.connections.find(
            ConnectionQuery(channel='log:a', limit=0)
        )
        assert (2, 2, []) == (answer.total, answer.num_nodes, answer.connections)
        assert [] == await found(one, channel='log:nobody')


async def test_find_with_a_user_and_a_channel_returns_what_matches_both(
    nodes: Nodes,
) -> None:
    """Only the connections of the user that are subscribed are found and counted."""
    one, two = nodes
    async with AsyncExitStack() as stack:
        for channels, user in [(one, 'ann'), (two, 'ann'), (one, 'bob'), (one, 'ann')]:
            client = await stack.enter_async_context(
                SimulatedClient(channels, user=user)
            )
            if channels is one:
                await client.subscribe('log:a')
        query = ConnectionQuery(user='ann', channel='log:a', limit=1)
        answer = await two.node.connections.find(query)
        assert (2, ['ann']) == (answer.total, [c.user for c in answer.connections])


async def test_limit_cuts_the_list_but_not_the_total(nodes: Nodes) -> None:
    """With a limit the oldest connections are returned, and all are counted."""
    two = nodes[1]
    async with AsyncExitStack() as stack:
        for number in range(6):
            client = SimulatedClient(nodes[number % 2], user=f'user-{number}')
            await stack.enter_async_context(client)
        answer = await two.node.connections.find(ConnectionQuery(limit=3))
        assert (3, 6, 2) == (len(answer.connections), answer.total, answer.num_nodes)


async def test_work_for_an_answer_is_bounded_with_many_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many connections only those of the answer are described, and all counted."""
    channels = Channels(options=NodeOptions(max_connections=None))
    described: list[Connection] = []
    describe = module.ClusterConnections.describe

    def note(self: module.ClusterConnections, connection: Connection) -> Any:
        described.append(connection)
        return describe(self, connection)

    monkeypatch.setattr(module.ClusterConnections, 'describe', note)
    async with AsyncExitStack() as stack:
        for _ in range(500):
            await stack.enter_async_context(SimulatedClient(channels))
        for query in (ConnectionQuery(limit=2), ConnectionQuery(limit=2, user='')):
            described.clear()
            answer = await channels.node.connections.find(query)
            assert (2, 500) == (len(described), answer.total)
    await channels.close()


async def test_answer_of_a_node_stays_below_its_limit_in_bytes() -> None:
    """Connections with many long channel names are cut, and all are counted."""
    channels = Channels()
    channels.add_route('log:{name}', None, ChannelOptions(subscribers='anybody'))
    async with AsyncExitStack() as stack:
        for _ in range(12):
            client = await stack.enter_async_context(SimulatedClient(channels))
            for number in range(110):
                await client.subscribe(f'log:{number:0>250}')
        query = ConnectionQuery(limit=1000)
        body = msgspec.msgpack.encode(query)
        [encoded] = await channels.node.cluster.ask_encoded('connections', body)
        answer = await channels.node.connections.find(query)
    assert len(encoded) < 260_000
    assert 12 == answer.total
    assert 0 < len(answer.connections) < 12
    [first, *_] = answer.connections
    assert (110, module.MAX_LISTED_CHANNELS) == (
        first.num_channels,
        len(first.state.channels),
    )
    await channels.close()


async def test_facts_about_a_connection_of_an_sdk(nodes: Nodes) -> None:
    """The facts name the client library, and each subscription with its offset."""
    one, two = nodes
    before = int(time.time())
    async with SimulatedSdk(one, name='x' * 500) as sdk:
        await sdk.subscribe('log:a')
        await one.publish('log:a', 1)
        answer = await two.node.connections.find(ConnectionQuery(user=''))
        [facts] = answer.connections
        assert before <= facts.connected_at <= time.time()
        expected = {
            'client': sdk.connection.id,
            'user': '',
            'node': one.node.cluster.id,
            'transport': 'websocket',
            'protocol': 'json',
            'app_name': 'x' * 64,
            'app_version': '',
            'connected_at': facts.connected_at,
            'backlog_bytes': 0,
            'num_channels': 1,
            'state': {'channels': {'log:a': {'state': 'live', 'delivered_offset': 1}}},
        }
        assert expected == msgspec.to_builtins(facts)


async def test_listening_code_of_the_application_is_a_connection(nodes: Nodes) -> None:
    """A local subscription has the transport ``local``, and no encoding."""
    one, two = nodes
    async with one.subscribe('log:a'):
        answer = await two.node.connections.find(ConnectionQuery())
    [facts] = answer.connections
    assert ('local', '', True) == (
        facts.transport,
        facts.protocol,
        facts.state.channels['log:a'].server_side,
    )


async def test_find_with_a_limit_out_of_range_is_refused() -> None:
    """The error has the limit, and the range that is allowed."""
    channels = Channels()
    for limit in (-1, module.MAX_CONNECTIONS + 1):
        with pytest.raises(InvalidValueError, match=f'limit is {limit}.*0 to 1000'):
            await channels.node.connections.find(ConnectionQuery(limit=limit))
    await channels.close()
