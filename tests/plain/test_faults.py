"""Errors of responders of plain WebSockets end at most the connection."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import logging
from typing import Any

import falcon.asgi
import pytest
from server.running import OURS
from server.running import running
from server.running import RunningServer
from support.faults import BUGS
from support.faults import fail
from support.faults import REFUSALS
from support.faults import tracebacks
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels import Channels

TIMEOUT_S = 20.0


class Faults:
    """Serves WebSockets; the path says which responder fails, and how."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.channels.add_route('faults:{responder}:{kind}', self)

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

    async def on_websocket(
        self, req: Any, ws: Any, responder: str, kind: str, mode: str
    ) -> None:
        if 'accepted' in mode:
            await ws.accept()
        await self.channels.serve(
            req, ws, f'faults:{responder}:{kind}', media='media' in mode
        )


class Users:
    """Serves WebSockets with a user of the wrong type."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_websocket(self, req: Any, ws: Any, user: str) -> None:
        users: dict[str, Any] = {'int': 42, 'bytes': b'ann', 'none': None}
        await self.channels.serve(req, ws, 'faults:none:none', user=users[user])


@pytest.fixture(scope='module', params=[OURS, 'websockets-sansio'])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    faults = Faults()
    app = falcon.asgi.App(middleware=[faults.channels])
    app.add_route('/{responder}/{kind}/{mode}', faults)
    app.add_route('/users/{user}', Users(faults.channels))
    with running(app, ws=request.param, lifespan='on') as up:
        yield up


@pytest.fixture(scope='module')
def bystander(server: RunningServer) -> Iterator[ClientConnection]:
    with connect(f'{server.ws_url}/none/none/text') as ws:
        yield ws


def notices_nothing(bystander: ClientConnection) -> None:
    """Check that a connection received nothing, and still receives publications."""
    bystander.send('hello')
    assert 'hello' == bystander.recv(TIMEOUT_S)


def close_code(ws: ClientConnection) -> int | None:
    """Wait until the server closes; return its code."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            ws.recv(TIMEOUT_S)
    return ws.close_code


@pytest.mark.parametrize('kind', [*REFUSALS, *BUGS])
@pytest.mark.parametrize('media', ['text', 'media'])
def test_error_of_on_publish_ends_at_most_its_connection(
    server: RunningServer,
    bystander: ClientConnection,
    caplog: pytest.LogCaptureFixture,
    media: str,
    kind: str,
) -> None:
    """A refusal is answered or closes with 3403; a bug closes with 1011."""
    caplog.set_level(logging.INFO)
    with connect(f'{server.ws_url}/on_publish/{kind}/{media}') as ws:
        if media == 'media':
            assert 'subscribed' in json.loads(ws.recv(TIMEOUT_S))
        ws.send('1')
        if kind in BUGS:
            assert 1011 == close_code(ws)
            wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
        elif media == 'media':
            error = json.loads(ws.recv(TIMEOUT_S))['error']
            assert 403 == error['status']
            assert isinstance(error['title'], str)
        else:
            assert 3403 == close_code(ws)
    notices_nothing(bystander)
    assert (kind in BUGS) == len(tracebacks(caplog)), tracebacks(caplog)


@pytest.mark.parametrize('kind', ['http-dict', 'http-surrogate', *BUGS])
@pytest.mark.parametrize('mode', ['new', 'accepted'])
def test_error_of_on_subscribe_refuses_only_its_connection(
    server: RunningServer,
    bystander: ClientConnection,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    kind: str,
) -> None:
    """The handshake is refused, or the accepted WebSocket is closed."""
    caplog.set_level(logging.INFO)
    # NOTE: Falcon answers an `HTTPStatus` of a WebSocket responder without a log line.
    logged = kind in BUGS and kind != 'status'
    url = f'{server.ws_url}/on_subscribe/{kind}/{mode}'
    if mode == 'new':
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        status = refused.value.response.status_code
        # NOTE: ASGI has only 403 for a handshake that is closed.
        ours = server.server.config.ws == OURS
        assert (500 if ours and logged else 403) == status
    else:
        with connect(url) as ws:
            code = close_code(ws)
        assert code is not None
        assert 3403 == code if kind in REFUSALS else code in (1011, 3202, 3500)
    wait_until(lambda: len(tracebacks(caplog)) >= logged, 'the error is logged')
    notices_nothing(bystander)
    assert logged == len(tracebacks(caplog)), tracebacks(caplog)


@pytest.mark.parametrize('kind', ['http-dict', *BUGS])
def test_error_of_on_unsubscribe_is_logged_once(
    server: RunningServer,
    bystander: ClientConnection,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """The client has left, so that the log is the only place for the error."""
    caplog.set_level(logging.INFO)
    with connect(f'{server.ws_url}/on_unsubscribe/{kind}/text') as ws:
        ws.send('hello')
        assert 'hello' == ws.recv(TIMEOUT_S)
    wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
    notices_nothing(bystander)
    assert 1 == len(tracebacks(caplog)), tracebacks(caplog)


@pytest.mark.parametrize('user', ['int', 'bytes'])
def test_user_that_is_not_text_is_refused_with_the_reason(
    server: RunningServer,
    bystander: ClientConnection,
    caplog: pytest.LogCaptureFixture,
    user: str,
) -> None:
    """The log says what to write instead."""
    with pytest.raises(InvalidStatus), connect(f'{server.ws_url}/users/{user}'):
        pass
    wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
    assert 'write str(' in caplog.text
    notices_nothing(bystander)
    assert 1 == len(tracebacks(caplog)), tracebacks(caplog)


def test_user_none_is_anonymous(server: RunningServer) -> None:
    """``user=None`` is an anonymous client."""
    with connect(f'{server.ws_url}/users/none') as ws:
        ws.close()
        assert 1000 == ws.close_code
