"""Test the statements of the page about plain WebSockets and the SDK."""

from __future__ import annotations

from collections.abc import Iterator
import json
from typing import Any

from endpoint.peer import serving_app
import falcon
from falcon import testing
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import SERVE
from websockets.sync.client import connect

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

    async def on_get(self, req: Any, resp: Any, room: str) -> None:
        present = await self.channels.presence(f'rooms:{room}')
        resp.media = sorted(info.user for info in present.values())

    async def on_post(self, req: Any, resp: Any, room: str) -> None:
        await self.channels.publish(f'rooms:{room}', await req.get_media())

    async def on_delete(self, req: Any, resp: Any, room: str) -> None:
        await self.channels.revoke_user('bob', f'rooms:{room}')

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'rooms:{room}', user='ann', media=True)


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'bob'


def pushes(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the data of the events in the lines of a stream."""
    for line in lines:
        if line.startswith('data: '):
            yield json.loads(line.removeprefix('data: '))


@pytest.mark.server
def test_event_stream_shares_publications_positions_presence_and_revocation() -> None:
    """An event stream of several channels gets what a plain WebSocket gets."""
    channels = Channels()
    room = Room(channels)
    options = ChannelOptions(history_size=5, presence=True)
    channels.add_route('rooms:{room}', room, options)
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/rooms/{room}', room)
    channels.add_endpoints(app, resource=Clients())
    path = '/connection/uni_sse?channel=rooms:a&channel=rooms:b'
    with (
        serving_app(app, SERVE) as server,
        connect(f'{server.ws_url}/rooms/a') as ann,
        httpx.Client(base_url=f'http://127.0.0.1:{server.port}', timeout=30) as client,
        client.stream('GET', path) as response,
    ):
        stream = pushes(response.iter_lines())
        assert {'rooms:a', 'rooms:b'} == next(stream)['connect']['subs'].keys()
        assert ['ann', 'bob'] == client.get('/rooms/a').json()
        assert 'subscribed' in json.loads(ann.recv(30))
        ann.send('"hi"')
        plain = json.loads(ann.recv(30))
        pushed = next(stream)['pub']
        assert (['hi', 'ann'], 1) == (plain['data'], plain['offset'])
        assert (['hi', 'ann'], 1) == (pushed['data'], pushed['offset'])
        client.post('/rooms/b', json='only the stream')
        assert 'rooms:b' == next(stream)['channel']
        client.delete('/rooms/a')
        assert 2000 == next(stream)['unsubscribe']['code']
        assert 403 == client.get('/connection/uni_sse?channel=rooms:secret').status_code


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
