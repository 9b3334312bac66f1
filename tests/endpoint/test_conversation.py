"""What may be said when, and what ends a connection."""

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
            raise RuntimeError('a defect that a test asks for')

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'refuse':
            raise falcon.HTTPForbidden()


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        data = connection.data or {}
        if 'status' in data:
            raise falcon.HTTPError(data['status'])
        if 'broken' in data:
            raise RuntimeError('a defect that a test asks for')
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
    channels.add_route('quiet:{name}', None)
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
def there(peer: Peer) -> Peer:
    """A peer that has connected."""
    peer.connect(data={'user': 'ann'})
    return peer


def test_connect_says_what_a_client_needs(peer: Peer) -> None:
    """The reply has an id, the version, and how often pings come."""
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
def test_what_may_not_come_first(peer: Peer, frame: str) -> None:
    """Anything but a connect as the first command ends the connection."""
    peer.ws.send(frame)
    assert BAD_REQUEST == peer.end()


@pytest.mark.parametrize(
    'frame',
    ['{}', '', '{"id":9,"connect":{}}', '{"id":0,"ping":{}}', '{"id":9,"what":{}}'],
)
def test_what_may_not_come_later(there: Peer, frame: str) -> None:
    """A second connect, a pong without a ping, and rubbish end the connection."""
    there.ws.send(frame)
    assert BAD_REQUEST == there.end()


def test_binary_messages_are_not_for_json(peer: Peer) -> None:
    """A binary message to a connection that speaks JSON is refused."""
    peer.ws.send(b'{}')
    assert 1003 == peer.end()[0]


def test_messages_have_a_limit(there: Peer) -> None:
    """A message over max_message_bytes ends the connection with 1009."""
    there.say({'id': 9, 'rpc': {'data': 'x' * 4096}})
    assert 1009 == there.end()[0]


def test_a_batch_is_answered_in_order(peer: Peer) -> None:
    """The commands behind a connect wait for it, and are answered in order."""
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


def test_a_refused_connect_drops_the_rest_of_its_frame(peer: Peer) -> None:
    """After an error to connect nothing else is answered, and the link ends."""
    peer.say(
        {'id': 1, 'connect': {'data': {'channels': ['nowhere']}}},
        {'id': 2, 'subscribe': {'channel': 'rooms:a'}},
        {'id': 3, 'connect': {}},
    )
    assert {
        'id': 1,
        'error': {'code': 102, 'message': 'unknown channel'},
    } == peer.hear()
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
def test_errors_of_on_connect_are_disconnects(
    peer: Peer, data: dict[str, Any], code: int
) -> None:
    """An HTTP error of the application is said in the protocol's own codes."""
    peer.say({'id': 1, 'connect': {'data': data}})
    assert code == peer.end()[0]


def test_a_defect_in_on_connect_is_temporary(peer: Peer) -> None:
    """An unexpected error is told as temporary, without its words, and logged."""
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
def test_errors_of_on_subscribe_are_replies(
    there: Peer, status: int, code: int
) -> None:
    """An HTTP error of a responder answers its command; the connection goes on."""
    assert code == there.error('subscribe', channel=f'rooms:status{status}')
    assert {'ping': {}} == there.ask('ping')


def test_a_defect_in_a_responder_is_not_told(there: Peer) -> None:
    """An unexpected error is a temporary error without its words."""
    error = there.ask('subscribe', channel='rooms:broken')['error']
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
def test_refusals_have_their_codes(
    there: Peer, request_name: str, fields: dict[str, Any], code: int
) -> None:
    """What a stranger asks of a channel is refused with the documented code."""
    assert code == there.error(request_name, **fields)


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
def test_refusals_to_a_subscriber(
    there: Peer, request_name: str, fields: dict[str, Any], code: int
) -> None:
    """What a subscriber may not do either is refused with the documented code."""
    there.ask('subscribe', channel='rooms:a')
    there.ask('subscribe', channel='quiet:a')
    assert code == there.error(request_name, **fields)


def test_channels_have_a_limit_per_connection(there: Peer) -> None:
    """One channel too many is error 106, and leaving one makes room."""
    for name in 'abc':
        assert 'subscribe' in there.ask('subscribe', channel=f'rooms:{name}')
    assert 106 == there.error('subscribe', channel='rooms:d')
    there.ask('unsubscribe', channel='rooms:a')
    assert 'subscribe' in there.ask('subscribe', channel='rooms:d')


def test_server_side_channels_count_too(peer: Peer) -> None:
    """More server-side subscriptions than a connection may have refuse it."""
    channels = [f'rooms:{name}' for name in 'abcd']
    assert 106 == peer.error('connect', data={'channels': channels})


def test_commands_have_a_rate(there: Peer) -> None:
    """Too many commands are error 111, and too many of those end the connection."""
    there.say(*({'id': number, 'ping': {}} for number in range(100, 190)))
    code, reason = there.end()
    assert (3013, 'too many requests') == (code, reason)
    answers = [push for push in there.pushes if push]
    assert {'ping': {}, 'id': 100} == answers[0]
    refused = [answer for answer in answers if 'error' in answer]
    assert {111} == {answer['error']['code'] for answer in refused}
    assert 20 == len(refused)


def test_messages_need_somebody_who_listens(there: Peer) -> None:
    """A message where the application takes none ends the connection with 3508."""
    there.say({'send': {'data': 1}})
    assert (3508, 'not available') == there.end()


def test_identity_is_the_servers(there: Peer, server: Server) -> None:
    """Nothing that a client sends along changes who it is to others."""
    there.ask('subscribe', channel='rooms:id')
    with Peer.to(server) as other:
        client = other.connect(data={'user': 'bob'})['client']
        other.ask('subscribe', channel='rooms:id', user='ann', client='c', info={})
        other.say(
            '{"id":50,"publish":{"channel":"rooms:id","data":1,"info":{"user":"ann"},'
            '"user":"ann","client":"x"}}'
        )
        other.answer(50)
        publication = there.push()['pub']
        assert {'user': 'bob', 'client': client} == publication['info']
        present = there.ask('presence', channel='rooms:id')['presence']['presence']
        assert {'ann', 'bob'} == {info['user'] for info in present.values()}


def test_other_origins_are_refused(server: Server) -> None:
    """A page of another site gets no connection."""
    with (
        pytest.raises(InvalidStatus) as caught,
        Peer.to(server, origin='https://evil.example'),
    ):
        pass
    assert 403 == caught.value.response.status_code


def test_users_have_a_limit_of_connections(server: Server) -> None:
    """One connection of a user too many is ended; others and strangers come in."""
    with contextlib.ExitStack() as stack:

        def come(user: str) -> Peer:
            peer = stack.enter_context(Peer.to(server))
            peer.say({'id': 1, 'connect': {'data': {'user': user}}})
            return peer

        for _ in range(10):
            assert 'connect' in come('zoe').hear()
        assert (3504, 'connection limit') == come('zoe').end()
        assert 'connect' in come('yan').hear()
        for _ in range(11):
            assert 'connect' in come('').hear()


def test_histories_have_a_limit(there: Peer) -> None:
    """However much is asked for, no more than history_limit is read."""
    there.ask('subscribe', channel='rooms:long')
    for number in range(4):
        there.ask('publish', channel='rooms:long', data=number)
    for limit in (-1, -5, 2**31 - 1):
        page = there.ask('history', channel='rooms:long', limit=limit)['history']
        assert (3, 4) == (len(page['publications']), page['offset'])


def test_connections_have_a_limit(server: Server) -> None:
    """One connection too many is refused at the handshake, before it costs anything."""
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
