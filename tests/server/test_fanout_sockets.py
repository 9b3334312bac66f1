"""The fan-out over sockets that take a part of a write, take nothing, or are closed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import socket
import struct
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT

#: Long enough to fill the buffers of a socket, and to be written in part.
WORDS = 'x' * 100_000
PUBLICATIONS = 100


class Room:
    """Plain WebSockets in one channel."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels

    async def on_websocket(self, req: Any, ws: Any) -> None:
        await self.channels.serve(req, ws, 'room', media=True)


@pytest.fixture
def channels() -> Channels:
    limit = 64 * 1024 * 1024
    settings = NodeOptions(max_backlog_bytes=limit, max_message_bytes=200_000)
    channels = Channels(options=settings)
    options = ChannelOptions(
        subscribers='anybody',
        publishers='anybody',
        max_publication_bytes=200_000,
        max_backlog_bytes=limit,
    )
    channels.add_route('room', None, options)
    return channels


@pytest.fixture
def server(channels: Channels) -> Iterator[RunningServer]:
    app = falcon.asgi.App(middleware=[channels])
    app.add_route('/', Room(channels))
    with running(app, lifespan='on') as server:
        yield server


def test_fan_out_over_slow_and_closed_sockets_delivers_whole_frames_in_order(
    server: RunningServer, channels: Channels
) -> None:
    """A client that reads late, or has pending output, gets the same as all others."""
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Peer(server.port)) for _ in range(20)]
        late = Peer(server.port, receive_buffer_bytes=4096)
        readers += [stack.enter_context(late)]
        gone = [Peer(server.port) for _ in range(3)]
        for peer in [*readers, *gone]:
            peer.open()
            assert 'subscribed' in json.loads(peer.message())
        for number in range(PUBLICATIONS):
            readers[0].send(frame(TEXT, json.dumps([number, WORDS]).encode()))
            for reader in readers[:20]:
                assert number == json.loads(reader.message())['data'][0]
            if number == PUBLICATIONS // 2:
                for peer in gone:
                    linger = struct.pack('ii', 1, 0)
                    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    peer.sock.close()
        for number in range(PUBLICATIONS):
            assert [number, WORDS] == json.loads(late.message())['data']
        wait_until(lambda: len(channels.connections()) == 21, 'three have gone')
    deliveries = channels.node.hub.counters.deliveries
    assert PUBLICATIONS * 21 <= deliveries <= PUBLICATIONS * 24
