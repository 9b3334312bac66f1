"""An exception before the accept: the status of the handshake, and the log."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
from typing import Any

import falcon.asgi
import httpx
import pytest
from server.running import running
from support.asgi_servers import AsgiServer
from support.embedded import embedded
from support.faults import tracebacks
from support.processes import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Event

pytestmark = pytest.mark.every_server

CONNECT = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"rooms:a"}}'


class Failing:
    """Raises an exception at the place that the path names."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def process_request_ws(self, req: Any, ws: Any) -> None:
        """Fail as a middleware."""
        if req.path == '/middleware':
            raise RuntimeError('bug in a middleware')

    async def on_get(self, req: Any, resp: Any, place: str) -> None:
        """Let `on_subscribe` fail."""
        await self.channels.serve_events(req, resp, f'rooms:{place}')

    async def on_websocket(self, req: Any, ws: Any, place: str) -> None:
        """Fail as a responder, or let `on_subscribe` fail."""
        if place == 'responder':
            raise RuntimeError('bug in a responder')
        await self.channels.serve(req, ws, f'rooms:{place}')

    async def on_connect(self, req: Any, connection: Any) -> None:
        """Accept everybody."""

    async def on_subscribe(self, req: Any, subscription: Any, room: str) -> None:
        """Fail, for example with a publish to a channel without a route."""
        if room == 'mistake':
            await self.channels.publish('nosuch', 1)
        raise RuntimeError('bug in on_subscribe')


@pytest.fixture
def channels() -> Channels:
    return Channels()


@pytest.fixture
def url(channels: Channels, asgi_server: AsgiServer) -> Iterator[str]:
    failing = Failing(channels)
    app = falcon.asgi.App(middleware=[channels, failing])
    channels.add_route('rooms:{room}', failing, ChannelOptions())
    channels.add_endpoints(app, resource=failing)
    app.add_route('/{place}', failing)
    with contextlib.ExitStack() as stack:
        if asgi_server.ws:
            server: Any = running(app, ws=asgi_server.ws, lifespan='on')
        else:
            server = embedded(app, asgi_server.name)
        yield stack.enter_context(server).ws_url


@pytest.mark.parametrize('place', ['middleware', 'responder', 'on_subscribe'])
def test_exception_in_a_handshake_is_500_with_a_traceback(
    url: str, place: str, asgi_server: AsgiServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is answered with 500, except on servers that can only answer 403."""
    caplog.set_level(logging.INFO)
    with pytest.raises(InvalidStatus) as refused, connect(f'{url}/{place}'):
        pass
    assert asgi_server.refusal(500) == refused.value.response.status_code
    wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
    assert 1 == len(tracebacks(caplog))


@pytest.mark.parametrize('kind', ['sdk', 'plain', 'event_stream'])
def test_exception_in_on_subscribe_is_one_event_for_each_kind_of_client(
    kind: str, url: str, channels: Channels
) -> None:
    """A bug of a responder is counted and told once, for each kind of client."""
    told: list[Event] = []
    channels.listen(told.append)
    if kind == 'sdk':
        with connect(f'{url}/connection/websocket') as ws:
            ws.send(CONNECT)
            while '"error"' not in str(ws.recv(20)):
                pass
    elif kind == 'plain':
        with pytest.raises(InvalidStatus), connect(f'{url}/on_subscribe'):
            pass
    else:
        found = httpx.get(url.replace('ws:', 'http:') + '/on_subscribe')
        assert 500 == found.status_code
    [failed] = [event for event in told if event.name == 'responder_failed']
    assert 'subscribe' == failed.facts['responder']
    assert 1 == channels.node.hub.counters.responder_errors


@pytest.mark.parametrize('kind', ['plain', 'event_stream', 'poll'])
def test_error_of_the_library_in_on_subscribe_is_500_and_not_404(
    kind: str,
    url: str,
    channels: Channels,
    asgi_server: AsgiServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client has not named the channel without a route, but the application."""
    if kind == 'plain':
        with pytest.raises(InvalidStatus) as refused, connect(f'{url}/mistake'):
            pass
        assert asgi_server.refusal(500) == refused.value.response.status_code
    else:
        headers = {'Accept': 'application/json'} if kind == 'poll' else {}
        http_url = url.replace('ws:', 'http:') + '/mistake'
        found = httpx.get(http_url, headers=headers)
        assert (500, False) == (found.status_code, 'nosuch' in found.text)
    wait_until(lambda: bool(tracebacks(caplog)), 'the error is logged')
    assert "UnknownChannelError: no route matches the channel 'nosuch'" in caplog.text
    assert 1 == channels.node.hub.counters.responder_errors


def test_exception_in_on_subscribe_of_an_sdk_is_error_100_with_a_traceback(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The command is answered, and the connection stays open."""
    caplog.set_level(logging.INFO)
    with connect(f'{url}/connection/websocket') as ws:
        ws.send(CONNECT)
        received = ''
        while '"error"' not in received:
            received += str(ws.recv(20))
        assert '"error":{"code":100,' in received
        ws.send('{"id":3,"ping":{}}')
        assert '{"id":3,"ping":{}}' == ws.recv(20)
    assert 1 == len(tracebacks(caplog))
