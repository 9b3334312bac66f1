"""Handshakes that are read without the core, with the same result as by it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
import websockets.server

from falcon_channels.server import handshake
from falcon_channels.server.context import ServerContext
from falcon_channels.server.handshake import read_by_core
from falcon_channels.server.handshake import read_request
from falcon_channels.server.handshake import read_usual
from falcon_channels.server.handshake import UpgradeRequest
from falcon_channels.server.options import ServerOptions
from falcon_channels.server.protocol import WebSocketProtocol
from server.running import frame
from server.running import KEY
from server.running import Peer
from server.running import running
from server.running import TEXT

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
Pairs = list[tuple[bytes, bytes]]

PLAIN: Pairs = [
    (b'host', b'example.com:8000'),
    (b'connection', b'Upgrade'),
    (b'upgrade', b'websocket'),
    (b'sec-websocket-key', KEY.encode()),
    (b'sec-websocket-version', b'13'),
]
CHROME: Pairs = [
    *PLAIN,
    (b'origin', b'http://example.com:8000'),
    (b'user-agent', b'Mozilla/5.0 (X11; Linux x86_64) Chrome/130.0.0.0'),
    (b'accept-encoding', b'gzip, deflate, br, zstd'),
    (b'cookie', b'sid=5; name=\xc3\xa4'),
    (b'sec-websocket-extensions', b'permessage-deflate; client_max_window_bits'),
    (b'sec-websocket-protocol', b'centrifuge-json, centrifuge-protobuf'),
]
FIREFOX: Pairs = [
    (name, b'keep-alive, Upgrade' if name == b'connection' else value)
    for name, value in CHROME
]
#: Bytes that parsers may read differently.
ODD = [b'\r', b'\n', b'\r\n', b'\0', b'\x7f', b'\x0b', b'\t', b' ', b':', b',', b'\xe9']


async def _context(*, deflate: bool) -> ServerContext:
    config = Config(_nothing, log_config=None, interface='asgi3')
    config.load()
    options = ServerOptions(deflate=deflate)
    return ServerContext.of(config, ServerState(), {}, options)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


CONTEXTS = [asyncio.run(_context(deflate=deflate)) for deflate in (False, True)]


def written(target: bytes, headers: Pairs) -> bytes:
    """Return a request as uvicorn's HTTP classes write it for a WebSocket class."""
    lines = [name + b': ' + value + b'\r\n' for name, value in headers]
    return b''.join([b'GET ', target, b' HTTP/1.1\r\n', *lines, b'\r\n'])


def facts(read: UpgradeRequest) -> tuple[object, ...]:
    """Return a handshake in a form that compares."""
    return (*read[:-1], [repr(extension) for extension in read.extensions])


@st.composite
def odd_bytes(draw: st.DrawFn, usual: bytes) -> bytes:
    """Return usual bytes with a part repeated or removed, or with an odd byte."""
    at = draw(st.integers(0, len(usual)))
    end = draw(st.integers(at, min(at + 3, len(usual))))
    between = draw(st.sampled_from([*ODD, b'', usual[at:end] * 2, b'x', b'X', b'0']))
    return usual[:at] + between + usual[end:]


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, Pairs]:
    """Return a target and headers, mostly usual ones, with a few errors."""
    headers = list(draw(st.sampled_from([PLAIN, CHROME, FIREFOX])))
    target = draw(st.sampled_from([b'/', b'/a/%0a?x=%ff&y', b'//a', b'/?', b'*']))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(headers) - 1))
        name, value = headers[at]
        change = draw(
            st.sampled_from(['name', 'value', 'target', 'twice', 'drop', 'new'])
        )
        if change == 'name':
            headers[at] = draw(odd_bytes(name)), value
        elif change == 'value':
            headers[at] = name, draw(odd_bytes(value))
        elif change == 'target':
            target = draw(odd_bytes(target))
        elif change == 'twice':
            headers.insert(draw(st.integers(0, len(headers))), headers[at])
        elif change == 'drop' and len(headers) > 1:
            del headers[at]
        else:
            headers.append(draw(st.sampled_from(NEW)))
    return target, headers


NEW: Pairs = [
    (b'content-length', b'0'),
    (b'content-length', b'5'),
    (b'transfer-encoding', b'chunked'),
    (b'connection', b'close'),
    (b'upgrade', b'h2c'),
    (b'sec-websocket-version', b'8'),
    (b'sec-websocket-protocol', b'a, b'),
    (b'sec-websocket-protocol', b'a b'),
    (b'sec-websocket-extensions', b'x; y="z"'),
    (b'sec-websocket-extensions', b'x; ='),
    (b'x-line', b'folded\r\n more'),
    (b'x-line', b'a\r\ncontent-length: 5'),
    (b'x-end', b'a\r\n\r\nGET / HTTP/1.1'),
    (b'x-long', b'x' * 8000),
    (b'x-blank', b''),
    (b'', b'no name'),
]


@settings(max_examples=500, deadline=None)
@given(requests(), st.sampled_from(CONTEXTS))
def test_request_read_without_the_core_equals_the_one_of_the_core(
    request_parts: tuple[bytes, Pairs], context: ServerContext
) -> None:
    """Any request is left to the core, or read as the core reads it."""
    target, headers = request_parts
    data = written(target, headers)
    read = read_usual(context, data)
    if read is not None:
        by_core = read_by_core(context, data)
        assert facts(by_core) == facts(read)
        assert facts(by_core) == facts(read_request(context, data))


@settings(max_examples=500, deadline=None)
@given(st.data(), st.sampled_from([PLAIN, CHROME, FIREFOX]), st.sampled_from(CONTEXTS))
def test_changed_request_has_the_same_outcome_as_with_the_core(
    data: st.DataObject, headers: Pairs, context: ServerContext
) -> None:
    """A request changed anywhere has one outcome, with the core alone or not."""
    request = written(b'/a?b', headers)
    for _ in range(data.draw(st.integers(1, 3))):
        request = data.draw(odd_bytes(request))
    assert outcome(read_by_core, context, request) == outcome(
        read_request, context, request
    )


@settings(max_examples=500, deadline=None)
@given(st.data(), st.sampled_from([PLAIN, CHROME, FIREFOX]), st.sampled_from(CONTEXTS))
def test_request_read_without_an_http_parser_equals_the_one_of_the_parser(
    data: st.DataObject, headers: Pairs, context: ServerContext
) -> None:
    """Any request is left to the HTTP parser, or read as the parser reads it."""
    names = [data.draw(st.sampled_from([name, name.title()])) for name, _ in headers]
    request = written(b'/a?b', list(zip(names, dict(headers).values(), strict=True)))
    for _ in range(data.draw(st.integers(0, 3))):
        request = data.draw(odd_bytes(request))
    read = read_usual(context, request)
    if read is not None:
        parsed = Parsed()
        parser = httptools.HttpRequestParser(parsed)
        with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
            parser.feed_data(request)
        assert [len(request)] == [*upgrade.value.args]
        assert (b'GET', '1.1') == (parser.get_method(), parser.get_http_version())
        assert (parsed.url.decode(), parsed.headers) == (read.target, read.headers)


class Parsed:
    """Results of an HTTP parser."""

    def __init__(self) -> None:
        self.url = b''
        self.headers: Pairs = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b' \t')))


def outcome(read: Any, context: ServerContext, request: bytes) -> tuple[object, ...]:
    try:
        return facts(read(context, request))
    except handshake.HandshakeRefusedError as ex:
        return ex.response.status_code, ex.response.body


@pytest.mark.parametrize('headers', [PLAIN, CHROME, FIREFOX])
@pytest.mark.parametrize('context', CONTEXTS, ids=['plain', 'deflate'])
def test_request_of_libraries_and_browsers_needs_no_core(
    context: ServerContext, headers: Pairs
) -> None:
    """Requests of libraries and browsers have the usual form."""
    read = read_usual(context, written(b'/connection/websocket?x=1', headers))
    assert read is not None
    assert headers == read.headers
    assert 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' == read.accept


LIMITS: dict[str, tuple[bytes, Pairs]] = {
    'long line': (b'/', [*PLAIN, (b'x', b'y' * 65536)]),
    'many lines': (b'/', [*PLAIN, *[(b'x', b'y')] * 124]),
    'long target': (b'/' + b'x' * 8192, PLAIN),
    'blank name': (b'/', [*PLAIN, (b'', b'x')]),
    'space in a name': (b'/', [*PLAIN, (b'x name', b'x')]),
    'fragment in a target': (b'/x#y', PLAIN),
    'line end in a value': (b'/', [*PLAIN, (b'x', b'y\nz: 1')]),
    'line end in a target': (b'/x HTTP/1.1\nz: 1', PLAIN),
    'space in a target': (b'/x y', PLAIN),
    'absolute target': (b'http://example.com/', PLAIN),
    'body': (b'/', [*PLAIN, (b'content-length', b'5')]),
    'chunked': (b'/', [*PLAIN, (b'transfer-encoding', b'chunked')]),
    'two hosts': (b'/', [*PLAIN, (b'host', b'a')]),
    'two keys': (b'/', [*PLAIN, (b'sec-websocket-key', KEY.encode())]),
    'two origins': (b'/', [*CHROME, (b'origin', b'http://a')]),
    'no host': (b'/', PLAIN[1:]),
    'key of 15 bytes': (
        b'/',
        [*PLAIN[:3], (b'sec-websocket-key', b'A' * 20), PLAIN[4]],
    ),
}


@pytest.mark.parametrize('name', LIMITS)
def test_ambiguous_request_is_left_to_the_core(name: str) -> None:
    """The core decides about requests that two parsers could read differently."""
    for context in CONTEXTS:
        assert read_usual(context, written(*LIMITS[name])) is None


class CountedCore(websockets.server.ServerProtocol):
    """The protocol core, with a count of its objects."""

    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        type(self).made += 1


async def tell_scope(scope: Any, receive: Any, send: Any) -> None:
    """Accept, and send the content of the scope."""
    await receive()
    await send({'type': 'websocket.accept'})
    left_out = ('state', 'extensions', 'asgi', 'client', 'server')
    text = repr({name: value for name, value in scope.items() if name not in left_out})
    host, port = scope['client']
    at = f'{host}:{port} {":".join(map(str, scope["server"]))} {text}'
    await send({'type': 'websocket.send', 'text': at})
    await receive()


@pytest.fixture
def no_core(monkeypatch: pytest.MonkeyPatch) -> type[CountedCore]:
    monkeypatch.setattr(handshake, 'ServerProtocol', CountedCore)
    CountedCore.made = 0
    return CountedCore


@pytest.mark.parametrize('http', ['h11', 'httptools', HTTP])
def test_usual_handshake_creates_no_core(http: str, no_core: type[CountedCore]) -> None:
    """With each HTTP class the application gets the same scope without a core."""
    with running(tell_scope, http=http) as server, Peer(server.port) as peer:
        peer.open('Origin: http://localhost', 'X-Name:  \t v\xe9 ', path='/%41?q=%0a')
        at, to, scope = peer.message().decode().split(' ', 2)
        own = '{}:{}'.format(*peer.sock.getsockname())
        assert (own, f'127.0.0.1:{server.port}') == (at, to)
        read = eval(scope)
        assert ('/A', b'/%41', b'q=%0a') == (
            read['path'],
            read['raw_path'],
            read['query_string'],
        )
        assert [(b'origin', b'http://localhost'), (b'x-name', b'v\xe9')] == read[
            'headers'
        ][-2:]
    assert 0 == no_core.made


@pytest.mark.parametrize('http', ['h11', 'httptools', HTTP])
def test_unusual_valid_handshake_is_accepted_by_the_core(
    http: str, no_core: type[CountedCore]
) -> None:
    """The core accepts it with the same scope."""
    with running(tell_scope, http=http) as server, Peer(server.port) as peer:
        lines = 'Sec-WebSocket-Protocol: a', 'Sec-WebSocket-Protocol: b, c'
        peer.open(*lines, 'Content-Length: 0')
        read = eval(peer.message().decode().split(' ', 2)[2])
        assert ['a', 'b', 'c'] == read['subprotocols']
    assert 1 == no_core.made


def test_usual_handshake_negotiates_compression() -> None:
    """With our HTTP class an offer is answered, and compressed messages are read."""
    options = ServerOptions(deflate=True)
    offer = 'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits'

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({'type': 'websocket.accept'})
        while (event := await receive())['type'] == 'websocket.receive':
            await send({'type': 'websocket.send', 'text': event['text'].upper()})

    with (
        running(echo, http=HTTP, options=options) as server,
        Peer(server.port) as peer,
    ):
        head = peer.request(offer).lower()
        assert 'sec-websocket-extensions: permessage-deflate' in head
        # RFC 7692 section 7.2.3.1.
        peer.send(frame(TEXT, b'\xf2\x48\xcd\xc9\xc9\x07\x00', rsv=4))
        assert b'HELLO' == peer.message()
        peer.send(frame(TEXT, b'\xc1\x00'))
        assert 1007 == peer.close_code()


class WithOptions(WebSocketProtocol):
    """A class with its own options."""

    options = ServerOptions(unacknowledged_timeout_s=7)


@pytest.mark.parametrize('own', [False, True])
def test_handed_over_connection_has_the_timeout_of_its_websocket_class(
    own: bool,
) -> None:
    """The kernel's deadline is the one of the WebSocket class in both cases."""
    options = None if own else ServerOptions(unacknowledged_timeout_s=7)
    kind = WithOptions if own else WebSocketProtocol
    with (
        running(tell_scope, http=HTTP, ws=kind, options=options) as server,
        Peer(server.port) as peer,
    ):
        peer.open()
        (connection,) = server.connections
        sock = connection.transport.get_extra_info('socket')
        assert 7000 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
