"""Test the statements of the page about plain WebSockets and the SDK."""

from __future__ import annotations

from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.testing import CommandError
from falcon_channels.testing import SimulatedSdk


class Room:
    """One resource for clients of both kinds."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'secret':
            raise falcon.HTTPForbidden(description='members only')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        publication.data = [publication.data, publication.user]

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'rooms:{room}', user='ann', media=True)


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'bob'


async def test_plain_websocket_and_sdk_share_routes_publications_and_presence() -> None:
    """Responders, options, publications, positions and presence are the same."""
    channels = Channels()
    room = Room(channels)
    options = ChannelOptions(history_size=5, presence=True)
    channels.add_route('rooms:{room}', room, options)
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/rooms/{room}', room)
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/rooms/secret'):
                pass
        async with (
            conductor.simulate_ws('/rooms/a') as ann,
            SimulatedSdk(channels, Clients()) as bob,
        ):
            await ann.receive_json()
            with pytest.raises(CommandError, match='103: members only'):
                await bob.subscribe('rooms:secret')
            await bob.subscribe('rooms:a')
            await ann.send_json('hi')
            for number, sender in enumerate(('ann', 'bob'), 1):
                plain = await ann.receive_json()
                pushed = (await bob.receive())['pub']
                assert [plain['data'], plain['offset']] == [['hi', sender], number]
                assert [pushed['data'], pushed['offset']] == [['hi', sender], number]
                if sender == 'ann':
                    await bob.publish('rooms:a', 'hi')
            stats = await channels.presence_stats('rooms:a')
            assert (2, 2) == (stats.num_clients, stats.num_users)
            # Only the SDK has one connection for several channels.
            await channels.subscribe_user('ann', 'rooms:b')
            await channels.subscribe_user('bob', 'rooms:b')
            assert 'rooms:b' == (await bob.receive())['channel']
            assert 1 == (await channels.presence_stats('rooms:b')).num_clients
            await channels.revoke_user('bob', 'rooms:a')
            assert 2000 == (await bob.receive())['unsubscribe']['code']
            await channels.revoke_user('ann', 'rooms:a')
            with pytest.raises(falcon.WebSocketDisconnected) as caught:
                await ann.receive_json()
            assert 3403 == caught.value.code
