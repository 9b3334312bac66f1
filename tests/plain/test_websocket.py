"""Plain WebSockets, with Falcon's test client: no server, no SDK."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import msgspec
import pytest

from falcon_channels import BrokerUnavailableError
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Event
from falcon_channels import NodeOptions
from falcon_channels import Position
from falcon_channels import PositionError
from falcon_channels.plain.websocket import parse_since
from falcon_channels.testing import SimulatedClient

OWN = {'Origin': 'http://falconframework.org'}


class Note(msgspec.Struct):
    """The type of data that may be published."""

    text: str


class Rooms:
    """A resource with several responders for one kind of channel."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'closed':
            raise falcon.HTTPForbidden()

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'rude':
            raise falcon.HTTPForbidden(description='be nice')
        if publication.data == 'break':
            raise RuntimeError('a defect of the application')

    async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
        user = req.get_param('user', default='')
        await self.channels.serve(req, ws, f'rooms:{room}', user=user)

    async def on_websocket_media(self, req: Any, ws: Any, room: str) -> None:
        await ws.accept()
        await self.channels.serve(req, ws, f'rooms:{room}', user='ann', media=True)

    async def on_websocket_typed(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'typed:{room}', media=True)

    async def on_websocket_wrong(self, req: Any, ws: Any, room: str) -> None:
        with pytest.raises(PositionError, match='Position'):
            await self.channels.serve(req, ws, 'rooms:a', since=(0, ''))  # type: ignore[arg-type]
        raise falcon.HTTPBadRequest()

    async def on_websocket_nowhere(self, req: Any, ws: Any, room: str) -> None:
        await self.channels.serve(req, ws, f'no:{room}')


@pytest.fixture
def channels() -> Channels:
    channels = Channels(options=NodeOptions(max_message_bytes=1000))
    rooms = Rooms(channels)
    channels.add_route(
        'rooms:{room}',
        rooms,
        ChannelOptions(history_size=10, max_publication_bytes=500),
    )
    channels.add_route(
        'typed:{room}', None, ChannelOptions(data_type=Note, publishers='anybody')
    )
    return channels


@pytest.fixture
def app(channels: Channels) -> falcon.asgi.App:
    app = falcon.asgi.App(middleware=[channels])
    rooms = Rooms(channels)
    app.add_route('/text/{room}', rooms)
    app.add_route('/media/{room}', rooms, suffix='media')
    app.add_route('/typed/{room}', rooms, suffix='typed')
    app.add_route('/wrong/{room}', rooms, suffix='wrong')
    app.add_route('/nowhere/{room}', rooms, suffix='nowhere')
    return app


async def test_text_message_reaches_all_subscribers(
    app: falcon.asgi.App, channels: Channels
) -> None:
    """A client's text reaches every client unchanged.

    The application's data is sent as JSON.
    """
    async with testing.ASGIConductor(app) as conductor:
        async with (
            conductor.simulate_ws('/text/a') as one,
            conductor.simulate_ws('/text/a') as two,
        ):
            await one.send_text('hi "there"')
            assert 'hi "there"' == await one.receive_text()
            assert 'hi "there"' == await two.receive_text()
            await channels.publish('rooms:a', {'n': 1})
            assert '{"n":1}' == await two.receive_text()


async def test_invalid_since_is_refused_before_accept(app: falcon.asgi.App) -> None:
    """`Channels.serve` refuses an invalid `since` before the handshake is accepted."""
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected) as caught:
            async with conductor.simulate_ws('/wrong/a'):
                pass
        assert 3400 == caught.value.code


async def test_media_client_receives_positions_and_recovers(
    app: falcon.asgi.App, channels: Channels
) -> None:
    """A media client receives its position, and recovers from there what it missed."""
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/media/a') as ws:
            begin = (await ws.receive_json())['subscribed']
            assert 0 == begin['offset']
            await ws.send_text('[1, "one"]')
            first = await ws.receive_json()
            assert ([1, 'one'], 1) == (first['data'], first['offset'])
            assert 'ann' == first['info']['user']
        await channels.publish('rooms:a', 2)
        await channels.publish('rooms:a', 3)
        since = f'since=1:{first["epoch"]}'
        async with conductor.simulate_ws('/media/a', query_string=since) as ws:
            assert True is (await ws.receive_json())['subscribed']['recovered']
            assert [2, 3] == [(await ws.receive_json())['data'] for _ in range(2)]
        async with conductor.simulate_ws(
            '/media/a', query_string='since=1:other'
        ) as ws:
            begin = (await ws.receive_json())['subscribed']
            assert (3, False) == (begin['offset'], begin['recovered'])


def app_that_replies(reply: object) -> falcon.asgi.App:
    """Return an app whose `on_subscribe` sets a reply for its clients."""
    channels = Channels()

    class Room:
        async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
            subscription.reply = reply

        async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
            await channels.serve(req, ws, f'rooms:{room}', media=True)

    channels.add_route('rooms:{room}', Room())
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/{room}', Room())
    return app


async def test_media_client_receives_the_reply_of_on_subscribe() -> None:
    """The first message has the data that ``on_subscribe`` has for the client."""
    async with testing.ASGIConductor(app_that_replies({'welcome': 'a'})) as conductor:
        async with conductor.simulate_ws('/a') as ws:
            start = (await ws.receive_json())['subscribed']
    assert {'welcome': 'a'} == start['data']


async def test_reply_that_is_not_json_is_refused_before_the_handshake_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the attribute, and the client receives an HTTP status.

    The handshake was accepted first. The client was then closed with 1011, and the log
    had only "Encoding objects of type object is unsupported".
    """
    async with testing.ASGIConductor(app_that_replies(object())) as conductor:
        with pytest.raises(falcon.errors.WebSocketServerError):
            async with conductor.simulate_ws('/a') as ws:
                await ws.wait_ready()
    assert 'subscription.reply cannot be written as JSON' in caplog.text


async def test_invalid_position_of_a_url_is_logged_and_told(
    app: falcon.asgi.App, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason, because Falcon logs only the status."""
    caplog.set_level('INFO', 'falcon_channels')
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/media/a', query_string='since=x') as ws:
            with pytest.raises(falcon.WebSocketDisconnected):
                await ws.wait_ready()
            assert 3400 == ws.close_code
    [event] = [
        record.event  # type: ignore[attr-defined]
        for record in caplog.records
        if getattr(record, 'event', None) and 'since' in record.getMessage()
    ]
    assert ('connection_refused', 400) == (event.name, event.code)
    assert 'write it as OFFSET:EPOCH' in event.reason


@pytest.mark.parametrize('text', ['x', '-1:e', '1.5:e', '٣:e', '9' * 16 + ':e', ''])
async def test_invalid_position_text_is_refused(text: str) -> None:
    """Text that is not a position is refused with the name of the parameter."""
    with pytest.raises(falcon.HTTPInvalidParam):
        parse_since(text)
    assert Position(7, 'a:b') == parse_since('7:a:b')


@pytest.mark.parametrize(
    ('path', 'headers'),
    [
        ('/text/closed', OWN),
        ('/nowhere/a', OWN),
        ('/text/a', {'Origin': 'https://evil.example'}),
        ('/text/a', {'Origin': 'null'}),
    ],
)
async def test_refused_handshake_leaves_no_connection(
    app: falcon.asgi.App, channels: Channels, path: str, headers: dict[str, str]
) -> None:
    """A refused client gets no connection, and leaves nothing behind."""
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws(path, headers=headers):
                raise AssertionError('accepted')
        async with conductor.simulate_ws('/text/a', headers=OWN):
            assert 1 == len(channels.connections())
    assert [] == channels.connections()


@pytest.mark.parametrize(
    ('message', 'code'),
    [('rude', 3403), ('x' * 600, 3413), ('x' * 1001, 1009), (b'\x00', 1003)],
)
async def test_refused_message_closes_a_text_connection(
    app: falcon.asgi.App,
    channels: Channels,
    message: str | bytes,
    code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A text connection is closed, because it has no other way to report a refusal.

    A close because of the size is logged, with the option that limits it.
    """
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/text/a') as ws:
            if isinstance(message, bytes):
                await ws.send_data(message)
            else:
                await ws.send_text(message)
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
            assert code == closed.value.code
        assert [] == (await channels.history('rooms:a')).publications
    too_big = '1001 bytes exceed max_message_bytes of 1000' in caplog.text
    assert (code == 1009) is too_big


async def test_text_connection_may_return_if_the_broker_is_not_available(
    app: falcon.asgi.App, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was closed with 3503, which means that a client was disconnected.

    Such a client does not return.
    """

    async def fail(*args: Any, **kwargs: Any) -> None:
        raise BrokerUnavailableError('the link is lost')

    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/text/a') as ws:
            monkeypatch.setattr(channels.node.publisher, 'publish_for_client', fail)
            await ws.send_text('hello')
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
            assert 1013 == closed.value.code


@pytest.mark.parametrize(
    ('path', 'text', 'status', 'words'),
    [
        ('/media/a', '"rude"', 403, 'be nice'),
        ('/media/a', '{"a":', 400, 'not JSON'),
        ('/media/a', 'hi', 400, 'not JSON: JSON is malformed'),
        ('/media/a', '[' * 900, 400, 'not JSON'),
        ('/media/a', '"' + 'x' * 600 + '"', 413, '602'),
        ('/typed/a', '{"text": 7}', 422, '$.text'),
        ('/typed/a', '[]', 422, 'object'),
    ],
)
async def test_refused_message_is_reported_to_media_client_that_stays(
    app: falcon.asgi.App, path: str, text: str, status: int, words: str
) -> None:
    """A media connection receives the error, and stays open."""
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws(path) as ws:
            await ws.receive_json()
            await ws.send_text(text)
            error = (await ws.receive_json())['error']
            assert status == error['status']
            assert words in error['title']
            await ws.send_text('{"text": "fine"}')
            assert {'text': 'fine'} == (await ws.receive_json())['data']


@pytest.mark.parametrize('kind', ['memory', 'sqlite'])
async def test_accepted_websocket_receives_the_next_publication(
    kind: str, tmp_path: Path
) -> None:
    """A WebSocket that is accepted receives every publication from then on."""
    url = 'memory://' if kind == 'memory' else f'sqlite:///{tmp_path}/rooms.db'
    channels = Channels(url)
    channels.add_route('rooms:{room}', Rooms(channels))
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/text/{room}', Rooms(channels))
    async with testing.ASGIConductor(app) as conductor:
        for number in range(20):
            async with conductor.simulate_ws(f'/text/{number}') as ws:
                await channels.publish(f'rooms:{number}', f'hi {number}')
                assert f'hi {number}' == await ws.receive_text()


async def test_revoked_client_is_closed_and_cannot_reconnect(
    app: falcon.asgi.App, channels: Channels
) -> None:
    """A revoked client is closed, and cannot connect again."""
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/text/a', query_string='user=ann') as ws:
            await channels.revoke_user('ann', 'rooms:a')
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
            assert 3403 == closed.value.code
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/text/a', query_string='user=ann'):
                raise AssertionError('accepted')
        async with conductor.simulate_ws('/text/a', query_string='user=bob') as ws:
            await channels.publish('rooms:a', 'hi')
            assert 'hi' == await ws.receive_text()


async def test_full_or_draining_process_refuses_new_connections(
    app: falcon.asgi.App, channels: Channels
) -> None:
    """A connection over the limit is refused. Draining closes with 1012: reconnect."""
    channels.options.max_connections = 1
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/text/a') as ws:
            with pytest.raises(falcon.WebSocketDisconnected):
                async with conductor.simulate_ws('/text/a'):
                    raise AssertionError('accepted')
            await channels.drain()
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
            assert 1012 == closed.value.code
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/text/a'):
                raise AssertionError('accepted')


async def test_client_that_is_refused_after_its_subscription_is_no_failed_responder(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The event tells a refusal with 503, also if the process was not full before."""
    channels = Channels(options=NodeOptions(max_connections=1))
    both = asyncio.Barrier(2)

    class Rooms:
        async def on_subscribe(self, req: Any, subscription: Any) -> None:
            await both.wait()

        async def on_websocket(self, req: Any, ws: Any) -> None:
            await channels.serve(req, ws, 'room')

    channels.add_route('room', Rooms())
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/room', Rooms())
    told: list[Event] = []
    channels.listen(told.append)

    async def connect() -> int:
        async with conductor.simulate_ws('/room') as ws:
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
        return closed.value.code

    async with testing.ASGIConductor(app) as conductor:
        clients = [asyncio.create_task(connect()) for _ in range(2)]
        async with asyncio.timeout(30):
            await asyncio.wait(clients, return_when=asyncio.FIRST_COMPLETED)
        assert [503] == [e.code for e in told if e.name == 'connection_refused']
        assert 'responder_failed' not in {event.name for event in told}
        assert 0 == channels.node.hub.counters.responder_errors
        await channels.drain()
        async with asyncio.timeout(30):
            assert {1012, 1013} == set(await asyncio.gather(*clients))
    assert 'failed' not in caplog.text


@pytest.mark.parametrize('reason', ['full', 'no broker'])
async def test_accepted_client_may_return_after_a_refusal_with_503(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Falcon would close with 3503, which means that a user was disconnected."""
    channels = Channels(options=NodeOptions(max_connections=1))

    class Rooms:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await ws.accept()
            await channels.serve(req, ws, 'room')

    async def fail(*args: Any, **kwargs: Any) -> None:
        raise BrokerUnavailableError('the link is lost')

    channels.add_route('room', Rooms(), ChannelOptions(history_size=1))
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/room', Rooms())
    told: list[Event] = []
    channels.listen(told.append)
    async with testing.ASGIConductor(app) as conductor, AsyncExitStack() as stack:
        if reason == 'full':
            await stack.enter_async_context(SimulatedClient(channels))
        else:
            monkeypatch.setattr(channels.node.subscriber, 'subscribe', fail)
        async with conductor.simulate_ws('/room') as ws:
            with pytest.raises(falcon.WebSocketDisconnected) as closed:
                await ws.receive_text()
        assert 1013 == closed.value.code
    refused = [event for event in told if event.name == 'command_refused']
    assert ([1013] if reason == 'no broker' else []) == [e.code for e in refused]


async def test_exception_in_responder_closes_one_connection_with_1011(
    app: falcon.asgi.App, channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of the application is logged, and closes only its own connection."""
    async with testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws('/text/a') as other:
            async with conductor.simulate_ws('/text/a') as ws:
                await ws.send_text('break')
                with pytest.raises(falcon.WebSocketDisconnected) as closed:
                    await ws.receive_text()
                assert 1011 == closed.value.code
            await other.send_text('still here')
            assert 'still here' == await other.receive_text()
    assert 'a defect of the application' in caplog.text
