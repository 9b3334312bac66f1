"""Tag filters are access control: no client receives what its filter excludes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
import contextlib
import json
from typing import Any

import falcon
from falcon import testing
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
from support.fake_clock import on_fake_clock
from support.loop_turns import LoopTurns
from support.tag_filters import holds
from support.tag_filters import tag_filters
from support.tag_filters import tags
from support.tag_filters import to_wire

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels import InvalidValueError
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels.access.handshake import NOT_TIMED
from falcon_channels.endpoint.endpoint import Endpoint
from falcon_channels.endpoint.unidirectional import UnidirectionalConnection
from falcon_channels.filters import TagFilter
from falcon_channels.plain.websocket import PlainConnection
from falcon_channels.protocol.json_codec import decode_connect
from falcon_channels.protocol.messages import Command
from falcon_channels.publication import Newest
from falcon_channels.testing import CommandError
from falcon_channels.testing import run_with_fake_clock
from falcon_channels.testing import SimulatedClient
from falcon_channels.testing import SimulatedSdk
from falcon_channels.testing.client import SimulatedTransport

Tags = dict[str, str] | None


class Filtered:
    """A resource that gives each subscriber the filter of the test."""

    def __init__(self, tag_filter: Any) -> None:
        self.tag_filter = tag_filter

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        subscription.filter = self.tag_filter


class Clients:
    """A connection resource that subscribes the client of the test by itself."""

    def __init__(self, tag_filter: TagFilter | None) -> None:
        self.tag_filter = tag_filter

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'
        if connection.data == 'server-side':
            connection.add_channel('log', filter=self.tag_filter)


def make_channels(tag_filter: Any) -> Channels:
    # NOTE: a short page of history, so that filtered ones are read in several steps.
    channels = Channels(options=NodeOptions(history_limit=3))
    for name, recovery in (('log', 'stream'), ('state', 'latest')):
        channels.add_route(
            name,
            Filtered(tag_filter),
            ChannelOptions(history_size=50, recovery=recovery, client_filters=True),  # type: ignore[arg-type]
        )
    channels.add_route('closed', Filtered(None))
    return channels


async def publish(channels: Channels, all_tags: list[Tags]) -> None:
    """Publish a publication for each item; its data is its offset."""
    for found in all_tags:
        for name in ('log', 'state'):
            position = await channels.position(name)
            await channels.publish(name, position.offset + 1, tags=found)


class Listener:
    """A client whose messages are decoded from JSON: plain, or unidirectional."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.transport = SimulatedTransport(self._take, lambda: None)

    def _take(self, payload: bytes) -> None:
        self.messages += [json.loads(line) for line in payload.split(b'\n')]

    def data(self) -> list[int]:
        """Return the data of all received publications."""
        pubs = [message.get('pub', message) for message in self.messages]
        return [pub['data'] for pub in pubs if 'data' in pub]


@contextlib.asynccontextmanager
async def plain(channels: Channels, since: Position | None) -> AsyncIterator[Listener]:
    """Connect a plain WebSocket that speaks JSON."""
    listener = Listener()
    connection = PlainConnection(
        channels.node,
        listener.transport,
        'log',
        testing.create_asgi_req(),
        user='ann',
        info=None,
        media=True,
    )
    listener.transport.receiver = connection

    async def admit() -> None:
        connection.admit(listener.transport, NOT_TIMED)

    await connection.subscribe(since, admit, accepted=False)
    yield listener
    connection.shutdown()


@contextlib.asynccontextmanager
async def unidirectional(channels: Channels, sub: Any) -> AsyncIterator[Listener]:
    """Connect a client that only listens."""
    listener = Listener()
    endpoint = Endpoint(channels.node, Clients(None), None, None)
    req = testing.create_asgi_req()
    connection = UnidirectionalConnection(endpoint, listener.transport, req)
    listener.transport.receiver = connection
    channels.node.handshake.add(connection)
    request = decode_connect(json.dumps({'subs': {'log': sub}}))
    await connection.carry_out_only(Command(1, request))
    yield listener
    connection.shutdown()


def pushed(sdk: SimulatedSdk, channel: str) -> list[int]:
    """Return the data of the publications that were pushed in a channel."""
    return [
        push['pub']['data']
        for push in sdk.pushes
        if push.get('channel') == channel and 'pub' in push
    ]


def data(result: dict[str, Any]) -> list[int]:
    """Return the data of the publications of a result."""
    return [item['data'] for item in result.get('publications', ())]


async def check_every_way(
    tag_filter: TagFilter, wanted: TagFilter, before: list[Tags], after: list[Tags]
) -> None:
    """Check that clients get exactly the matching publications, on every way."""
    channels = make_channels(tag_filter)
    await channels.start()
    await publish(channels, before)
    start = Position(0, (await channels.position('log')).epoch)
    recover = {'recover': True, 'offset': 0, 'epoch': start.epoch}
    numbered = list(enumerate([*before, *after], 1))
    allowed = [n for n, found in numbered if holds(tag_filter, found)]
    missed = [n for n in allowed if n <= len(before)]
    live = [n for n in allowed if n > len(before)]
    chosen = [n for n, found in numbered if n in allowed and holds(wanted, found)]
    clients = Clients(tag_filter)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        sdk = await enter(SimulatedSdk(channels, clients))
        result = await sdk.subscribe('log', **recover)
        assert result['recovered']
        assert missed == data(result)
        latest = await sdk.subscribe('state', recover=True)
        assert missed[-1:] == data(latest)
        assert bool(before) == latest.get('recovered', False)
        choosing = await enter(SimulatedSdk(channels, clients))
        result = await choosing.subscribe('log', tf=to_wire(wanted), **recover)
        assert [n for n in chosen if n in missed] == data(result)
        server_side = await enter(SimulatedSdk(channels, clients, data='server-side'))
        commanded = await enter(SimulatedSdk(channels, clients))
        await channels.subscribe_user(
            'ann',
            'log',
            client=commanded.connection.id,
            since=start,
            filter=tag_filter,
        )
        for limit in (1, 2, None):
            async with SimulatedClient(channels, user='ann') as client:
                joined = await client.subscribe('log', Newest(limit))  # type: ignore[arg-type]
                first = -len(missed) if limit is None else -limit
                assert missed[first:] == [item.value() for item in joined.publications]
        plain_client = await enter(plain(channels, start))
        listener = await enter(unidirectional(channels, recover))
        await asyncio.sleep(1)
        await publish(channels, after)
        await asyncio.sleep(1)
        for name in ('log', 'state'):
            assert live == pushed(sdk, name)
        assert [n for n in chosen if n in live] == pushed(choosing, 'log')
        assert live == pushed(server_side, 'log')
        assert allowed == pushed(commanded, 'log')
        assert allowed == plain_client.data()
        assert allowed == listener.data()
        for limit in (1, 2, 50):
            most = min(limit, 3)  # the option history_limit
            for reverse in (False, True):
                expected = allowed[::-1] if reverse else allowed
                page = await sdk.command(
                    'history', channel='log', limit=limit, reverse=reverse
                )
                assert expected[:most] == data(page)
                assert len(numbered) == page.get('offset', 0)
    await channels.close()


def is_sendable(tag_filter: TagFilter) -> bool:
    """Return whether a client may send the filter: it has no empty list."""
    if tag_filter.op == 'or' and not tag_filter.nodes:
        return False
    if tag_filter.cmp in ('in', 'nin') and not tag_filter.vals:
        return False
    return all(map(is_sendable, tag_filter.nodes))


_publications = st.lists(tags, max_size=6)


@settings(max_examples=60, deadline=None)
@given(tag_filters, tag_filters.filter(is_sendable), _publications, _publications)
def test_client_receives_exactly_what_matches_on_every_way(
    tag_filter: TagFilter, wanted: TagFilter, before: list[Tags], after: list[Tags]
) -> None:
    """No other publication arrives: live, recovered, by history, or server-side.

    There are clients with and without a filter of their own. Others are subscribed by
    the server, use a plain WebSocket, or only listen.
    """
    run_with_fake_clock(check_every_way(tag_filter, wanted, before, after))


NORTH = filters.eq('region', 'north')
TAGS: list[Tags] = [{'region': 'north'}, {'region': 'south'}, None]


@on_fake_clock
async def test_client_filter_on_a_route_without_the_option_is_refused() -> None:
    """A filter that were ignored would send publications that nobody asked for."""
    channels = make_channels(None)
    async with SimulatedSdk(channels) as sdk:
        with pytest.raises(CommandError) as caught:
            await sdk.subscribe('closed', tf=to_wire(NORTH))
        assert (107, "channel 'closed' accepts no tag filter of a client") == (
            caught.value.code,
            caught.value.message,
        )
        await sdk.subscribe('closed')
    await channels.close()


@on_fake_clock
async def test_malformed_client_filter_is_refused_with_the_reason() -> None:
    """A malformed filter is an error of one command, and not the end of the client."""
    channels = make_channels(None)
    async with SimulatedSdk(channels) as sdk:
        with pytest.raises(CommandError) as caught:
            await sdk.subscribe('log', tf={'key': 'region', 'cmp': 'like', 'val': 'n'})
        assert 107 == caught.value.code
        assert "comparison 'like'" in caught.value.message
        await sdk.subscribe('log')
    await channels.close()


@on_fake_clock
async def test_client_filter_together_with_delta_has_no_delta() -> None:
    """A client that asks for both gets whole publications, and only matching ones."""
    channels = make_channels(None)
    async with SimulatedSdk(channels) as sdk:
        result = await sdk.subscribe('log', tf=to_wire(NORTH), delta='fossil')
        assert 'delta' not in result
        await publish(channels, TAGS)
        await asyncio.sleep(1)
        assert [1] == pushed(sdk, 'log')
    await channels.close()


@on_fake_clock
async def test_filter_cannot_be_set_after_the_subscription_began() -> None:
    """The group of a subscriber depends on the filter, so it never changes later."""
    channels = make_channels(NORTH)
    async with SimulatedClient(channels) as client:
        await client.subscribe('log')
        subscription = client.connection.subscriptions['log']
        with pytest.raises(InvalidValueError, match='on_subscribe only'):
            subscription.filter = None
        assert NORTH == subscription.filter
    await channels.close()


@pytest.mark.parametrize('value', ['region=north', {'region': 'north'}, NORTH.matches])
def test_value_that_is_no_filter_fails_the_subscription(value: Any) -> None:
    """A mistake of the application closes the channel, and never opens it."""

    async def scenario() -> None:
        channels = make_channels(value)
        async with SimulatedSdk(channels) as sdk:
            with pytest.raises(CommandError) as caught:
                await sdk.subscribe('log')
            assert 100 == caught.value.code
            await publish(channels, TAGS)
            await asyncio.sleep(1)
            assert [] == pushed(sdk, 'log')
        await channels.close()

    run_with_fake_clock(scenario())


@on_fake_clock
async def test_subscription_of_a_command_that_is_no_filter_is_refused() -> None:
    """The caller of `subscribe_user` and `add_channel` sees the mistake itself."""
    channels = make_channels(None)
    with pytest.raises(InvalidValueError, match='filter'):
        await channels.subscribe_user('ann', 'log', filter='north')  # type: ignore[arg-type]
    async with SimulatedSdk(channels) as sdk:
        with pytest.raises(InvalidValueError, match='add_channel'):
            sdk.connection.add_channel('log', filter='north')  # type: ignore[arg-type]
    await channels.close()


@on_fake_clock
async def test_client_that_recovers_nothing_that_matches_moves_on() -> None:
    """The reply has the top position, from which the client recovers next time."""
    channels = make_channels(NORTH)
    await publish(channels, [{'region': 'south'}] * 5)
    epoch = (await channels.position('log')).epoch
    async with SimulatedSdk(channels) as sdk:
        result = await sdk.subscribe('log', recover=True, offset=2, epoch=epoch)
        assert (True, 5, []) == (
            result['recovered'],
            result['offset'],
            data(result),
        )
    await channels.close()


@on_fake_clock
async def test_recovery_is_judged_before_the_filter() -> None:
    """A client whose publications have left the log does not recover.

    Nobody knows whether one of those would have matched.
    """
    channels = Channels()
    channels.add_route('log', Filtered(NORTH), ChannelOptions(history_size=2))
    for _ in range(4):
        await channels.publish('log', 1, tags={'region': 'south'})
    epoch = (await channels.position('log')).epoch
    async with SimulatedSdk(channels) as sdk:
        result = await sdk.subscribe('log', recover=True, offset=1, epoch=epoch)
        assert not result.get('recovered', False)
        await sdk.command('unsubscribe', channel='log')
        result = await sdk.subscribe('log', recover=True, offset=2, epoch=epoch)
        assert result['recovered']
    await channels.close()


@on_fake_clock
async def test_history_responder_that_requires_a_subscription_filters() -> None:
    """`on_history` decides about clients without a subscription, and so a filter."""

    class Orders(Filtered):
        async def on_history(self, req: Any, connection: Any) -> None:
            if 'log' not in connection.subscriptions:
                raise falcon.HTTPForbidden()

    channels = Channels()
    channels.add_route('log', Orders(NORTH), ChannelOptions(history_size=9))
    for found in TAGS:
        await channels.publish('log', 1, tags=found)
    async with SimulatedSdk(channels) as sdk:
        with pytest.raises(CommandError):
            await sdk.command('history', channel='log', limit=10)
        await sdk.subscribe('log')
        page = await sdk.command('history', channel='log', limit=10)
        assert [1] == [item['offset'] for item in page['publications']]
    await channels.close()


@on_fake_clock
async def test_history_is_filtered_if_the_subscription_ends_meanwhile() -> None:
    """A filter applies to a request that began while the client was subscribed.

    Before, the client received publications that its filter does not allow: its
    subscription had expired while `on_history` waited.
    """
    asked, ended = asyncio.Event(), asyncio.Event()

    class Orders(Filtered):
        async def on_history(self, req: Any, connection: Any) -> None:
            if 'log' not in connection.subscriptions:
                raise falcon.HTTPForbidden()
            asked.set()
            await ended.wait()

    channels = Channels()
    channels.add_route('log', Orders(NORTH), ChannelOptions(history_size=9))
    for found in TAGS:
        await channels.publish('log', 1, tags=found)
    async with SimulatedSdk(channels) as sdk:
        await sdk.subscribe('log')
        page = asyncio.create_task(sdk.command('history', channel='log', limit=10))
        await asked.wait()
        await channels.unsubscribe_user('', 'log', code=2501)
        assert 'unsubscribe' in await sdk.receive()
        ended.set()
        assert [1] == [item['offset'] for item in (await page)['publications']]
    await channels.close()


async def test_history_with_a_filter_lets_the_event_loop_turn_between_pages() -> None:
    """A filter that matches nothing is compared with a whole log, page by page.

    In each turn of the event loop, no more than two pages of it are read.
    """
    num_publications, page_size = 3_000, 100
    channels = Channels(options=NodeOptions(history_limit=page_size))
    channels.add_route(
        'log',
        Filtered(filters.eq('to', 'nobody')),
        ChannelOptions(history_size=num_publications, recovery='off'),
    )
    for _ in range(num_publications):
        await channels.publish('log', 1, tags={'to': 'all'})
    async with SimulatedSdk(channels) as sdk:
        await sdk.subscribe('log')
        for reverse in (False, True):
            with LoopTurns() as turns:
                fields = {'channel': 'log', 'limit': 10, 'reverse': reverse}
                page = await sdk.command('history', **fields)
            assert not page.get('publications')
            assert num_publications == page['offset']
            # NOTE: even the shortest loop needs five bytecodes for each publication.
            assert turns.longest < 5 * num_publications
    await channels.close()
