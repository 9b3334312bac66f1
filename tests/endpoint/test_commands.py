"""Order of commands, error codes, limits, and the ends of connections."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from typing import Any

import falcon
import pytest
from support.asgi_servers import AsgiServer
from websockets.exceptions import InvalidStatus

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions

pytestmark = pytest.mark.every_server

BAD_REQUEST = (3501, 'bad request')


class Room:
    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room.startswith('status'):
            raise falcon.HTTPError(int(room.removeprefix('status')))
        if room == 'broken':
            raise RuntimeError('an exception of the test')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'refuse':
            raise falcon.HTTPForbidden()


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        data = connection.data or {}
        if 'status' in data:
            raise falcon.HTTPError(data['status'])
        if 'broken' in data:
            raise RuntimeError('an exception of the test')
        connection.user = data.get('user', '')
        for channel in data.get('channels', ()):
            connection.add_channel(channel, data='welcome')


def make_channels() -> Channels:
    channels = Channels(
        options=NodeOptions(
            max_channels_per_connection=3,
            max_message_bytes=4096,
            max_connections=40,
            history_limit=3,
        )
    )
    channels.add_route(
        'rooms:{room}',
        Room(),
        ChannelOptions(history_size=5, presence=True, max_publication_bytes=64),
    )
    channels.add_route('quiet:{name}', None, ChannelOptions(subscribers='anybody'))
    return channels


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[Server]:
    options = EndpointOptions(
        commands_burst=60, commands_per_s=0.001, max_connections_per_user=10
    )
    with serving(
        make_channels(), Clients(), asgi_server=asgi_server, options=options
    ) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer.to(server) as peer:
        yield peer


@pytest.fixture
def connected_peer(peer: Peer) -> Peer:
    """A peer that has connected."""
    peer.connect(data={'user': 'ann'})
    return peer


def test_connect_reply_contains_id_version_and_ping_interval(peer: Peer) -> None:
    """The connect reply has an id, the version and the ping interval."""
    result = peer.connect()
    assert {'client', 'version', 'ping', 'pong'} == result.keys()
    assert len(result['client']) >= 20
    assert result['version'].startswith('falcon-channels ')
    assert (25, True) == (result['ping'], result['pong'])


@pytest.mark.parametrize(
    'frame',
    [
        'hello',
        '',
        '\n',
        '{}',
        '{"id":1}',
        '{"connect":{}}',
        '{"id":0,"connect":{}}',
        '{"id":1,"ping":{}}',
        '{"id":1,"subscribe":{"channel":"rooms:a"}}',
        '{"send":{"data":1}}',
        '{"id":1,"connect":{},"ping":{}}',
        '{"id":1,"connect":{"data":NaN}}',
        '[' * 3000,
    ],
)
def test_first_frame_without_valid_connect_ends_the_connection(
    peer: Peer, frame: str
) -> None:
    """A first command that is not a valid connect ends the connection."""
    peer.ws.send(frame)
    assert BAD_REQUEST == peer.end()


@pytest.mark.parametrize(
    'frame',
    ['{}', '', '{"id":9,"connect":{}}', '{"id":0,"ping":{}}', '{"id":9,"what":{}}'],
)
def test_invalid_frame_after_connect_ends_the_connection(
    connected_peer: Peer, frame: str
) -> None:
    """A second connect, an unexpected pong, and an invalid frame end the connection."""
    connected_peer.ws.send(frame)
    assert BAD_REQUEST == connected_peer.end()


def test_binary_message_to_json_connection_is_refused(peer: Peer) -> None:
    """A binary message to a connection that speaks JSON is refused."""
    peer.ws.send(b'{}')
    assert 1003 == peer.end()[0]


def test_message_over_max_message_bytes_ends_the_connection(
    connected_peer: Peer,
) -> None:
    """A message over max_message_bytes ends the connection with 1009."""
    connected_peer.say({'id': 9, 'rpc': {'data': 'x' * 4096}})
    assert 1009 == connected_peer.end()[0]


def test_commands_of_one_frame_are_answered_in_order(peer: Peer) -> None:
    """Commands after a connect wait for it, and are answered in order."""
    peer.say(
        {'id': 1, 'connect': {}},
        {'id': 2, 'subscribe': {'channel': 'rooms:a'}},
        {'id': 3, 'subscribe': {'channel': 'rooms:b'}},
        {'id': 4, 'unsubscribe': {'channel': 'rooms:a'}},
        {'id': 5, 'unsubscribe': {'channel': 'rooms:never'}},
        {'id': 6, 'ping': {}},
    )
    replies = [peer.hear() for _ in range(6)]
    assert [1, 2, 3, 4, 5, 6] == [reply['id'] for reply in replies]
    assert [{}, {}, {}] == [
        replies[3]['unsubscribe'],
        replies[4]['unsubscribe'],
        replies[5]['ping'],
    ]


@pytest.mark.parametrize(
    ('fields', 'end'),
    [
        ({'headers': {str(n): '' for n in range(129)}}, (3501, 'over 128 headers')),
        ({'headers': {'a': 'x' * 16_384}}, (3501, 'over 16384 bytes of headers')),
        ({'headers': {'a': 'é' * 8_192}}, (3501, 'over 16384 bytes of headers')),
        ({'token': 'x' * 16_385}, (3500, 'invalid token')),
    ],
    ids=['many headers', 'long header', 'not ASCII', 'token'],
)
def test_connect_request_that_would_be_stored_is_limited(
    asgi_server: AsgiServer, fields: dict[str, Any], end: tuple[int, str]
) -> None:
    """A client does not decide how much memory its connection uses.

    Before, 6,000 headers took 600 KiB for as long as the connection was open.
    """
    with serving(Channels(), asgi_server=asgi_server) as server:
        with Peer.to(server) as peer:
            peer.say({'id': 1, 'connect': fields})
            assert end == peer.end()
        most = {
            'headers': {str(n): 'x' * 120 for n in range(128)},
            'token': 'x' * 16_384,
        }
        with Peer.to(server) as peer:
            assert peer.connect(**most)['client']


def test_refused_connect_discards_the_rest_of_its_frame(peer: Peer) -> None:
    """After an error reply to connect, no other command is answered.

    The connection ends.
    """
    peer.say(
        {'id': 1, 'connect': {'data': {'broken': True}}},
        {'id': 2, 'subscribe': {'channel': 'rooms:a'}},
        {'id': 3, 'connect': {}},
    )
    error = peer.hear()
    assert (1, 100) == (error['id'], error['error']['code'])
    peer.end()
    assert [] == peer.pushes


@pytest.mark.parametrize(
    ('data', 'code'),
    [
        ({'status': 400}, 3501),
        ({'status': 401}, 3500),
        ({'status': 403}, 3507),
        ({'status': 404}, 3501),
        ({'status': 429}, 3013),
        ({'status': 500}, 3004),
        ({'status': 503}, 3001),
    ],
)
def test_http_error_of_on_connect_disconnects_with_its_code(
    peer: Peer, data: dict[str, Any], code: int
) -> None:
    """An HTTP error of on_connect ends the connection with the matching code."""
    peer.say({'id': 1, 'connect': {'data': data}})
    assert code == peer.end()[0]


def test_exception_in_on_connect_is_answered_with_a_temporary_error(peer: Peer) -> None:
    """An unexpected exception is a temporary error that hides its text."""
    error = peer.ask('connect', data={'broken': True})['error']
    assert {
        'code': 100,
        'message': 'internal server error',
        'temporary': True,
    } == error


@pytest.mark.parametrize(
    ('status', 'code'),
    [
        (400, 107),
        (401, 101),
        (403, 103),
        (404, 102),
        (429, 111),
        (500, 100),
        (503, 100),
    ],
)
def test_http_error_of_on_subscribe_is_answered_with_its_code(
    connected_peer: Peer, status: int, code: int
) -> None:
    """An HTTP error of a responder answers its command. The connection stays open."""
    assert code == connected_peer.error('subscribe', channel=f'rooms:status{status}')
    assert {'ping': {}} == connected_peer.ask('ping')


def test_exception_in_responder_does_not_reveal_its_text(connected_peer: Peer) -> None:
    """An unexpected exception is a temporary error that hides its text."""
    error = connected_peer.ask('subscribe', channel='rooms:broken')['error']
    assert (100, True) == (error['code'], error['temporary'])
    assert 'defect' not in error['message']


REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ('subscribe', {'channel': 'nowhere'}, 102),
    ('subscribe', {'channel': ''}, 107),
    ('subscribe', {'channel': 'rooms:' + 'x' * 250}, 107),
    ('subscribe', {'channel': 'rooms:a\u0000'}, 107),
    ('subscribe', {'channel': 'rooms:e\u0301'}, 107),
    ('subscribe', {'channel': 'rooms:\u202ea'}, 107),
    ('subscribe', {'channel': ' rooms:a'}, 107),
    ('subscribe', {'channel': 'rooms:a', 'type': 1}, 108),
    ('subscribe', {'channel': 'rooms:a', 'tf': {'key': 'a'}}, 107),
    ('subscribe', {'channel': 'rooms:a', 'token': 'x'}, 108),
    ('publish', {'channel': 'rooms:a', 'data': 1}, 103),
    ('publish', {'channel': 'rooms:a'}, 107),
    ('publish', {'channel': 'rooms:a', 'data': 1, 'type': 1}, 108),
    ('publish', {'channel': 'nowhere', 'data': 1}, 102),
    ('publish', {'channel': 'quiet:a', 'data': 1}, 103),
    ('presence', {'channel': 'rooms:a'}, 103),
    ('presence_stats', {'channel': 'rooms:a'}, 103),
    ('presence', {'channel': 'nowhere'}, 102),
    ('history', {'channel': 'rooms:a'}, 103),
    ('history', {'channel': 'quiet:a'}, 108),
    ('rpc', {'method': 'm'}, 108),
    ('refresh', {'token': 't'}, 108),
    ('sub_refresh', {'channel': 'rooms:a', 'token': 't'}, 103),
    ('sub_refresh', {'channel': 'rooms:a', 'type': 1}, 108),
]


@pytest.mark.parametrize(('request_name', 'fields', 'code'), REFUSED)
def test_command_without_subscription_is_refused_with_its_code(
    connected_peer: Peer, request_name: str, fields: dict[str, Any], code: int
) -> None:
    """A command that needs a subscription is refused with its documented code."""
    assert code == connected_peer.error(request_name, **fields)


SUBSCRIBED: list[tuple[str, dict[str, Any], int]] = [
    ('subscribe', {'channel': 'rooms:a'}, 105),
    ('publish', {'channel': 'rooms:a', 'data': 'x' * 64}, 106),
    ('publish', {'channel': 'rooms:a', 'data': 'refuse'}, 103),
    ('presence', {'channel': 'quiet:a'}, 108),
    ('publish', {'channel': 'quiet:a', 'data': 1}, 103),
    ('history', {'channel': 'quiet:a', 'limit': 1}, 108),
    ('history', {'channel': 'rooms:a', 'reverse': True, 'since': {}}, 107),
    ('history', {'channel': 'rooms:a', 'since': {'offset': 1, 'epoch': 'x'}}, 112),
    ('sub_refresh', {'channel': 'rooms:a', 'token': 't'}, 108),
]


@pytest.mark.parametrize(('request_name', 'fields', 'code'), SUBSCRIBED)
def test_forbidden_command_of_subscriber_is_refused_with_its_code(
    connected_peer: Peer, request_name: str, fields: dict[str, Any], code: int
) -> None:
    """A command that a subscriber may not send is refused with its documented code."""
    connected_peer.ask('subscribe', channel='rooms:a')
    connected_peer.ask('subscribe', channel='quiet:a')
    assert code == connected_peer.error(request_name, **fields)


def test_channel_over_the_limit_per_connection_is_refused(connected_peer: Peer) -> None:
    """One channel too many is error 106.

    After an unsubscribe, another one is allowed.
    """
    for name in 'abc':
        assert 'subscribe' in connected_peer.ask('subscribe', channel=f'rooms:{name}')
    assert 106 == connected_peer.error('subscribe', channel='rooms:d')
    connected_peer.ask('unsubscribe', channel='rooms:a')
    assert 'subscribe' in connected_peer.ask('subscribe', channel='rooms:d')


def test_server_side_channels_over_the_limit_refuse_the_connect(peer: Peer) -> None:
    """A connect with too many server-side subscriptions is refused.

    It is a mistake of the application, so that the client connects again.
    """
    channels = [f'rooms:{name}' for name in 'abcd']
    peer.say({'id': 1, 'connect': {'data': {'channels': channels}}})
    assert (3004, 'internal server error') == peer.end()


def test_commands_over_the_rate_are_refused_and_end_the_connection(
    connected_peer: Peer,
) -> None:
    """Too many commands are error 111. Too many of these errors end the connection."""
    connected_peer.say(*({'id': number, 'ping': {}} for number in range(100, 190)))
    code, reason = connected_peer.end()
    assert (3013, 'too many requests') == (code, reason)
    answers = [push for push in connected_peer.pushes if push]
    assert {'ping': {}, 'id': 100} == answers[0]
    refused = [answer for answer in answers if 'error' in answer]
    assert {111} == {answer['error']['code'] for answer in refused}
    assert 20 == len(refused)


def test_message_without_on_message_ends_the_connection(connected_peer: Peer) -> None:
    """A message to an application without on_message ends the connection with 3508."""
    connected_peer.say({'send': {'data': 1}})
    assert (3508, 'not available') == connected_peer.end()


def test_identity_sent_by_a_client_is_ignored(
    connected_peer: Peer, server: Server
) -> None:
    """A client cannot change the user or client id that others see."""
    connected_peer.ask('subscribe', channel='rooms:id')
    with Peer.to(server) as other:
        client = other.connect(data={'user': 'bob'})['client']
        other.ask('subscribe', channel='rooms:id', user='ann', client='c', info={})
        other.say(
            '{"id":50,"publish":{"channel":"rooms:id","data":1,"info":{"user":"ann"},'
            '"user":"ann","client":"x"}}'
        )
        other.answer(50)
        publication = connected_peer.push()['pub']
        assert {'user': 'bob', 'client': client} == publication['info']
        present = connected_peer.ask('presence', channel='rooms:id')['presence'][
            'presence'
        ]
        assert {'ann', 'bob'} == {info['user'] for info in present.values()}


def test_websocket_from_another_origin_is_refused(server: Server) -> None:
    """A page of another site gets no connection."""
    with (
        pytest.raises(InvalidStatus) as caught,
        Peer.to(server, origin='https://evil.example'),
    ):
        pass
    assert 403 == caught.value.response.status_code


def test_connection_over_the_limit_per_user_is_ended(server: Server) -> None:
    """One connection of a user too many is ended.

    Other users and anonymous ones connect.
    """
    with contextlib.ExitStack() as stack:

        def open_peer(user: str) -> Peer:
            peer = stack.enter_context(Peer.to(server))
            peer.say({'id': 1, 'connect': {'data': {'user': user}}})
            return peer

        for _ in range(10):
            assert 'connect' in open_peer('zoe').hear()
        assert (3504, 'connection limit') == open_peer('zoe').end()
        assert 'connect' in open_peer('yan').hear()
        for _ in range(11):
            assert 'connect' in open_peer('').hear()


def test_history_over_history_limit_is_shortened(connected_peer: Peer) -> None:
    """A history request returns at most history_limit publications."""
    connected_peer.ask('subscribe', channel='rooms:long')
    for number in range(4):
        connected_peer.ask('publish', channel='rooms:long', data=number)
    for limit in (-1, -5, 2**31 - 1):
        page = connected_peer.ask('history', channel='rooms:long', limit=limit)[
            'history'
        ]
        assert (3, 4) == (len(page['publications']), page['offset'])


def test_connection_over_max_connections_is_refused(server: Server) -> None:
    """One connection too many is refused at the handshake, before it uses resources."""
    with pytest.raises(InvalidStatus), _many(server, 60):
        pass
    with Peer.to(server) as peer:
        peer.connect()


def _many(server: Server, count: int) -> Any:
    stack = contextlib.ExitStack()
    try:
        for _ in range(count):
            stack.enter_context(Peer.to(server))
    except BaseException:
        stack.close()
        raise
    return stack
