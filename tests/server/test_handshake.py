"""Upgrade requests of clients and attackers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import logging
import select

import pytest
from support.processes import wait_until

from falcon_channels.server.options import ServerOptions
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT

REQUEST = (
    b'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n'
    b'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
)
HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'


async def app(scope, receive, send) -> None:
    """Echo; paths select other behaviours."""
    if scope['type'] == 'http':
        body = b'over http'
        headers = [(b'content-length', b'%d' % len(body))]
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
        await send({'type': 'http.response.body', 'body': body})
        return
    await receive()
    if scope['path'] == '/never':
        await receive()
        return
    await send({'type': 'websocket.accept'})
    while (event := await receive())['type'] == 'websocket.receive':
        await send({**event, 'type': 'websocket.send'})


@pytest.fixture(scope='module', params=['h11', 'httptools', HTTP])
def server(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with running(
        app, http=request.param, options=ServerOptions(close_timeout_s=2)
    ) as up:
        yield up


@pytest.fixture(scope='module')
def bounded() -> Iterator[RunningServer]:
    options = ServerOptions(
        close_timeout_s=1, open_timeout_s=0.3, max_connections_per_peer=3
    )
    with running(app, http=HTTP, options=options, limit_concurrency=50) as up:
        yield up


GOOD = {
    'plain': (),
    'Firefox': ('Connection: keep-alive, Upgrade',),
    'upper case': ('Upgrade: WebSocket',),
    'deflate is offered': (
        'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits',
    ),
    'body of 0 bytes': ('Content-Length: 0',),
}


@pytest.mark.parametrize('name', GOOD)
def test_valid_handshake_is_accepted_with_the_right_key(
    server: RunningServer, name: str
) -> None:
    """Every form that clients use is answered with 101, and the connection works."""
    lines = GOOD[name]
    with Peer(server.port) as peer:
        head = peer.request(
            *lines, without=tuple(line.split(':')[0] for line in lines)
        ).lower()
        assert head.startswith('http/1.1 101')
        assert 'sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=' in head
        assert 'sec-websocket-extensions' not in head
        peer.send(frame(TEXT, b'hi'))
        assert b'hi' == peer.message()


BAD = {
    'version 12': (('Sec-WebSocket-Version: 12',), ('Sec-WebSocket-Version',), 426),
    'no version': ((), ('Sec-WebSocket-Version',), 400),
    'no key': ((), ('Sec-WebSocket-Key',), 400),
    'short key': (('Sec-WebSocket-Key: c2hvcnQ=',), ('Sec-WebSocket-Key',), 400),
    'key not base64': (('Sec-WebSocket-Key: ???',), ('Sec-WebSocket-Key',), 400),
    'two keys': (('Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',), (), 400),
    'body': (('Content-Length: 5',), (), 400),
    'chunked body': (('Transfer-Encoding: chunked',), (), 400),
    'no host': ((), ('Host',), 400),
    'two hosts': (('Host: b.example',), (), 400),
    'two origins': (('Origin: http://a', 'Origin: http://b'), (), 400),
    'header line of 70 KB': (('X-Long: ' + 'x' * 70_000,), (), 431),
    '130 headers': (tuple(f'X-{i}: {i}' for i in range(130)), (), 431),
    'malformed extensions': (('Sec-WebSocket-Extensions: x; =',), (), 400),
    'subprotocols not tokens': (('Sec-WebSocket-Protocol: \xe9,b',), (), 400),
    '2000 extensions': (
        ('Sec-WebSocket-Extensions: ' + ', '.join(f'x{i}' for i in range(2000)),),
        (),
        431,
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_invalid_handshake_is_refused_and_closed(
    server: RunningServer, name: str
) -> None:
    """A bad request gets its status and the end of the stream, also with a body."""
    lines, without, status = BAD[name]
    with Peer(server.port) as peer:
        body = 'hello' if 'Content-Length: 5' in lines else ''
        assert status == peer.status(*lines, without=without, body=body)
    wait_until(lambda: not server.connections, 'the connection has ended')


def test_request_target_of_over_8_kib_is_refused_with_414(
    server: RunningServer,
) -> None:
    """A request target of over 8 KiB gets 414."""
    with Peer(server.port) as peer:
        assert 414 == peer.status(path='/' + 'x' * 9000)


def test_unsupported_version_gets_426_with_the_supported_one(
    server: RunningServer,
) -> None:
    """426 has the supported version, and no second request is served."""
    with Peer(server.port) as peer:
        head = peer.request(
            'Sec-WebSocket-Version: 8', without=('Sec-WebSocket-Version',)
        )
        assert 'sec-websocket-version: 13' in head.lower()
        try:
            peer.send(b'GET /admin HTTP/1.1\r\nHost: x\r\n\r\n')
            peer.sock.settimeout(10)
            rest = b''
            while data := peer.sock.recv(65536):
                rest += data
        except ConnectionError:
            rest = b''
        assert b'HTTP/1.1 200' not in rest


def test_bytes_after_an_unsupported_version_are_dropped(
    bounded: RunningServer,
) -> None:
    """The answer is the same 426 with the supported version."""
    request = REQUEST.replace(b'Version: 13', b'Version: 8')
    with Peer(bounded.port) as peer:
        peer.send(request + b'GET /admin HTTP/1.1\r\nHost: x\r\n\r\n')
        head = peer.read_head()
        assert head.startswith('HTTP/1.1 426')
        assert 'Sec-WebSocket-Version: 13' in head
        assert 'Connection: close' in head


def test_upgrade_by_post_is_refused_with_405(server: RunningServer) -> None:
    """A WebSocket is opened by GET only."""
    with Peer(server.port) as peer:
        peer.send(REQUEST.replace(b'GET', b'POST'))
        head = peer.read_head()
        assert head.startswith('HTTP/1.1 405')
        assert 'Allow: GET' in head


@pytest.mark.parametrize(
    ('code', 'status'),
    [(None, 403), (1000, 403), (3399, 403), (3401, 401), (3404, 404), (3600, 403)],
)
def test_close_before_the_accept_becomes_an_http_status(
    code: int | None, status: int
) -> None:
    """It is 403, or the status that Falcon has put into its close code."""

    async def refuse(scope, receive, send) -> None:
        await receive()
        await send(
            {'type': 'websocket.close', **({} if code is None else {'code': code})}
        )

    with running(refuse) as up, Peer(up.port) as peer:
        assert status == peer.status()


def test_request_without_upgrade_is_served_by_http(server: RunningServer) -> None:
    """A request without an upgrade is served by uvicorn's HTTP class."""
    with Peer(server.port) as peer:
        peer.send(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_frames_sent_before_the_accept_are_delivered_after_it() -> None:
    """Messages that arrive while the application decides are delivered later."""

    async def slow(scope, receive, send) -> None:
        await receive()
        while not any(getattr(c, '_buffer', None) for c in up.connections):
            await asyncio.sleep(0.01)
        await send({'type': 'websocket.accept'})
        while (event := await receive())['type'] == 'websocket.receive':
            await send({**event, 'type': 'websocket.send'})

    with running(slow) as up, Peer(up.port) as peer:
        peer.send(REQUEST)
        wait_until(lambda: any(hasattr(c, '_cycle') for c in up.connections), 'upgrade')
        peer.send(frame(TEXT, b'one') + frame(TEXT, b'two'))
        assert '101' in peer.read_head()
        assert [b'one', b'two'] == [peer.message(), peer.message()]


def test_frames_together_with_the_request_are_refused_with_400(
    bounded: RunningServer,
) -> None:
    """A client has to wait for the answer before it sends frames."""
    with Peer(bounded.port) as peer:
        peer.send(REQUEST + frame(TEXT, b'early'))
        assert peer.read_head().startswith('HTTP/1.1 400')


def test_upgrade_over_http_1_0_is_refused_with_505(bounded: RunningServer) -> None:
    """An upgrade needs HTTP/1.1."""
    with Peer(bounded.port) as peer:
        peer.send(REQUEST.replace(b'HTTP/1.1', b'HTTP/1.0'))
        assert peer.read_head().startswith('HTTP/1.1 505')


@pytest.mark.parametrize('end', [b'', b'\r\n\r\n'])
def test_request_head_of_over_64_kib_is_refused_with_431(
    bounded: RunningServer, end: bytes
) -> None:
    """The head is refused whether it is complete or not."""
    with Peer(bounded.port) as peer:
        head = b'GET / HTTP/1.1\r\nHost: x\r\n'
        lines = b''.join(b'X-%d: ' % i + b'y' * 6000 + b'\r\n' for i in range(20))
        peer.send(head + lines + end)
        assert peer.read_head().startswith('HTTP/1.1 431')


def test_large_body_does_not_count_as_head(bounded: RunningServer) -> None:
    """A request with a body of a megabyte is served."""
    with Peer(bounded.port) as peer:
        body = b'b' * 1_000_000
        peer.send(
            b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body)
        )
        peer.send(body)
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_body_before_a_pipelined_request_does_not_count_as_its_head(
    bounded: RunningServer,
) -> None:
    """The body of a request does not count for the head of the next one."""
    body = b'b' * 100_000
    post = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body)
    with Peer(bounded.port) as peer:
        peer.send(post + body + b'GET / HTTP/1.1\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')
        assert b'over http' == peer._need(9)
        peer.send(b'Host: x\r\n\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_idle_http_connection_has_no_head_deadline(
    bounded: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two requests only uvicorn's keep-alive time applies."""
    monkeypatch.setattr('falcon_channels.server.http.HEAD_TIMEOUT_S', 0.2)
    monkeypatch.setattr('falcon_channels.server.http_requests.HEAD_TIMEOUT_S', 0.2)
    with Peer(bounded.port) as peer:
        for _ in range(2):
            peer.send(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
            assert peer.read_head().startswith('HTTP/1.1 200')
            assert b'over http' == peer._need(9)
            assert not select.select([peer.sock], [], [], 0.5)[0]


@pytest.mark.parametrize('start', [b'', b'GET / HTTP/1.1\r\nHost:'])
def test_incomplete_request_head_is_refused_with_408(
    bounded: RunningServer, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that never finishes its request head is closed."""
    monkeypatch.setattr('falcon_channels.server.http.HEAD_TIMEOUT_S', 0.2)
    with Peer(bounded.port) as peer:
        peer.send(start)
        assert peer.read_head().startswith('HTTP/1.1 408')


def test_application_that_never_accepts_gets_the_handshake_refused_with_503(
    bounded: RunningServer,
) -> None:
    """After `open_timeout_s` the application gets the disconnect."""
    with Peer(bounded.port) as peer:
        assert 503 == peer.status(path='/never')


def test_connection_beyond_the_limit_of_its_address_is_refused_with_429(
    bounded: RunningServer,
) -> None:
    """The limit is `max_connections_per_peer`; closed connections do not count."""
    wait_until(lambda: not bounded.connections, 'the other connections have ended')
    peers = [Peer(bounded.port).open() for _ in range(3)]
    with Peer(bounded.port) as fourth:
        assert 429 == fourth.status()
    peers[0].sock.close()
    wait_until(lambda: len(bounded.connections) == 2, 'one connection has ended')
    with Peer(bounded.port) as again:
        assert 101 == again.status()
    for peer in peers:
        peer.sock.close()


def test_websocket_beyond_limit_concurrency_is_refused_with_503() -> None:
    """uvicorn's own classes ignore this limit."""
    with running(app, limit_concurrency=1) as up, Peer(up.port) as first:
        first.open()
        with Peer(up.port) as second:
            assert 503 == second.status()


def test_access_log_has_no_query_string_of_a_websocket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A token in the query string is not logged, and control characters are quoted."""
    logger = logging.getLogger('uvicorn.access')
    logger.propagate = True
    with (
        caplog.at_level(logging.DEBUG),
        running(app, log_level='debug') as up,
        Peer(up.port) as peer,
    ):
        peer.open(path='/a%0ab?token=SECRET&x=%0a')
    assert 'SECRET' not in caplog.text
    assert '"WebSocket /a%0Ab?[redacted] HTTP/1.1" 101' in caplog.text


@pytest.mark.parametrize('http', ['auto', HTTP])
@pytest.mark.parametrize('size', [9_000, 60_000])
def test_long_cookies_are_accepted_by_requests_and_handshakes(
    http: str, size: int
) -> None:
    """A browser whose cookies a page accepts can open a WebSocket as well."""
    with running(app, http=http) as up:
        for upgrade in (True, False):
            with Peer(up.port) as peer:
                peer.send(request_with_cookie(size, upgrade=upgrade))
                assert peer.read_head().startswith(
                    'HTTP/1.1 101' if upgrade else 'HTTP/1.1 200'
                )


def request_with_cookie(size: int, *, upgrade: bool) -> bytes:
    """Return a request with a long cookie."""
    head = REQUEST if upgrade else b'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
    return head[:-2] + b'Cookie: a=' + b'x' * size + b'\r\n\r\n'


@pytest.mark.parametrize('upgrade', [True, False])
def test_refusal_of_a_long_head_is_logged(
    upgrade: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says that a head was too long, for requests and handshakes."""
    with caplog.at_level(logging.INFO), running(app, http=HTTP) as up:
        with Peer(up.port) as peer:
            peer.send(request_with_cookie(70_000, upgrade=upgrade))
            assert peer.read_head().startswith('HTTP/1.1 431')
    [line] = [r.getMessage() for r in caplog.records if 'too large' in r.getMessage()]
    assert line.startswith('refused a request of 127.0.0.1:')
    assert line.endswith('The request line and headers are too large.')


@pytest.mark.parametrize('http', ['auto', HTTP])
@pytest.mark.parametrize('value', ['', ' ', '\t'])
@pytest.mark.parametrize('count', [1, 2])
def test_empty_header_of_subprotocols_is_treated_as_absent(
    http: str, value: str, count: int
) -> None:
    """Some clients send the header without a value if they offer nothing."""
    lines = [f'Sec-WebSocket-Protocol:{value}'] * count
    with running(app, http=http) as up, Peer(up.port) as peer:
        assert 101 == peer.status(*lines)
