"""Errors of responders end at most the connection that caused them."""

from __future__ import annotations

from collections.abc import Iterator
import logging
from typing import Any

import pytest
from support.faults import BUGS
from support.faults import fail
from support.faults import KEPT_ERRORS
from support.faults import REFUSALS
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

RESPONDERS = (
    'on_connect',
    'on_refresh',
    'on_disconnect',
    'on_rpc',
    'on_message',
    'on_subscribe',
    'on_unsubscribe',
    'on_publish',
    'on_presence',
    'on_history',
)

#: Responders that are told about an end. Nobody waits for an answer, so that every
#: error of theirs is a bug.
NOTIFIED = ('on_disconnect', 'on_unsubscribe')


class Faults:
    """Channels whose name says which responder fails, and how."""

    async def on_subscribe(
        self, req: Any, subscription: Any, responder: str, kind: str
    ) -> None:
        if responder == 'on_subscribe':
            await fail(kind)

    async def on_unsubscribe(
        self, req: Any, subscription: Any, responder: str, kind: str
    ) -> None:
        if responder == 'on_unsubscribe':
            await fail(kind)

    async def on_publish(
        self, req: Any, publication: Any, responder: str, kind: str
    ) -> None:
        if responder == 'on_publish':
            await fail(kind)

    async def on_presence(
        self, req: Any, connection: Any, responder: str, kind: str
    ) -> None:
        await fail(kind)

    async def on_history(
        self, req: Any, connection: Any, responder: str, kind: str
    ) -> None:
        await fail(kind)


class Clients:
    """A connection resource whose responders fail as the client asked in connect."""

    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.meta = connection.data or ('', '')
        await self._fail('on_connect', connection)

    async def on_refresh(self, req: Any, connection: Any) -> None:
        await self._fail('on_refresh', connection)

    async def on_disconnect(self, req: Any, connection: Any) -> None:
        await self._fail('on_disconnect', connection)

    async def on_rpc(self, req: Any, call: Any) -> None:
        await self._fail('on_rpc', call.connection)

    async def on_message(self, req: Any, message: Any) -> None:
        await self._fail('on_message', message.connection)

    async def _fail(self, name: str, connection: Any) -> None:
        responder, kind = connection.meta
        if responder == name:
            await fail(kind)


@pytest.fixture(scope='module')
def server() -> Iterator[Server]:
    channels = Channels()
    channels.add_route(
        'faults:{responder}:{kind}',
        Faults(),
        ChannelOptions(presence=True, history_size=10, history_ttl_s=60),
    )
    channels.add_route('news', News(), ChannelOptions(subscribers='anybody'))
    options = EndpointOptions(commands_per_s=None)
    with serving(channels, Clients(), options=options) as server:
        yield server


@pytest.fixture(scope='module')
def bystander(server: Server) -> Iterator[Peer]:
    with standing_by(server) as peer:
        yield peer


def ask_for(peer: Peer, responder: str, channel: str) -> dict[str, Any]:
    """Send the command that calls a responder; return the reply."""
    name, fields = {
        'on_refresh': ('refresh', {'token': 'x'}),
        'on_rpc': ('rpc', {'method': 'm', 'data': 1}),
        'on_message': ('send', {'data': 1}),
        'on_subscribe': ('subscribe', {'channel': channel}),
        'on_publish': ('publish', {'channel': channel, 'data': 1}),
        'on_presence': ('presence', {'channel': channel}),
        'on_history': ('history', {'channel': channel, 'limit': 1}),
    }[responder]
    return peer.ask(name, **fields)


@pytest.mark.parametrize('kind', [*REFUSALS, *BUGS])
@pytest.mark.parametrize('responder', RESPONDERS)
def test_error_of_a_responder_ends_at_most_its_connection(
    server: Server,
    bystander: Peer,
    caplog: pytest.LogCaptureFixture,
    responder: str,
    kind: str,
) -> None:
    """The client gets an answer, a bug is logged once, and others notice nothing."""
    caplog.set_level(logging.INFO)
    channel = f'faults:{responder}:{kind}'
    with Peer.to(server) as peer:
        if responder == 'on_connect' and kind in REFUSALS:
            peer.say({'id': 1, 'connect': {'data': [responder, kind]}})
            code, reason = peer.end()
            assert 3500 <= code <= 4999
            assert [] == peer.pushes
            assert len(reason.encode()) <= 123
        elif responder == 'on_connect':
            error = peer.ask('connect', data=[responder, kind])['error']
            assert (100, 'internal server error') == (error['code'], error['message'])
        else:
            peer.connect(data=[responder, kind])
            if responder in ('on_publish', 'on_unsubscribe'):
                peer.ask('subscribe', channel=channel)
            if responder == 'on_disconnect':
                peer.ws.close()
            elif responder == 'on_unsubscribe':
                assert {'unsubscribe': {}} == peer.ask('unsubscribe', channel=channel)
            else:
                error = ask_for(peer, responder, channel)['error']
                assert (103 if kind in REFUSALS else 100) == error['code']
                assert 'secret' not in error['message']
                # The connection goes on.
                assert 'subscribe' in peer.ask('subscribe', channel='news')
        is_bug = kind in BUGS or responder in NOTIFIED
        wait_until(lambda: len(tracebacks(caplog)) >= is_bug, 'the error is logged')
        notices_nothing(bystander)
    notices_nothing(bystander)
    assert is_bug == len(tracebacks(caplog)), tracebacks(caplog)


@pytest.mark.parametrize('kind', KEPT_ERRORS)
@pytest.mark.parametrize('responder', sorted({*RESPONDERS} - {*NOTIFIED}))
def test_temporary_and_token_errors_of_a_responder_keep_their_meaning(
    server: Server, caplog: pytest.LogCaptureFixture, responder: str, kind: str
) -> None:
    """The client tries again or gets a new token, and the log has no traceback."""
    caplog.set_level(logging.INFO)
    code = {'token-expired': 109, 'token-invalid': 103}.get(kind, 100)
    channel = f'faults:{responder}:{kind}'
    with Peer.to(server) as peer:
        if responder == 'on_connect' and kind == 'token-invalid':
            peer.say({'id': 1, 'connect': {'data': [responder, kind]}})
            assert (3500, 'invalid token') == peer.end()
        elif responder == 'on_connect':
            error = peer.ask('connect', data=[responder, kind])['error']
            assert (code, code == 100) == (error['code'], 'temporary' in error)
        else:
            peer.connect(data=[responder, kind])
            if responder == 'on_publish':
                peer.ask('subscribe', channel=channel)
            error = ask_for(peer, responder, channel)['error']
            assert (code, code == 100) == (error['code'], 'temporary' in error)
            assert 'secret' not in error['message']
    assert [] == tracebacks(caplog)


@pytest.mark.parametrize('kind', ['runtime', 'cancelled', 'http-dict'])
def test_message_without_id_that_fails_leaves_the_connection_open(
    server: Server, bystander: Peer, kind: str
) -> None:
    """A message without an id gets no reply, and the next command is carried out."""
    with Peer.to(server) as peer:
        peer.connect(data=['on_message', kind])
        peer.say({'send': {'data': 1}})
        assert 'subscribe' in peer.ask('subscribe', channel='news')
        assert [] == peer.pushes
    notices_nothing(bystander)
