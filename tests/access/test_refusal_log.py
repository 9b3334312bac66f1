"""Refusals are logged at INFO: each reason once per connection, and at most 8 reasons.

Developers see why a client was refused without setting the level to DEBUG.
"""

from __future__ import annotations

from collections.abc import Iterator
import logging
from typing import Any

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
import falcon
from falcon import testing
import falcon.asgi
import pytest
from support.asgi_servers import AsgiServer

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Connection
from falcon_channels import EndpointOptions
from falcon_channels import Event

OWN = {'Origin': 'http://falconframework.org'}
BURST = 40


class Rooms:
    """Refuses everybody, with the reason that the room's name gives."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room != 'open':
            raise falcon.HTTPForbidden(description=f'no {room.partition("-")[0]}')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        raise falcon.HTTPForbidden(description='be nice')


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        if connection.data == 'eve':
            raise falcon.HTTPForbidden(description='no eve')

    async def on_rpc(self, req: Any, call: Any) -> None:
        if call.method == 'bug':
            raise RuntimeError('a mistake')
        raise falcon.HTTPForbidden(description='not for you')


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('rooms:{room}', Rooms(), ChannelOptions())
    return channels


@pytest.fixture(scope='module')
def channels() -> Channels:
    return make_channels()


@pytest.fixture
def told(channels: Channels) -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = channels.listen(events.append)
    yield events
    stop()


@pytest.fixture(scope='module')
def server(channels: Channels, asgi_server: AsgiServer) -> Iterator[Server]:
    options = EndpointOptions(commands_burst=BURST, commands_per_s=0.001)
    with serving(
        channels, Clients(), asgi_server=asgi_server, options=options
    ) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.to(server) as peer:
        yield peer


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Return a function that returns the messages about refusals at INFO."""
    with caplog.at_level(logging.DEBUG, 'falcon_channels'):
        yield lambda: [
            record.getMessage().partition('>: ')[2]
            for record in caplog.records
            if record.levelno == logging.INFO and ' refused with ' in record.msg
        ]


@pytest.mark.every_server
def test_refused_command_is_logged_once_per_reason(peer: Peer, logged: Any) -> None:
    """A reason is logged again only if it differs in the command or in its text."""
    peer.connect()
    for room in ('guests-1', 'guests-2', 'robots-1', 'guests-3'):
        assert 103 == peer.error('subscribe', channel=f'rooms:{room}')
    for name in ('a', 'b'):
        assert 102 == peer.error('subscribe', channel=f'nothing:{name}')
    assert 103 == peer.error('publish', channel='rooms:guests-1', data=1)
    assert [
        "subscribe 'rooms:guests-1' refused with 103: 'no guests'",
        "subscribe 'rooms:robots-1' refused with 103: 'no robots'",
        "subscribe 'nothing:a' refused with 102: \"no route matches the channel",
        "publish 'rooms:guests-1' refused with 103: 'subscribe before publishing'",
    ] == [line.partition(" 'nothing:a'; add")[0] for line in logged()]


@pytest.mark.every_server
def test_refused_connect_is_logged(peer: Peer, logged: Any) -> None:
    """A refused connect is logged with its reason, and the code that the client got."""
    peer.say({'id': 1, 'connect': {'data': 'eve'}})
    assert (3507, 'no eve') == peer.end()
    assert ["connect '' refused with 3507: 'no eve'"] == logged()


@pytest.mark.every_server
def test_command_that_ends_its_connection_is_logged(peer: Peer, logged: Any) -> None:
    """A command after which the connection ends is logged with its close code."""
    peer.connect()
    peer.say({'send': {'data': 1}})
    assert 3508 == peer.end()[0]
    assert ["send '' refused with 3508: 'not available'"] == logged()


@pytest.mark.every_server
def test_refused_or_failed_rpc_is_logged_with_its_method(
    peer: Peer, logged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log shows which method it was. The text of the client is quoted and cut."""
    peer.connect()
    assert 103 == peer.error('rpc', method='orders', data=1)
    assert 100 == peer.error('rpc', method='bug', data=1)
    assert "rpc 'orders' refused with 103: 'not for you'" == logged()[0]
    [failed] = [record for record in caplog.records if record.exc_info]
    assert failed.getMessage().endswith(">: rpc 'bug' failed")


@pytest.mark.every_server
def test_event_of_a_refused_rpc_has_its_method(peer: Peer, told: list[Event]) -> None:
    """Listeners can group the refusals by method."""
    peer.connect()
    assert 103 == peer.error('rpc', method='orders', data=1)
    [refused] = [event for event in told if event.name == 'command_refused']
    assert {'command': 'rpc', 'method': 'orders', 'repeated': False} == refused.facts


@pytest.mark.every_server
def test_command_over_the_rate_is_logged_once(peer: Peer, logged: Any) -> None:
    """A client that exceeds its rate causes one line for each kind of command."""
    peer.connect()
    peer.say(*({'id': n, 'subscribe': {'channel': 'rooms:open'}} for n in range(9, 80)))
    assert 3013 == peer.end()[0]
    assert 1 == logged().count("subscribe '' refused with 111: 'too many requests'")


def test_refusals_of_one_connection_have_a_maximum_of_lines(
    server: Server, logged: Any
) -> None:
    """A client that varies the reason cannot fill the log."""
    with Peer.to(server) as peer:
        peer.connect()
        for n in range(BURST - 2):
            assert 103 == peer.error('subscribe', channel=f'rooms:{n}')
    assert Connection.MAX_LOGGED_REFUSALS == len(logged())


async def test_refused_plain_websocket_is_logged_with_its_reason(logged: Any) -> None:
    """The log has the reason of a refused handshake, and of refused messages once."""
    channels = make_channels()
    options = ChannelOptions(publishers='subscribers')
    channels.add_route('said:{room}', Rooms(), options)

    class Sockets:
        async def on_websocket(self, req: Any, ws: Any, room: str) -> None:
            await channels.serve(req, ws, room, media=True)

    app = falcon.asgi.App()
    app.add_route('/{room}', Sockets())
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/rooms:guests', headers=OWN):
                pass
        async with conductor.simulate_ws('/said:open', headers=OWN) as ws:
            await ws.receive_text()
            for _ in range(3):
                await ws.send_text('1')
                assert 'be nice' in await ws.receive_text()
    await channels.close()
    assert 4 == channels.node.hub.counters.refused
    assert [
        "subscribe 'rooms:guests' refused with 403: 'no guests'",
        "publish 'said:open' refused with 403: 'be nice'",
    ] == logged()
