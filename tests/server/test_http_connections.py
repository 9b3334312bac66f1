"""Memory of a connection during its response, and notices of its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Iterator
import threading
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels.server.http_requests import MAX_PIPELINED
from falcon_channels.transports.asgi_extensions import server_http_connection
from server.running import Peer
from server.running import running
from server.running import RunningServer

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
REQUEST = b'GET %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\n\r\n'


class Streams:
    """A resource whose response lasts until the test ends it.

    Attributes:
        gone: How many clients have left a response.
        names: Names of the headers of all requests, as the application gets them.
    """

    def __init__(self) -> None:
        self.gone = 0
        self.names: list[bytes] = []
        self._ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._changed = threading.Lock()

    async def on_get(self, req: Any, resp: Any) -> None:
        connection = server_http_connection(req.scope)
        assert connection is not None
        self.names += [name for name, _ in req.scope['headers']]
        end = asyncio.Event()

        def on_disconnect() -> None:
            self.gone += 1
            end.set()

        async def body() -> AsyncIterator[bytes]:
            connection.watch(on_disconnect)
            yield b'begun'
            self._ends.append((asyncio.get_running_loop(), end))
            await end.wait()
            yield b'ended'

        resp.stream = body()

    async def on_get_late(self, req: Any, resp: Any) -> None:
        """Respond to a client that has left before its response began."""
        connection = server_http_connection(req.scope)
        assert connection is not None
        while not connection.transport.is_closing():  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        left = asyncio.Event()
        connection.watch(left.set)
        await left.wait()
        self.gone += 1

    async def on_get_short(self, req: Any, resp: Any) -> None:
        resp.text = 'short'

    def end_one(self) -> None:
        """End the oldest response, as soon as there is one."""
        wait_until(lambda: self._ends, 'a response has begun')
        loop, end = self._ends.pop(0)
        loop.call_soon_threadsafe(end.set)


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def server(streams: Streams) -> Iterator[RunningServer]:
    app = falcon.asgi.App()
    app.add_route('/stream', streams)
    app.add_route('/short', streams, suffix='short')
    app.add_route('/late', streams, suffix='late')
    with running(app, http=HTTP) as server:
        yield server


def test_connection_of_a_long_response_has_no_parser_and_no_dict(
    server: RunningServer, streams: Streams
) -> None:
    """Data for a next request is not kept, and uvicorn's attributes have slots."""
    with Peer(server.port) as peer:
        peer.send(REQUEST % b'/stream')
        peer.read_until(b'begun')
        [connection] = server.connections
        wait_until(lambda: connection.parser is None, 'the parser is released')
        assert {} == vars(connection)
        assert {} == vars(connection.flow)
        streams.end_one()
        peer.read_until(b'ended')


@pytest.mark.parametrize('when', ['meanwhile', 'in the same chunk', 'afterwards'])
def test_request_after_a_watched_response_is_answered_in_order(
    server: RunningServer, streams: Streams, when: str
) -> None:
    """A connection whose parser was released reads further requests."""
    first, second = REQUEST % b'/stream', REQUEST % b'/short'
    with Peer(server.port) as peer:
        peer.send(first + second if when == 'in the same chunk' else first)
        peer.read_until(b'begun')
        if when == 'meanwhile':
            peer.send(second[:20])
            peer.send(second[20:] + second)
        streams.end_one()
        peer.read_until(b'ended')
        if when == 'afterwards':
            peer.send(second)
        peer.read_until(b'short')
        if when == 'meanwhile':
            peer.read_until(b'short')
        peer.send(first)
        peer.read_until(b'begun')
        streams.end_one()
        peer.read_until(b'ended')
    assert 0 == streams.gone


def test_requests_over_the_limit_end_the_connection_after_the_earlier_responses(
    server: RunningServer, streams: Streams
) -> None:
    """A client that sends many requests at once gets the first ones answered.

    The others would be in memory as long as the stream.
    """
    with Peer(server.port) as peer:
        peer.send(REQUEST % b'/stream')
        peer.read_until(b'begun')
        [connection] = server.connections
        peer.send(REQUEST % b'/short' * 1000)
        wait_until(lambda: connection.pipeline, 'the requests have arrived')
        assert MAX_PIPELINED == len(connection.pipeline)
        streams.end_one()
        for _ in range(MAX_PIPELINED):
            peer.read_until(b'short')
        assert peer.at_eof()


def test_watch_is_called_once_when_the_client_leaves(
    server: RunningServer, streams: Streams
) -> None:
    """A response learns that its client has left, but not after its end."""
    with Peer(server.port) as peer:
        peer.send(REQUEST % b'/stream')
        peer.read_until(b'begun')
        streams.end_one()
        peer.read_until(b'ended')
        peer.send(REQUEST % b'/stream')
        peer.read_until(b'begun')
    wait_until(lambda: not server.connections, 'the connection has ended')
    wait_until(lambda: streams.gone == 1, 'the second response has ended')


def test_header_names_are_lower_case_in_any_spelling(
    server: RunningServer, streams: Streams
) -> None:
    """ASGI wants lower case; connections share the usual names."""
    heads = b'GET /stream HTTP/1.1\r\nHOST: a\r\nuser-agent: b\r\nX-New: c\r\n\r\n'
    with Peer(server.port) as peer:
        peer.send(heads)
        peer.read_until(b'begun')
        streams.end_one()
    with Peer(server.port) as peer:
        peer.send(heads)
        peer.read_until(b'begun')
        streams.end_one()
    assert [b'host', b'user-agent', b'x-new'] * 2 == streams.names
    assert streams.names[1] is streams.names[4]


def test_client_that_left_before_its_response_is_reported(
    server: RunningServer, streams: Streams
) -> None:
    """A responder that begins to watch too late is told at once."""
    with Peer(server.port) as peer:
        peer.send(REQUEST % b'/late')
    wait_until(lambda: streams.gone == 1, 'the responder knows that the client left')
