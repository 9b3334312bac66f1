"""Connections that the server has closed do not stay in memory."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import wait_until

from endpoint.peer import Peer
from endpoint.peer import serving
from endpoint.peer import TIMEOUT_S
from falcon_channels import Channels
from falcon_channels.transports import asgi
from falcon_channels.transports import http_stream

pytestmark = pytest.mark.every_server

KINDS = (asgi.AsgiTransport, http_stream.HttpStreamTransport)


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        connection.user = 'ann'


def num_transports() -> int:
    gc.collect()
    return sum(issubclass(type(item), KINDS) for item in gc.get_objects())


def test_closed_connection_is_freed_before_the_close_timeout(
    asgi_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer of a close ends with the connection, which is freed then."""
    monkeypatch.setattr(asgi, 'CLOSE_TIMEOUT_S', 600.0)
    monkeypatch.setattr(http_stream, 'CLOSE_TIMEOUT_S', 600.0)
    channels = Channels()
    before = num_transports()
    with serving(channels, Clients(), asgi_server=asgi_server) as server:
        with (
            Peer.to(server) as peer,
            httpx.stream(
                'GET',
                f'http://127.0.0.1:{server.port}/connection/uni_sse',
                timeout=TIMEOUT_S,
            ) as stream,
        ):
            peer.connect()
            lines = stream.iter_lines()
            while 'connect' not in next(lines):
                pass
            loop = channels.loop
            assert loop is not None
            asyncio.run_coroutine_threadsafe(channels.disconnect_user('ann'), loop)
            assert 3503 == peer.end()[0]
            assert 'disconnect' in ''.join(lines)
        wait_until(lambda: num_transports() <= before, 'the transports are freed')
