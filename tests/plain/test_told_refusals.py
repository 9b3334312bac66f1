"""A refused plain client is told and logged once, with the code that it received."""

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
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from falcon_channels import Channels
from falcon_channels import Event

pytestmark = pytest.mark.every_server


class Refusing:
    """Refuses everybody, before or after it has accepted a WebSocket."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_get(self, req: Any, resp: Any, channel: str) -> None:
        await self.channels.serve_events(req, resp, channel)

    async def on_websocket(self, req: Any, ws: Any, channel: str) -> None:
        if req.get_param_as_bool('accept', default=False):
            await ws.accept()
        await self.channels.serve(req, ws, channel)

    async def on_subscribe(self, req: Any, subscription: Any) -> None:
        raise falcon.HTTPForbidden(description='members only')


@pytest.fixture
def channels() -> Channels:
    return Channels()


@pytest.fixture
def told(channels: Channels) -> list[Event]:
    events: list[Event] = []
    channels.listen(events.append)
    return events


@pytest.fixture
def url(channels: Channels, asgi_server: AsgiServer) -> Iterator[str]:
    app = falcon.asgi.App(middleware=[channels])
    channels.add_route('room', Refusing(channels))
    app.add_route('/{channel}', Refusing(channels))
    with contextlib.ExitStack() as stack:
        if asgi_server.ws:
            server: Any = running(app, ws=asgi_server.ws, lifespan='on')
        else:
            server = embedded(app, asgi_server.name)
        yield stack.enter_context(server).ws_url


def refused(told: list[Event]) -> list[int]:
    """Wait for a refusal, and return the codes of all refusals."""
    wait_until(
        lambda: any(event.name == 'command_refused' for event in told), 'it is told'
    )
    return [event.code for event in told if event.name == 'command_refused']


def lines(caplog: pytest.LogCaptureFixture, channel: str) -> list[str]:
    """Return the levels of our log lines about a channel."""
    return [
        record.levelname
        for record in caplog.records
        if record.name == 'falcon_channels' and f"'{channel}'" in record.getMessage()
    ]


#: A channel without a route, and a channel whose responder refuses the user.
each_refusal = pytest.mark.parametrize(
    ('channel', 'status', 'level'),
    [('nowhere', 404, 'WARNING'), ('room', 403, 'INFO')],
)


@each_refusal
def test_refused_event_stream_is_logged_once(
    channel: str,
    status: int,
    level: str,
    url: str,
    told: list[Event],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A channel without a route is one warning, and a refused user one line."""
    caplog.set_level(logging.INFO)
    found = httpx.get(f'{url.replace("ws:", "http:")}/{channel}')
    assert status == found.status_code
    assert [status] == refused(told)
    assert [level] == lines(caplog, channel)


@each_refusal
def test_refused_websocket_is_told_with_its_status(
    channel: str,
    status: int,
    level: str,
    url: str,
    told: list[Event],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A WebSocket that is refused before it was accepted has an HTTP status."""
    caplog.set_level(logging.INFO)
    with pytest.raises(InvalidStatus), connect(f'{url}/{channel}'):
        pass
    assert [status] == refused(told)
    assert [level] == lines(caplog, channel)


@pytest.mark.parametrize(
    ('channel', 'code'),
    [('nowhere', 3404), ('room', 3403)],
)
def test_refused_websocket_that_was_accepted_is_told_with_its_close_code(
    channel: str, code: int, url: str, told: list[Event]
) -> None:
    """The code of the event is the one that the client received."""
    with connect(f'{url}/{channel}?accept=true') as ws:
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(20)
    assert closed.value.rcvd is not None
    assert code == closed.value.rcvd.code
    assert [code] == refused(told)
