"""`SimulatedSdk`: a client of the client protocol without a network."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import falcon
from falcon import testing
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.testing import CommandError
from falcon_channels.testing import DisconnectedError
from falcon_channels.testing import SimulatedSdk
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier


class Clients:
    """A connection resource with all responders; it records their calls."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.data == 'eve':
            raise falcon.HTTPForbidden(description='no eve')
        connection.user = connection.data or getattr(req.context, 'user', None)
        connection.reply = {'name': connection.name, **connection.headers}
        connection.add_channel(f'users:{connection.user}')

    async def on_refresh(self, req: Any, connection: Any) -> None:
        if connection.token != 'good':
            raise falcon.HTTPForbidden()
        connection.expires_at = time.time() + 500

    async def on_rpc_add(self, req: Any, call: Any) -> None:
        call.reply = {'sum': sum(call.data)}

    async def on_message(self, req: Any, message: Any) -> None:
        await asyncio.sleep(1)
        self.heard.append(message.data)

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        await asyncio.sleep(1)
        self.heard.append(f'{connection.user} left')


class Rooms:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'secret':
            raise falcon.HTTPForbidden(description='members only')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        publication.data = [publication.data]


def make_channels(**options: Any) -> Channels:
    channels = Channels(options=NodeOptions(**options))
    rooms = ChannelOptions(history_size=5, presence=True)
    channels.add_route('rooms:{room}', Rooms(), rooms)
    channels.add_route('users:{user}', None)
    return channels


@on_fake_clock
async def test_connection_resource_receives_every_kind_of_command() -> None:
    """Each responder of a connection resource and its reply can be tested."""
    clients = Clients()
    async with make_channels() as channels:
        headers = {'x': '1'}
        async with SimulatedSdk(
            channels, clients, data='ann', name='js', headers=headers
        ) as ann:
            assert 'ann' == ann.connection.user
            assert {'name': 'js', 'x': '1'} == ann.connected['data']
            assert ['users:ann'] == list(ann.connected['subs'])
            assert {'sum': 3} == await ann.rpc('add', [1, 2])
            await ann.send('hello')
            assert ['hello'] == clients.heard
            assert 499 <= (await ann.refresh('good'))['ttl'] <= 500
            with pytest.raises(CommandError, match='104: method not found'):
                await ann.rpc('subtract')
            with pytest.raises(CommandError) as caught:
                await ann.refresh('bad')
            assert (103, False) == (caught.value.code, caught.value.temporary)
        assert ['hello', 'ann left'] == clients.heard
        assert (1000, '') == ann.end


@on_fake_clock
async def test_channels_of_sdk_recover_publish_and_report_presence() -> None:
    """Commands about channels return the results of the client protocol."""
    async with (
        make_channels() as channels,
        SimulatedSdk(channels, Clients(), data='ann') as ann,
        SimulatedSdk(channels, Clients(), data='bob') as bob,
    ):
        start = await ann.subscribe('rooms:a')
        await bob.subscribe('rooms:a')
        await bob.publish('rooms:a', 'hi')
        push = await ann.receive()
        assert ('rooms:a', ['hi'], 1) == (
            push['channel'],
            push['pub']['data'],
            push['pub']['offset'],
        )
        stats = await ann.command('presence_stats', channel='rooms:a')
        assert 2 == stats['num_clients']
        await ann.command('unsubscribe', channel='rooms:a')
        again = await ann.subscribe(
            'rooms:a', recover=True, offset=0, epoch=start['epoch']
        )
        assert [['hi']] == [item['data'] for item in again['publications']]
        with pytest.raises(CommandError, match='103: members only'):
            await ann.subscribe('rooms:secret')
        with pytest.raises(TimeoutError, match='no push arrived within'):
            await ann.receive()


@on_fake_clock
async def test_refused_client_raises_its_close_code() -> None:
    """A refusal, and a disconnect by the application, raise the code and the reason."""
    async with make_channels(max_connections=1) as channels:
        clients = Clients()
        with pytest.raises(DisconnectedError, match='3507: no eve'):
            async with SimulatedSdk(channels, clients, data='eve'):
                pass
        req = testing.create_asgi_req()
        req.context.user = 'ann'
        async with SimulatedSdk(channels, clients, req=req) as ann:
            with pytest.raises(falcon.HTTPServiceUnavailable):
                await SimulatedSdk(channels, clients).__aenter__()
            waiting = asyncio.ensure_future(ann.receive())
            await channels.disconnect_user('ann', code=4500, reason='bye')
            with pytest.raises(DisconnectedError) as caught:
                await waiting
            assert (4500, 'bye') == (caught.value.code, caught.value.reason)
            with pytest.raises(DisconnectedError, match='4500: bye'):
                await ann.rpc('add', [])
        assert ['ann left'] == clients.heard


@on_fake_clock
async def test_token_of_sdk_is_verified() -> None:
    """The client sends its token; a refused token raises the error of a real client."""
    key = TokenKey('a secret of at least thirty-two bytes')
    async with make_channels() as channels:
        tokens = TokenVerifier([key])
        token = make_connection_token(key, 'ann')
        async with SimulatedSdk(channels, tokens=tokens, token=token) as ann:
            assert 'ann' == ann.connection.user
        with pytest.raises(DisconnectedError, match='3500: invalid token'):
            async with SimulatedSdk(channels, tokens=tokens, token='a.b.c'):
                pass


@on_fake_clock
async def test_idle_sdk_answers_pings_for_hours() -> None:
    """A client that waits is not disconnected for missing pongs."""
    async with make_channels() as channels:
        async with SimulatedSdk(channels, Clients(), data='ann') as ann:
            await asyncio.sleep(3600 * 5)
            assert {'sum': 0} == await ann.rpc('add', [])
            assert ann.end is None
