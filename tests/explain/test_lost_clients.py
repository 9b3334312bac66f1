"""Explanations about a client that is lost while bytes wait for it.

Over real servers: each has its own transport, which must still know its backlog after
the end.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from endpoint.peer import serving_app
from endpoint.peer import TIMEOUT_S
import falcon.asgi
import pytest
from support.asgi_servers import AsgiServer
from support.asgi_servers import SERVE
from support.asgi_servers import UVICORN
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import Verdict

_HANDSHAKE = (
    b'GET /socket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n'
    b'Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)
_STREAM = b'GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n'


class Feed:
    """Sends the channel `feed` to ann."""

    def __init__(self) -> None:
        self.channels = Channels()
        options = ChannelOptions(
            history_size=500, max_backlog_bytes=20_000_000, record_deliveries=True
        )
        self.channels.add_route('feed', None, options)

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self.channels.serve(req, ws, 'feed', user='ann', media=True)

    async def on_get(self, req: Any, resp: Any) -> None:
        await self.channels.serve_events(req, resp, 'feed', user='ann')


@pytest.mark.parametrize('request_bytes', [_HANDSHAKE, _STREAM], ids=['ws', 'events'])
@pytest.mark.parametrize('server_kind', [SERVE, UVICORN], ids=['serve', 'uvicorn'])
def test_publication_in_the_backlog_of_a_lost_client_is_not_delivered(
    server_kind: AsgiServer, request_bytes: bytes
) -> None:
    """The last publication of a client that does not read is lost with it.

    A transport over ASGI had forgotten its backlog when it reported the end. The answer
    was then "written to the socket".

    NOTE: Hypercorn says that it has sent the bytes when it loses the client.
    """
    feed = Feed()
    channels = feed.channels
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/socket', feed)
    app.add_route('/events', feed)

    def call(coroutine: Any) -> Any:
        loop = channels.loop
        assert loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(TIMEOUT_S)

    def explain(offset: int) -> Any:
        [answer] = call(channels.explain('feed', offset, user='ann'))
        return answer

    with serving_app(app, server_kind) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(('127.0.0.1', server.port))
        sock.sendall(request_bytes)
        wait_until(lambda: channels.connections('ann'), 'it is connected')
        [connection] = channels.connections('ann')
        offset = 0
        while connection.backlog_bytes < 200_000:
            assert offset < 400, 'the server has taken all bytes'
            offset = call(channels.publish('feed', 'x' * 60_000)).position.offset
        assert Verdict.PENDING == explain(offset).verdict
        # NOTE: the connection is reset, so that the server notices it at once.
        linger = struct.pack('ii', 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()
        wait_until(lambda: connection.closed, 'the client is lost')
        answer = explain(offset)
        assert Verdict.DISCONNECTED == answer.verdict, answer.text
        assert 'may not have left this process' in answer.text
