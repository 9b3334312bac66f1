"""A token or a back end can limit what a client receives, by a tag filter."""

from __future__ import annotations

import asyncio
from typing import Any

from falcon import testing
import falcon.asgi
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import filters
from falcon_channels.errors import TokenInvalidError
from falcon_channels.filters import TagFilter
from falcon_channels.testing import CommandError
from falcon_channels.testing import SimulatedSdk
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

KEY = TokenKey('a secret of more than thirty-two bytes')
API_KEY = 'a-key-of-the-tests'
NORTH, SOUTH = filters.eq('region', 'north'), filters.eq('region', 'south')


def make_channels(resource: object = None) -> Channels:
    channels = Channels()
    channels.add_route('orders', resource, ChannelOptions(history_size=10))
    return channels


def connect(channels: Channels, **claims: Any) -> SimulatedSdk:
    token = make_connection_token(KEY, 'ann', **claims)
    return SimulatedSdk(channels, tokens=TokenVerifier(KEY), token=token)


def for_orders(tag_filter: TagFilter | None) -> str:
    return make_subscription_token(KEY, 'ann', 'orders', filter=tag_filter)


async def publish(channels: Channels) -> None:
    for region in ('north', 'south', 'north'):
        await channels.publish('orders', region, tags={'region': region})
    await channels.publish('orders', 'untagged')
    await asyncio.sleep(0.1)


def received(client: SimulatedSdk) -> list[str]:
    return [push['pub']['data'] for push in client.pushes if 'pub' in push]


@on_fake_clock
async def test_subscription_token_limits_what_its_client_receives() -> None:
    """Live, by recovery and by history, the client gets what matches its token."""
    async with make_channels() as channels, connect(channels) as ann:
        result = await ann.subscribe('orders', token=for_orders(NORTH))
        await publish(channels)
        assert ['north', 'north'] == received(ann)
        page = await ann.command('history', channel='orders', limit=-1)
        assert ['north', 'north'] == [pub['data'] for pub in page['publications']]
        await ann.command('unsubscribe', channel='orders')
        position = {'recover': True, 'offset': 0, 'epoch': result['epoch']}
        again = await ann.subscribe('orders', token=for_orders(SOUTH), **position)
        assert ['south'] == [pub['data'] for pub in again['publications']]


@on_fake_clock
async def test_connection_token_limits_its_server_side_channels() -> None:
    """An item of `subs` can have a filter."""
    subs = {'orders': {'server_tags_filter': NORTH}}
    async with make_channels() as channels, connect(channels, subs=subs) as ann:
        await publish(channels)
        assert ['north', 'north'] == received(ann)


@on_fake_clock
async def test_on_subscribe_sees_and_may_replace_the_filter_of_a_token() -> None:
    """The application has the last word."""
    seen: list[Any] = []

    class Orders:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            seen.append(subscription.filter)
            subscription.filter = SOUTH

    async with make_channels(Orders()) as channels, connect(channels) as ann:
        await ann.subscribe('orders', token=for_orders(NORTH))
        await publish(channels)
        assert [NORTH] == seen
        assert ['south'] == received(ann)
        await ann.command('sub_refresh', channel='orders', token=for_orders(NORTH))


@pytest.mark.parametrize('new', [SOUTH, None], ids=['another', 'none'])
@on_fake_clock
async def test_token_with_another_filter_needs_a_new_subscription(new: Any) -> None:
    """A refresh cannot change the filter: the client subscribes again (2501)."""
    async with make_channels() as channels, connect(channels) as ann:
        await ann.subscribe('orders', token=for_orders(NORTH))
        await ann.command('sub_refresh', channel='orders', token=for_orders(NORTH))
        with pytest.raises(CommandError, match='109'):
            await ann.command('sub_refresh', channel='orders', token=for_orders(new))
        assert 2501 == (await ann.receive())['unsubscribe']['code']
        await publish(channels)
        assert [] == received(ann)


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {'key': 'a', 'cmp': 'ex'}
    for _ in range(levels - 1):
        found = {'op': 'not', 'nodes': [found]}
    return found


@pytest.mark.parametrize(
    'malformed',
    [
        {'key': 'a', 'cmp': 'like', 'val': 'x'},
        {'op': 'xor', 'nodes': []},
        {'key': 1, 'cmp': 'eq', 'val': 'x'},
        'region=north',
        [],
        nested(9),
        nested(200),
    ],
)
def test_token_with_a_malformed_filter_is_invalid(malformed: Any) -> None:
    """A filter that cannot be read must not open the channel."""
    verifier = TokenVerifier(KEY)
    token = make_subscription_token(KEY, 'ann', 'orders', server_tags_filter=malformed)
    with pytest.raises(TokenInvalidError):
        verifier.subscription(token)
    subs = {'orders': {'server_tags_filter': malformed}}
    with pytest.raises(TokenInvalidError):
        verifier.connection(make_connection_token(KEY, 'ann', subs=subs))


@on_fake_clock
async def test_server_api_subscribes_with_a_filter() -> None:
    """A back end subscribes a user to a part of a channel; a wrong filter is 107."""
    channels = make_channels()
    app = falcon.asgi.App(middleware=[channels])
    channels.add_api(app, keys=API_KEY)
    async with testing.ASGIConductor(app) as conductor, connect(channels) as ann:

        async def subscribe(tag_filter: Any) -> Any:
            result = await conductor.simulate_post(
                '/api/subscribe',
                json={
                    'user': 'ann',
                    'channel': 'orders',
                    'server_tags_filter': tag_filter,
                },
                headers={'X-API-Key': API_KEY},
            )
            return result.json

        wrong = {'key': 'region', 'cmp': 'like', 'val': 'north'}
        assert 107 == (await subscribe(wrong))['error']['code']
        assert 107 == (await subscribe(nested(9)))['error']['code']
        north = {'key': 'region', 'cmp': 'eq', 'val': 'north'}
        assert {'result': {}} == await subscribe(north)
        await asyncio.sleep(0.1)
        await publish(channels)
        assert ['north', 'north'] == received(ann)
