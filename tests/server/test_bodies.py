"""Bodies: trailers, ignored upgrades, and connections that stay open after them."""

from __future__ import annotations

import pytest
from support.processes import wait_until

from falcon_channels.server.http_requests import MAX_HEAD_BYTES
from server.running import Peer
from server.running import running

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'

CHUNKED = (
    b'POST /%s HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n'
    b'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n'
)


class Headers:
    """An application that answers with the headers of the request."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.events: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        body = b''
        # NOTE: a path `/unread` is answered before its body has arrived.
        while scope['path'] != '/unread':
            event = await receive()
            self.events.append(event['type'])
            body += event.get('body', b'')
            if not event.get('more_body'):
                break
        self.bodies.append(body)
        answer = f'{dict(scope["headers"])} from {scope["client"][0]!r}'.encode()
        headers = [(b'content-length', b'%d' % len(answer))]
        await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
        await send({'type': 'http.response.body', 'body': answer})


def test_trailers_are_not_added_to_the_headers() -> None:
    """A trailer cannot replace a header that a proxy has set (RFC 9110 6.5.1)."""
    app = Headers()
    with running(app, http=HTTP, proxy_headers=True) as server:
        with Peer(server.port) as peer:
            peer.send(
                CHUNKED % b'' + b'X-Forwarded-For: 203.0.113.9\r\n'
                b'Authorization: stolen\r\nExpect: 100-continue\r\n\r\n'
            )
            assert peer.read_head().startswith('HTTP/1.1 200 ')
            peer.read_until(b"from '192.0.2.1'")
            peer.send(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
            peer.read_until(b"{b'host': b'localhost'} from '127.0.0.1'")
        assert app.bodies == [b'body', b'']


@pytest.mark.parametrize('line', [b'x-name: value\r\n' * 64, b'x' * 1024])
def test_trailers_without_end_are_refused(line: bytes) -> None:
    """Trailers have the same limit as a head, whether they are many or one."""
    app = Headers()
    with running(app, http=HTTP) as server:
        with Peer(server.port) as peer:
            peer.send(CHUNKED % b'')
            wait_until(lambda: app.events, 'the body has arrived')
            peer.send(line * (MAX_HEAD_BYTES // len(line) + 1))
            assert peer.read_head().startswith('HTTP/1.1 431 ')
        wait_until(lambda: app.events[-1:] == ['http.disconnect'], 'the app is told')
        wait_until(lambda: not server.connections, 'the connection has ended')


def test_body_of_many_small_chunks_is_received() -> None:
    """The limit of trailers does not count the heads of chunks that have content."""
    app = Headers()
    count = MAX_HEAD_BYTES // 3
    with running(app, http=HTTP) as server, Peer(server.port) as peer:
        peer.send((CHUNKED % b'').removesuffix(b'0\r\n'))
        for _ in range(64):
            peer.send(b'1\r\n')
            peer.send(b'x\r\n' + b'1\r\nx\r\n' * (count // 64))
        peer.send(b'0\r\n\r\n')
        assert peer.read_head().startswith('HTTP/1.1 200 ')
        assert app.bodies == [b'body' + b'x' * (64 + count // 64 * 64)]


@pytest.mark.parametrize(
    ('head', 'rest'),
    [
        (b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', b'\r\n'),
        (
            b'POST /unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n',
            b'body',
        ),
    ],
)
def test_bytes_that_begin_no_request_do_not_keep_a_connection_open(
    head: bytes, rest: bytes
) -> None:
    """A connection without an unfinished request ends after the keep-alive time."""
    app = Headers()
    with running(app, http=HTTP, timeout_keep_alive=1) as server:
        with Peer(server.port) as peer:
            peer.send(head)
            peer.read_until(b"from '127.0.0.1'")
            peer.send(rest)
            assert peer.at_eof()


H2C = b'Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n'


@pytest.mark.parametrize('at_once', [True, False])
@pytest.mark.parametrize('kind', ['length', 'chunked'])
def test_body_after_an_upgrade_that_is_ignored_belongs_to_its_request(
    kind: str, at_once: bool
) -> None:
    """A body is never parsed as a request, whatever upgrade the client asks for."""
    app = Headers()
    body = b'GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n'
    if kind == 'length':
        head = b'POST / HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n' % (H2C, len(body))
        sent = body
    else:
        head = b'POST / HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n' % H2C
        sent = b'%x\r\n%b\r\n0\r\n\r\n' % (len(body), body)
    with running(app, http=HTTP) as server, Peer(server.port) as peer:
        if at_once:
            peer.send(head + sent)
        else:
            peer.send(head + sent[:10])
            wait_until(lambda: app.events, 'the first part has arrived')
            peer.send(sent[10:])
        assert peer.read_head().startswith('HTTP/1.1 200 ')
        peer.read_until(b"from '127.0.0.1'")
        peer.send(b'GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n')
        peer.read_until(b"{b'host': b'localhost'} from '127.0.0.1'")
    assert app.bodies == [body, b'']


def test_requests_with_ignored_upgrades_are_answered_in_order() -> None:
    """Requests that follow in one chunk are not lost, and the last is a handshake."""
    app = Headers()
    get = b'GET /%d HTTP/1.1\r\n' + H2C + b'X-Number: %d\r\n\r\n'
    with running(app, http=HTTP) as server, Peer(server.port) as peer:
        peer.send(b''.join(get % (number, number) for number in range(10)))
        for number in range(10):
            peer.read_until(b"b'x-number': b'%d'} from" % number)
        assert 400 == peer.status(without=('Sec-WebSocket-Key',))
    assert app.bodies == [b''] * 10


@pytest.mark.parametrize('target', ['localhost:80', '/', 'http://localhost/'])
def test_connect_is_refused(target: str) -> None:
    """A client cannot ask for a tunnel; bytes after the head are no request."""
    app = Headers()
    get = 'GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n'
    with running(app, http=HTTP) as server, Peer(server.port) as peer:
        head = f'CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n{get}'
        peer.send(head.encode())
        assert peer.read_head().split()[1] in ('400', '501')
        peer.at_eof()
    assert [] == app.bodies
