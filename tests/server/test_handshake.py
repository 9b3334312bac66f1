"""Upgrade requests as clients and attackers send them."""

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
    """Echo; the path says what else."""
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
def test_proper_handshakes_are_accepted(server: RunningServer, name: str) -> None:
    """Every form that clients use is answered 101 with the right key, and works."""
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
    'header line of 9 KB': (('X-Long: ' + 'x' * 9000,), (), 431),
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
def test_improper_handshakes_are_refused(server: RunningServer, name: str) -> None:
    """A bad request gets its status and the end of the stream, whatever follows it."""
    lines, without, status = BAD[name]
    with Peer(server.port) as peer:
        body = 'hello' if 'Content-Length: 5' in lines else ''
        assert status == peer.status(*lines, without=without, body=body)
    wait_until(lambda: not server.connections, 'the connection is gone')


def test_a_long_path_is_refused(server: RunningServer) -> None:
    """A request target of over 8 KiB gets 414."""
    with Peer(server.port) as peer:
        assert 414 == peer.status(path='/' + 'x' * 9000)


def test_the_answer_to_another_version_names_ours(server: RunningServer) -> None:
    """426 says which version is spoken, and no second request is served."""
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


def test_another_version_with_more_behind_it_gets_the_same(
    bounded: RunningServer,
) -> None:
    """What follows a request of another version is dropped, and 426 names ours."""
    request = REQUEST.replace(b'Version: 13', b'Version: 8')
    with Peer(bounded.port) as peer:
        peer.send(request + b'GET /admin HTTP/1.1\r\nHost: x\r\n\r\n')
        head = peer.read_head()
        assert head.startswith('HTTP/1.1 426')
        assert 'Sec-WebSocket-Version: 13' in head
        assert 'Connection: close' in head


def test_other_methods_are_not_allowed(server: RunningServer) -> None:
    """A WebSocket is opened by GET: 405 says so."""
    with Peer(server.port) as peer:
        peer.send(REQUEST.replace(b'GET', b'POST'))
        head = peer.read_head()
        assert head.startswith('HTTP/1.1 405')
        assert 'Allow: GET' in head


@pytest.mark.parametrize(
    ('code', 'status'),
    [(None, 403), (1000, 403), (3399, 403), (3401, 401), (3404, 404), (3600, 403)],
)
def test_falcons_codes_become_statuses(code: int | None, status: int) -> None:
    """A close before the accept is 403, or the status that Falcon put into its code."""

    async def refuse(scope, receive, send) -> None:
        await receive()
        await send(
            {'type': 'websocket.close', **({} if code is None else {'code': code})}
        )

    with running(refuse) as up, Peer(up.port) as peer:
        assert status == peer.status()


def test_plain_http_goes_on(server: RunningServer) -> None:
    """A request without an upgrade is served by uvicorn's HTTP class."""
    with Peer(server.port) as peer:
        peer.send(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_frames_before_the_accept_are_not_lost() -> None:
    """What a client sends while the application decides is delivered after it."""

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


def test_frames_with_the_request_are_refused(bounded: RunningServer) -> None:
    """A client that does not wait for the answer at all gets 400."""
    with Peer(bounded.port) as peer:
        peer.send(REQUEST + frame(TEXT, b'early'))
        assert peer.read_head().startswith('HTTP/1.1 400')


def test_http_1_0_is_refused(bounded: RunningServer) -> None:
    """An upgrade needs HTTP/1.1."""
    with Peer(bounded.port) as peer:
        peer.send(REQUEST.replace(b'HTTP/1.1', b'HTTP/1.0'))
        assert peer.read_head().startswith('HTTP/1.1 505')


@pytest.mark.parametrize('end', [b'', b'\r\n\r\n'])
def test_endless_headers_are_cut(bounded: RunningServer, end: bytes) -> None:
    """A request head of more than 64 KiB gets 431, whole or not."""
    with Peer(bounded.port) as peer:
        head = b'GET / HTTP/1.1\r\nHost: x\r\n'
        lines = b''.join(b'X-%d: ' % i + b'y' * 6000 + b'\r\n' for i in range(20))
        peer.send(head + lines + end)
        assert peer.read_head().startswith('HTTP/1.1 431')


def test_a_large_body_is_not_a_large_head(bounded: RunningServer) -> None:
    """Only the head counts: a body of a megabyte passes."""
    with Peer(bounded.port) as peer:
        body = b'b' * 1_000_000
        peer.send(
            b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body)
        )
        peer.send(body)
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_pipelined_requests_are_not_one_head(bounded: RunningServer) -> None:
    """The body of a request does not count for the head of the next one."""
    body = b'b' * 100_000
    post = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body)
    with Peer(bounded.port) as peer:
        peer.send(post + body + b'GET / HTTP/1.1\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')
        assert b'over http' == peer._need(9)
        peer.send(b'Host: x\r\n\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200')


def test_an_idle_connection_has_no_deadline_for_a_head(
    bounded: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two requests uvicorn's keep-alive counts, not the head's deadline."""
    monkeypatch.setattr('falcon_channels.server.http.HEAD_TIMEOUT_S', 0.2)
    with Peer(bounded.port) as peer:
        for _ in range(2):
            peer.send(b'GET / HTTP/1.1\r\nHost: x\r\n\r\n')
            assert peer.read_head().startswith('HTTP/1.1 200')
            assert b'over http' == peer._need(9)
            assert not select.select([peer.sock], [], [], 0.5)[0]


@pytest.mark.parametrize('start', [b'', b'GET / HTTP/1.1\r\nHost:'])
def test_half_a_request_is_not_waited_for(
    bounded: RunningServer, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that never finishes its request head is closed with 408."""
    monkeypatch.setattr('falcon_channels.server.http.HEAD_TIMEOUT_S', 0.2)
    with Peer(bounded.port) as peer:
        peer.send(start)
        assert peer.read_head().startswith('HTTP/1.1 408')


def test_an_application_that_never_decides_is_not_waited_for(
    bounded: RunningServer,
) -> None:
    """After `open_timeout_s` the client gets 503 and the application the end."""
    with Peer(bounded.port) as peer:
        assert 503 == peer.status(path='/never')


def test_connections_of_one_address_are_limited(bounded: RunningServer) -> None:
    """One connection more than `max_connections_per_peer` gets 429."""
    wait_until(lambda: not bounded.connections, 'the others have gone')
    peers = [Peer(bounded.port).open() for _ in range(3)]
    with Peer(bounded.port) as fourth:
        assert 429 == fourth.status()
    peers[0].sock.close()
    wait_until(lambda: len(bounded.connections) == 2, 'one has gone')
    with Peer(bounded.port) as again:
        assert 101 == again.status()
    for peer in peers:
        peer.sock.close()


def test_limit_concurrency_holds_for_websockets() -> None:
    """uvicorn's own limit, which its classes do not look at, gets 503."""
    with running(app, limit_concurrency=1) as up, Peer(up.port) as first:
        first.open()
        with Peer(up.port) as second:
            assert 503 == second.status()


def test_the_access_log_hides_the_query_string(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A token in the query string is not logged, control characters are quoted."""
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
