"""The end of a channel, for clients of the endpoints."""

from __future__ import annotations

from collections.abc import Iterator
import json
from typing import Any

import falcon
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.event_reader import EventReader

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels

pytestmark = pytest.mark.every_server

FINISHED = {'code': 2400, 'reason': 'channel finished'}
FAILED = {'code': 2401, 'reason': 'too long'}

channels = Channels()


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        data = connection.data or {}
        connection.user = data.get('user', '')
        for channel in data.get('channels', ()):
            connection.add_channel(channel)


class Answers:
    """``/answers/{name}``: write to a channel, end it, and subscribe a user to it."""

    async def on_post(self, req: Any, resp: Any, name: str) -> None:
        for value in await req.get_media():
            await channels.publish(name, value)

    async def on_delete(self, req: Any, resp: Any, name: str) -> None:
        error = req.get_param('error', default='')
        await channels.finish(name, req.get_param('data'), error=error)

    async def on_put(self, req: Any, resp: Any, name: str) -> None:
        position = await channels.position(name)
        since = position._replace(offset=0)
        await channels.subscribe_user(req.get_param('user'), name, since=since)


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    global channels
    channels = Channels()
    channels.add_route(
        'answers:{number}',
        None,
        ChannelOptions(history_size=100, subscribers='anybody', publishers='anybody'),
    )
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/answers/{name}', Answers())
    channels.add_endpoints(app, resource=Clients())
    with serving_app(app, asgi_server) as server:
        yield server


@pytest.fixture(scope='module')
def http(server: Server) -> Iterator[httpx.Client]:
    url = f'http://127.0.0.1:{server.port}'
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


def publish(http: httpx.Client, name: str, *values: Any) -> None:
    assert 200 == http.post(f'/answers/{name}', json=values).status_code


def finish(http: httpx.Client, name: str, **params: str) -> None:
    assert 200 == http.delete(f'/answers/{name}', params=params).status_code


def data_of(push: dict[str, Any]) -> Any:
    """Return what a push carries: the data of a publication, or an end."""
    return push['pub']['data'] if 'pub' in push else push['unsubscribe']


def test_subscription_ends_after_its_publications(
    server: Server, http: httpx.Client
) -> None:
    """The push that ends a subscription follows all publications of the channel."""
    name = 'answers:live'
    with Peer.to(server) as peer:
        peer.connect()
        assert 'subscribe' in peer.ask('subscribe', channel=name)
        publish(http, name, 'a')
        finish(http, name, data='b', error='too long')
        pushes = [peer.push() for _ in range(3)]
        assert ['a', 'b', FAILED] == list(map(data_of, pushes))
        assert {name} == {push['channel'] for push in pushes}
        assert {'unsubscribe': {}} == peer.ask('unsubscribe', channel=name)
        assert 103 == peer.error('history', channel=name, limit=1)


def test_late_subscribe_is_answered_and_then_ended(
    server: Server, http: httpx.Client
) -> None:
    """A client that subscribes to a finished channel recovers first."""
    name = 'answers:late'
    publish(http, name, 'a')
    finish(http, name)
    with Peer.to(server) as peer:
        peer.connect()
        for request, expected in (
            ({}, []),
            ({'recover': True, 'offset': 0}, ['a']),
            ({'recover': True, 'offset': 1}, []),
            ({'recover': True, 'offset': 2}, []),
        ):
            result = peer.ask('subscribe', channel=name, **request)['subscribe']
            found = [item['data'] for item in result.get('publications', [])]
            assert expected == found
            assert bool(request) == result.get('recovered', False)
            assert FINISHED == peer.push()['unsubscribe']


def test_publish_to_a_finished_channel_is_refused_with_108(
    server: Server, http: httpx.Client
) -> None:
    """The client learns why its publication was refused, and stays connected."""
    name = 'answers:publish'
    finish(http, name)
    with Peer.to(server) as peer:
        peer.connect()
        reply = peer.ask('publish', channel=name, data=1)
        assert {'code': 108, 'message': 'the channel is finished'} == reply['error']
        assert {'unsubscribe': {}} == peer.ask('unsubscribe', channel=name)


def test_server_side_channel_that_has_ended_follows_the_connect_reply(
    server: Server, http: httpx.Client
) -> None:
    """The connect result has the subscription, and its end comes afterwards."""
    name = 'answers:server'
    publish(http, name, 'a')
    finish(http, name)
    with Peer.to(server) as peer:
        subs = {name: {'recover': True, 'offset': 0}}
        result = peer.connect(data={'channels': [name]}, subs=subs)
        assert ['a'] == [item['data'] for item in result['subs'][name]['publications']]
        assert FINISHED == peer.push()['unsubscribe']
    with Peer.to(server) as peer:
        peer.connect(data={'user': 'ann'})
        answer = http.put(f'/answers/{name}', params={'user': 'ann'})
        assert 200 == answer.status_code
        first, second, third = (peer.push() for _ in range(3))
        assert (0, name) == (first['subscribe'].get('offset', 0), first['channel'])
        assert ['a', FINISHED] == [data_of(second), data_of(third)]


def test_unidirectional_clients_get_the_end_as_a_push(
    server: Server, http: httpx.Client
) -> None:
    """Each unidirectional transport has the publications, and then the end."""
    name = 'answers:uni'
    publish(http, name, 'a')
    with Peer.to(server, '/connection/uni_websocket') as peer:
        peer.say({'subs': {name: {'recover': True}}})
        assert name in peer.hear()['connect']['subs']
        path = f'/connection/uni_sse?channel={name}'
        with EventReader.open(http, path) as reader:
            assert name in json.loads(reader.event().data)['connect']['subs']
            finish(http, name, data='b')
            sse = [json.loads(reader.event().data) for _ in range(2)]
        websocket = [peer.hear() for _ in range(3)]
        assert ['a', 'b', FINISHED] == list(map(data_of, websocket))
        assert websocket[1:] == sse
    request = {'subs': {name: {'recover': True}}}
    path = '/connection/uni_http_stream'
    with http.stream('POST', path, json=request) as response:
        lines = response.iter_lines()
        assert name in json.loads(next(lines))['connect']['subs']
        late = [data_of(json.loads(next(lines))) for _ in range(3)]
    assert ['a', 'b', FINISHED] == late
