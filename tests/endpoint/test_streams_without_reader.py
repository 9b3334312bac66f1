"""A stream that the server does not read takes no place for long."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi
import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
from falcon_channels import Channels
from falcon_channels import EndpointOptions
from falcon_channels.transports import http_stream

pytestmark = pytest.mark.every_server

CONNECT = '{"id":1,"connect":{}}'


class Failing:
    """Middleware that replaces every response."""

    async def process_response(
        self, req: falcon.asgi.Request, resp: Any, resource: object, ok: bool
    ) -> None:
        raise falcon.HTTPError(418)


def test_connection_whose_response_was_replaced_is_removed(
    asgi_server: AsgiServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection does not stay if another response was sent, and the log says it."""
    monkeypatch.setattr(http_stream, 'UNREAD_TIMEOUT_S', 0.1)
    channels = Channels()
    app = falcon.asgi.App(middleware=[Failing(), channels])
    channels.add_endpoints(app, options=EndpointOptions(ping_interval_s=None))
    with (
        serving_app(app, asgi_server) as server,
        httpx.Client(
            base_url=f'http://127.0.0.1:{server.port}/connection', timeout=TIMEOUT_S
        ) as client,
    ):
        for answer in (
            client.get('/uni_sse'),
            client.post('/uni_sse', content='{}'),
            client.post('/uni_http_stream', content='{}'),
            client.get('/sse', params={'cf_connect': CONNECT}),
            client.post('/sse', content=CONNECT),
            client.post('/http_stream', content=CONNECT),
        ):
            assert 418 == answer.status_code
        wait_until(lambda: not channels.connections(), 'no connection is left')
    assert 6 == caplog.text.count('its stream was never read')
