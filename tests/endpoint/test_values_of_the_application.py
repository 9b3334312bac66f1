"""Values of the application that cannot be used: only their connection is concerned."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import logging
import math
from typing import Any

import falcon
from falcon import testing
import falcon.asgi
import pytest
from support.faults import tracebacks
from support.processes import wait_until

from endpoint.bystander import News
from endpoint.bystander import notices_nothing
from endpoint.bystander import standing_by
from endpoint.peer import Peer
from endpoint.peer import Server
from endpoint.peer import serving
from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels import PayloadError
from falcon_channels.errors import InvalidValueError
from falcon_channels.testing import run_with_fake_clock
from falcon_channels.testing import SimulatedClient
from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import make_subscription_token
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier


def _endless() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError('no text')


#: Values that cannot be written as JSON, by name.
NOT_JSON: dict[str, Any] = {
    'object': object(),
    'nested-object': {'a': [object()]},
    'tuple-keys': {(1, 2): 3},
    'object-keys': {object(): 3},
    'surrogate': '\ud800',
    'surrogate-key': {'\ud800': 1},
    'nan': math.nan,
    'infinity': [{'a': math.inf}],
    'endless': _endless(),
    'unprintable': Unprintable(),
}
NOT_USERS: dict[str, Any] = {
    'integer': 42,
    'bytes': b'ann',
    'list': ['ann'],
    'surrogate': '\ud800',
    'unprintable': Unprintable(),
}
NOT_TIMES: dict[str, Any] = {
    'text': '2030-01-01',
    'nan': math.nan,
    'infinity': math.inf,
    'huge': 10**400,
    'true': True,
    'list': [1],
    'unprintable': Unprintable(),
}
NOT_TAGS: dict[str, Any] = {
    'list': ['a'],
    'integer-value': {'a': 1},
    'integer-key': {1: 'a'},
    'surrogate': {'a': '\ud800'},
}
NOT_KEYS: dict[str, Any] = {
    'empty': '',
    'long': 'é' * 128,
    'integer': 1,
    'bytes': b'k',
    'surrogate': '\ud800',
}

#: Values that can be used although they are unusual.
UNUSUAL: dict[str, Any] = {'number-keys': {1: 2}, 'big': 2**70, 'null': [None, 1.5]}

#: Every slot for a value: the function that sets it, and values it cannot take.
SLOTS: dict[str, tuple[Callable[[Any, Any], object], dict[str, Any]]] = {
    'connection.user': (lambda c, v: setattr(c, 'user', v), NOT_USERS),
    'connection.info': (lambda c, v: setattr(c, 'info', v), NOT_JSON),
    'connection.reply': (lambda c, v: setattr(c, 'reply', v), NOT_JSON),
    'connection.expires_at': (lambda c, v: setattr(c, 'expires_at', v), NOT_TIMES),
    'add_channel.info': (lambda c, v: c.add_channel('slots:a', info=v), NOT_JSON),
    'add_channel.data': (lambda c, v: c.add_channel('slots:a', data=v), NOT_JSON),
    'subscription.info': (lambda s, v: setattr(s, 'info', v), NOT_JSON),
    'subscription.reply': (lambda s, v: setattr(s, 'reply', v), NOT_JSON),
    'subscription.expires_at': (lambda s, v: setattr(s, 'expires_at', v), NOT_TIMES),
    'call.reply': (lambda c, v: setattr(c, 'reply', v), NOT_JSON),
    'publication.data': (lambda p, v: setattr(p, 'data', v), NOT_JSON),
    'publication.data.x': (lambda p, v: p.data.update(x=v), NOT_JSON),
    'publication.tags': (lambda p, v: setattr(p, 'tags', v), NOT_TAGS),
    'publication.key': (lambda p, v: setattr(p, 'idempotency_key', v), NOT_KEYS),
}

CASES = [(slot, name) for slot, (_, values) in SLOTS.items() for name in values]
CASES_OF_JSON = [
    (slot, name)
    for slot, (_, values) in SLOTS.items()
    if values is NOT_JSON
    for name in UNUSUAL
]


def fill(about: Any, asked: Any, *prefixes: str) -> None:
    """Set the slot that the client asked for, if it is one of `prefixes`."""
    slot, name = asked or ('', '')
    if slot.startswith(prefixes):
        setter, values = SLOTS[slot]
        setter(about, {**UNUSUAL, **values}[name])


class Slots:
    async def on_subscribe(self, req: Any, subscription: Any, name: str) -> None:
        fill(subscription, subscription.data, 'subscription.')

    async def on_publish(self, req: Any, publication: Any, name: str) -> None:
        fill(publication, publication.data['asked'], 'publication.')


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        fill(connection, connection.data, 'connection.', 'add_channel.')

    async def on_rpc(self, req: Any, call: Any) -> None:
        fill(call, call.data, 'call.')


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    channels = Channels()
    options = ChannelOptions(presence=True, history_size=10, history_ttl_s=60)
    channels.add_route('slots:{name}', Slots(), options)
    channels.add_route('news', News(), ChannelOptions(subscribers='anybody'))
    unlimited = EndpointOptions(commands_per_s=None)
    with serving(channels, Clients(), options=unlimited) as server:
        yield server


@pytest.fixture(scope='module')
def bystander(server: Server) -> Iterator[Peer]:
    with standing_by(server) as peer:
        yield peer


def ask_for(peer: Peer, slot: str, name: str) -> dict[str, Any]:
    """Send the command whose responder sets the slot; return the reply."""
    asked = [slot, name]
    if slot.startswith(('connection.', 'add_channel.')):
        return peer.ask('connect', data=asked)
    peer.connect()
    if slot.startswith('call.'):
        return peer.ask('rpc', method='m', data=asked)
    if slot.startswith('subscription.'):
        return peer.ask('subscribe', channel='slots:b', data=asked)
    peer.ask('subscribe', channel='slots:c')
    return peer.ask('publish', channel='slots:c', data={'asked': asked})


@pytest.mark.parametrize(('slot', 'name'), CASES)
def test_unusable_value_fails_only_the_command_that_set_it(
    server: Server,
    bystander: Peer,
    caplog: pytest.LogCaptureFixture,
    slot: str,
    name: str,
) -> None:
    """The client receives error 100, and the log has one traceback."""
    caplog.set_level(logging.INFO)
    with Peer.to(server) as peer:
        error = ask_for(peer, slot, name)['error']
        assert (100, 'internal server error') == (error['code'], error['message'])
        assert [] == peer.pushes
        notices_nothing(bystander)
    notices_nothing(bystander)
    wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
    assert 1 == len(tracebacks(caplog)), tracebacks(caplog)


@pytest.mark.parametrize(('slot', 'name'), CASES_OF_JSON)
def test_unusual_value_that_json_can_hold_is_sent(
    server: Server,
    bystander: Peer,
    caplog: pytest.LogCaptureFixture,
    slot: str,
    name: str,
) -> None:
    """Keys that are numbers, integers of any size, and null are usable."""
    caplog.set_level(logging.INFO)
    with Peer.to(server) as peer:
        assert 'error' not in ask_for(peer, slot, name)
    notices_nothing(bystander)
    assert [] == tracebacks(caplog)


# --- functions of the application ----------------------------------------------------


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route(
        'rooms:{room}',
        object(),
        ChannelOptions(subscribers='anybody', history_size=10, history_ttl_s=60),
    )
    return channels


def test_publish_with_an_unusable_value_raises_and_sends_nothing() -> None:
    """`publish` and `broadcast` raise `PayloadError` before the first publication."""

    async def scenario() -> None:
        wrong = [({}, value) for value in NOT_JSON.values()]
        wrong += [({'tags': value}, 1) for value in NOT_TAGS.values()]
        wrong += [({'idempotency_key': value}, 1) for value in NOT_KEYS.values()]
        async with make_channels() as channels:
            for options, data in wrong:
                with pytest.raises(PayloadError):
                    await channels.publish('rooms:a', data, **options)
                with pytest.raises(PayloadError):
                    await channels.broadcast(['rooms:a', 'rooms:b'], data, **options)
            for channel in ('rooms:a', 'rooms:b'):
                assert [] == (await channels.history(channel)).publications
            for data in UNUSUAL.values():
                await channels.publish('rooms:a', data)

    run_with_fake_clock(scenario())


def test_user_command_with_an_unusable_value_raises_and_sends_nothing() -> None:
    """`subscribe_user` and `refresh_user` raise `InvalidValueError`."""

    async def scenario() -> None:
        wrong: list[dict[str, Any]] = [{'info': value} for value in NOT_JSON.values()]
        wrong += [{'expires_at': value} for value in NOT_TIMES.values()]
        async with make_channels() as channels:
            async with SimulatedClient(channels, user='ann') as ann:
                for options in wrong:
                    with pytest.raises(InvalidValueError):
                        await channels.subscribe_user('ann', 'rooms:a', **options)
                    with pytest.raises(InvalidValueError):
                        await channels.refresh_user('ann', **options)
                for value in NOT_JSON.values():
                    with pytest.raises(InvalidValueError):
                        await channels.subscribe_user('ann', 'rooms:a', data=value)
                assert ann.end is None
                assert None is ann.connection.info

    run_with_fake_clock(scenario())


def test_user_command_with_a_user_that_is_not_text_raises() -> None:
    """A command about user 42 would reach nobody, so that it is refused."""

    async def scenario() -> None:
        async with make_channels() as channels:
            for user in NOT_USERS.values():
                for command in (
                    channels.subscribe_user(user, 'rooms:a'),
                    channels.unsubscribe_user(user, 'rooms:a'),
                    channels.refresh_user(user),
                    channels.disconnect_user(user),
                    channels.revoke_user(user, 'rooms:a'),
                    channels.restore_user(user, 'rooms:a'),
                ):
                    with pytest.raises(InvalidValueError, match='user'):
                        await command

    run_with_fake_clock(scenario())


@pytest.mark.parametrize('user', NOT_USERS.values(), ids=NOT_USERS)
def test_token_for_a_user_that_is_not_text_is_not_made(user: Any) -> None:
    """No verifier would accept it. ``None`` is an anonymous user."""
    key = TokenKey('secret of the test ' * 3)
    with pytest.raises(InvalidValueError, match='user'):
        make_connection_token(key, user)
    with pytest.raises(InvalidValueError, match='user'):
        make_subscription_token(key, user, 'rooms:a')
    anonymous: Any = None
    token = make_connection_token(key, anonymous)
    assert '' == TokenVerifier(key).connection(token).user


@pytest.mark.parametrize('user', NOT_USERS.values(), ids=NOT_USERS)
def test_connections_of_a_user_that_is_not_text_raises(user: Any) -> None:
    """Nobody could be found."""
    with pytest.raises(InvalidValueError, match='user'):
        make_channels().connections(user)


@pytest.mark.parametrize('user', NOT_USERS.values(), ids=NOT_USERS)
async def test_plain_websocket_of_a_user_that_is_not_text_is_refused(user: Any) -> None:
    """`Channels.serve` raises before the handshake is accepted."""
    errors: list[str] = []

    class Room:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            try:
                await channels.serve(req, ws, 'rooms:a', user=user)
            except InvalidValueError as ex:
                errors.append(str(ex))

    channels = make_channels()
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room())
    async with testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected):
            async with conductor.simulate_ws('/'):
                raise AssertionError('accepted')
    assert ['user is'] == [error[:7] for error in errors]


def test_simulated_client_refuses_a_user_that_is_not_text() -> None:
    """An integer is refused with the reason; ``None`` is an anonymous client."""

    async def scenario() -> None:
        async with make_channels() as channels:
            for user in NOT_USERS.values():
                with pytest.raises(InvalidValueError, match='user'):
                    SimulatedClient(channels, user=user)
            with pytest.raises(InvalidValueError, match=r'int: write str\(42\)'):
                SimulatedClient(channels, user=42)  # type: ignore[arg-type]
            async with SimulatedClient(channels, user=None) as client:
                assert '' == client.connection.user

    run_with_fake_clock(scenario())
