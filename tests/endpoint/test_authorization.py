"""Forbidden commands are refused in every form; see docs/security.md."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Iterator
import logging
from typing import Any

import falcon
import pytest
from support.asgi_servers import AsgiServer

from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions

pytestmark = pytest.mark.every_server

BURST = 60
SECRET = 'words of an exception'


class Archive:
    """Channels that everybody may read, with a subscription or without."""

    async def on_history(self, req: Any, connection: Any, room: str) -> None:
        if room == 'closed':
            raise falcon.HTTPForbidden

    async def on_presence(self, req: Any, connection: Any, room: str) -> None:
        return


class Order:
    """Channels whose names have a converter."""

    async def on_subscribe(self, req: Any, subscription: Any, number: int) -> None:
        return


class App:
    """An application whose rights a test changes while clients are connected."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.channels.add_route(
            'rooms:{room}', self, ChannelOptions(history_size=5, presence=True)
        )
        self.channels.add_route(
            'open:{room}',
            Archive(),
            ChannelOptions(history_size=5, presence=True, publishers='anybody'),
        )
        self.channels.add_route('orders:{number:int}', Order())
        self.loop: asyncio.AbstractEventLoop | None = None
        #: Pairs of user and room that the application refuses.
        self.banned: set[tuple[str, str]] = set()

    async def on_connect(self, req: Any, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        connection.user = connection.data

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        if room == 'broken':
            raise RuntimeError(SECRET)
        if (subscription.user, room) in self.banned:
            raise falcon.HTTPForbidden

    async def on_publish(self, req: Any, publication: Any, room: str) -> None:
        if publication.data == 'broken':
            raise RuntimeError(SECRET)
        if (publication.user, room) in self.banned:
            raise falcon.HTTPForbidden

    async def on_rpc(self, req: Any, call: Any) -> None:
        if call.method == 'broken':
            raise RuntimeError(SECRET)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)


@pytest.fixture(scope='module')
def world(asgi_server: AsgiServer) -> Iterator[tuple[Server, App]]:
    app = App()
    options = EndpointOptions(commands_burst=BURST, commands_per_s=0.001)
    with serving(app.channels, app, asgi_server=asgi_server, options=options) as server:
        yield server, app


@pytest.fixture
def app(world: tuple[Server, App]) -> App:
    return world[1]


@pytest.fixture
def ann(world: tuple[Server, App]) -> Iterator[Peer]:
    with Peer.to(world[0]) as peer:
        peer.connect(data='ann')
        yield peer


def position_of(result: dict[str, Any]) -> dict[str, Any]:
    return {
        'recover': True,
        'offset': result.get('offset', 0),
        'epoch': result['epoch'],
    }


def test_revoked_user_is_refused_every_command(ann: Peer, app: App) -> None:
    """A revoked user can neither recover nor publish, nor read history or presence."""
    channel = 'rooms:revoked'
    known = position_of(ann.ask('subscribe', channel=channel)['subscribe'])
    app.run(app.channels.revoke_user('ann', channel))
    assert 2000 == ann.push()['unsubscribe']['code']
    app.run(app.channels.publish(channel, 'secret'))
    assert 103 == ann.error('subscribe', channel=channel)
    assert 103 == ann.error('subscribe', channel=channel, **known)
    assert 103 == ann.error('history', channel=channel, limit=5)
    assert 103 == ann.error('presence', channel=channel)
    assert 103 == ann.error('presence_stats', channel=channel)
    assert 103 == ann.error('publish', channel=channel, data=1)
    assert [] == ann.pushes


@pytest.mark.parametrize('spelling', ['010', '+10', '1_0', '\u0661\u0660', ' 10'])
def test_revoked_user_is_refused_every_spelling_of_the_channel(
    ann: Peer, app: App, spelling: str
) -> None:
    """A revocation cannot be avoided by another spelling of a value."""
    app.run(app.channels.revoke_user('ann', 'orders:10'))
    assert 103 == ann.error('subscribe', channel='orders:10')
    assert 102 == ann.error('subscribe', channel=f'orders:{spelling}')


@pytest.mark.parametrize('name', ['open:a', 'open:b'])
def test_revoked_user_without_subscription_is_refused(
    ann: Peer, app: App, name: str
) -> None:
    """A revoked user is refused, even where everybody may read and publish."""
    requests: list[tuple[str, dict[str, Any]]] = [
        ('publish', {'data': 1}),
        ('history', {'limit': 1}),
        ('presence', {}),
        ('presence_stats', {}),
    ]
    for request, words in requests:
        assert request in ann.ask(request, channel=name, **words)
    app.run(app.channels.revoke_user('ann', name))
    assert 103 == ann.error('subscribe', channel=name)
    for request, words in requests:
        assert 103 == ann.error(request, channel=name, **words)
    app.run(app.channels.restore_user('ann', name))
    for request, words in requests:
        assert request in ann.ask(request, channel=name, **words)
    assert 103 == ann.error('history', channel='open:closed', limit=1)


def test_lost_right_is_checked_at_each_command(ann: Peer, app: App) -> None:
    """A client that lost a right can neither publish nor recover."""
    channel = 'rooms:rights'
    known = position_of(ann.ask('subscribe', channel=channel)['subscribe'])
    assert {'publish': {}} == ann.ask('publish', channel=channel, data=1)
    app.banned.add(('ann', 'rights'))
    assert 103 == ann.error('publish', channel=channel, data=2)
    ann.ask('unsubscribe', channel=channel)
    assert 103 == ann.error('subscribe', channel=channel, **known)


@pytest.mark.parametrize('request_name', ['history', 'presence', 'presence_stats'])
def test_subscription_gives_no_access_to_another_channel(
    ann: Peer, request_name: str
) -> None:
    """A subscriber of one room cannot read another room of the same route."""
    ann.ask('subscribe', channel='rooms:own')
    assert request_name in ann.ask(request_name, channel='rooms:own')
    assert 103 == ann.error(request_name, channel='rooms:other')
    ann.ask('unsubscribe', channel='rooms:own')
    assert 103 == ann.error(request_name, channel='rooms:own')


@pytest.mark.parametrize(
    'name',
    [
        'Rooms:a',
        'ROOMS:a',
        'rooms%3aa',
        'rooms\uff1aa',
        'rooms',
        'rooms:',
        '/rooms:a',
        'rooms:a ',
        'rooms:a\n',
        'rooms:\u200ba',
        'rooms:a\u034f',
        'rooms:\u3164',
        'rooms:a\ufe0f',
        'r\u043eoms:a',
        '*',
        '>',
        'rooms.*',
    ],
)
def test_invalid_channel_name_is_refused_without_normalization(
    ann: Peer, name: str
) -> None:
    """A name that only looks like a channel name is refused, and not normalized."""
    assert ann.error('subscribe', channel=name) in {102, 107}


@pytest.mark.parametrize(
    'name', ['A', 'a.', '..', '%2e', '*', '>', '{a}', 'a:b', "'; --", '__proto__']
)
def test_similar_channel_names_are_separate_channels(
    ann: Peer, app: App, name: str
) -> None:
    """A publication reaches only its own channel, however similar the other name is."""
    ann.ask('subscribe', channel=f'rooms:{name}')
    app.run(app.channels.publish('rooms:a', 'secret'))
    app.run(app.channels.publish(f'rooms:{name}', 'own'))
    assert 'own' == ann.push()['pub']['data']
    assert [] == ann.pushes


@pytest.mark.parametrize('offset', ['-1', '9223372036854775808', '"3"', '1.5', '1e3'])
@pytest.mark.parametrize(
    'command',
    [
        '{"id":50,"subscribe":{"channel":"rooms:a","recover":true,"offset":%s}}',
        '{"id":50,"history":{"channel":"rooms:a","since":{"offset":%s}}}',
    ],
)
def test_invalid_position_ends_the_connection(
    ann: Peer, command: str, offset: str
) -> None:
    """An offset that is not a valid position ends the connection."""
    ann.say(command % offset)
    assert (3501, 'bad request') == ann.end()


@pytest.mark.parametrize(
    ('offset', 'epoch'),
    [(2**63 - 1, None), (1, 'forged'), (0, 'forged'), (2**63 - 1, 'x' * 10_000)],
)
def test_forged_position_recovers_no_publication(
    ann: Peer, app: App, offset: int, epoch: str | None
) -> None:
    """An offset or epoch that never existed recovers no publication."""
    channel = 'rooms:forged'
    known = ann.ask('subscribe', channel=channel)['subscribe']['epoch']
    ann.ask('unsubscribe', channel=channel)
    app.run(app.channels.publish(channel, 'secret'))
    position = {'recover': True, 'offset': offset, 'epoch': epoch or known}
    result = ann.ask('subscribe', channel=channel, **position)['subscribe']
    assert 'recovered' not in result
    assert 'publications' not in result


FLOODS: dict[str, list[dict[str, Any]]] = {
    'subscribing and unsubscribing': [
        {'subscribe': {'channel': 'rooms:flood'}},
        {'unsubscribe': {'channel': 'rooms:flood'}},
    ],
    'publishing': [{'publish': {'channel': 'rooms:mine', 'data': 1}}],
    'history': [{'history': {'channel': 'rooms:mine', 'limit': 5}}],
    'presence': [{'presence': {'channel': 'rooms:mine'}}],
    'calls': [{'rpc': {'method': 'm'}}],
    'invalid names': [{'subscribe': {'channel': 'rooms:\u202e'}}],
}


@pytest.mark.parametrize('commands', FLOODS.values(), ids=FLOODS.keys())
def test_flood_of_any_command_ends_the_connection(
    ann: Peer, commands: list[dict[str, Any]]
) -> None:
    """A flood of any command gets error 111 first. Then the connection ends."""
    ann.ask('subscribe', channel='rooms:mine')
    flood = [commands[n % len(commands)] | {'id': 100 + n} for n in range(2 * BURST)]
    ann.say(*flood)
    assert (3013, 'too many requests') == ann.end()
    codes = [push['error']['code'] for push in ann.pushes if 'error' in push]
    assert 20 == codes.count(111)


def test_flood_of_channel_names_is_limited(ann: Peer) -> None:
    """A client that invents channel names reaches the limits before memory runs out."""
    ann.say(
        *(
            {'id': 100 + n, 'subscribe': {'channel': f'rooms:flood{n}'}}
            for n in range(200)
        )
    )
    assert (3013, 'too many requests') == ann.end()
    assert BURST >= sum('subscribe' in push for push in ann.pushes)


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ('subscribe', {'channel': 'rooms:broken'}),
    ('publish', {'channel': 'rooms:told', 'data': 'broken'}),
    ('rpc', {'method': 'broken'}),
]


@pytest.mark.parametrize(('request_name', 'fields'), BROKEN)
def test_exception_text_is_logged_and_not_sent(
    ann: Peer, request_name: str, fields: dict[str, Any]
) -> None:
    """The text of an unexpected exception goes to the log, and not to clients."""
    ann.ask('subscribe', channel='rooms:told')
    error = ann.ask(request_name, **fields)['error']
    assert {'code': 100, 'message': 'internal server error', 'temporary': True} == error


def test_user_id_with_line_end_is_quoted_in_the_log(
    world: tuple[Server, App], caplog: pytest.LogCaptureFixture
) -> None:
    """Line ends and escapes in a user id are quoted in the log."""
    with caplog.at_level(logging.INFO, 'falcon_channels'), Peer.to(world[0]) as peer:
        peer.connect(data='eve\nERROR forged\x1b[2J')
        assert 100 == peer.error('subscribe', channel='rooms:broken')
    logged = [
        r.getMessage() for r in caplog.records if r.name.startswith('falcon_channels')
    ]
    assert any('failed' in message for message in logged)
    assert [] == [m for m in logged if '\n' in m or '\x1b' in m]


def test_invalid_json_is_not_logged_as_a_traceback(
    world: tuple[Server, App], caplog: pytest.LogCaptureFixture
) -> None:
    """A message that is not JSON ends its connection and logs no traceback."""
    with caplog.at_level(logging.WARNING):
        for message in ('hello', '[' * 60_000, '{"id":1e400}', '"\\ud800"'):
            with Peer.to(world[0]) as peer:
                peer.connect(data='ann')
                peer.ws.send(message)
                assert (3501, 'bad request') == peer.end()
    assert '' == caplog.text


def test_javascript_special_keys_are_ordinary_data(ann: Peer, app: App) -> None:
    """Keys with a meaning in JavaScript are ordinary data."""
    data = {'__proto__': {'admin': True}, 'constructor': 1}
    ann.ask('subscribe', channel='rooms:keys')
    app.run(app.channels.publish('rooms:keys', data))
    assert data == ann.push()['pub']['data']
