"""Requests that the server answers without Falcon, and those that Falcon must get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import json
import logging
import re
from typing import Any

import falcon.asgi
import pytest
from support.processes import wait_until

from falcon_channels import Channels
from falcon_channels.server.options import ServerOptions
from server.running import Peer
from server.running import running
from server.running import RunningServer

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
KEY = 'a-key-for-the-server-api'
OTHER_KEY = 'a-key-for-the-server-apj'

#: Number of request objects that Falcon has made, by path.
seen: list[str] = []


class SeenRequest(falcon.asgi.Request):
    """A request of Falcon, which is written down."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seen.append(self.path)


class Calls:
    """The resource for `rpc`."""

    async def on_rpc(self, req: falcon.asgi.Request, call: Any) -> None:
        call.reply = req.path


def make_app(
    *middleware: object, resource: object = None, max_body_bytes: int = 1048576
) -> falcon.asgi.App[Any, Any]:
    channels = Channels()
    channels.add_route('rooms:{room}', None)
    app = falcon.asgi.App(middleware=[channels, *middleware], request_type=SeenRequest)
    channels.add_api(app, keys=KEY, resource=resource, max_body_bytes=max_body_bytes)
    return app


@contextlib.contextmanager
def serving(app: Any, **settings: Any) -> Iterator[RunningServer]:
    seen.clear()
    with running(app, http=HTTP, lifespan='on', **settings) as server:
        yield server


PUBLISH = json.dumps({'channel': 'rooms:a', 'data': {'text': 'hello'}}).encode()


def request(
    *lines: str,
    body: bytes = PUBLISH,
    first: str = 'POST /api/publish HTTP/1.1',
    key: str = f'X-API-Key: {KEY}',
    kind: str = 'Content-Type: application/json',
    length: str | None = None,
) -> bytes:
    length = f'Content-Length: {len(body)}' if length is None else length
    head = [first, 'Host: localhost', key, kind, *lines, length]
    return '\r\n'.join([*filter(None, head), '', '']).encode('latin-1') + body


def read_answer(peer: Peer) -> tuple[str, bytes]:
    """Return head, without the time, and body of the next response."""
    head = peer.read_head()
    length = re.search(r'content-length: (\d+)', head)
    assert length is not None, head
    return re.sub(r'date: [^\r]*', '', head), peer._need(int(length[1]))


def ask(server: RunningServer, data: bytes) -> tuple[str, bytes]:
    with Peer(server.port) as peer:
        peer.send(data)
        return read_answer(peer)


def test_answer_is_the_same_with_and_without_falcon() -> None:
    """Head and body of each response do not show who has answered."""
    bodies = {
        'publish': PUBLISH,
        'history': b'{"channel": "rooms:a", "limit": 10}',
        'batch': b'{"commands": [{"info": {"channel": ""}}, {"publish": {}}]}',
        'presence_stats': b'{"channel": "unknown:a"}',
        'broadcast': b'{"channels": ["rooms:a", "x:y"], "data": 1}',
        'rpc': b'{"method": "nothing"}',
        'nothing': b'{}',
        'publish"': b'not JSON',
    }
    with serving(make_app()) as server:
        for method, body in bodies.items():
            first = f'POST /api/{method} HTTP/1.1'
            direct = ask(server, request(first=first, body=body))
            assert seen == []
            by_falcon = ask(server, request('TE: trailers', first=first, body=body))
            assert seen == [f'/api/{method}']
            seen.clear()
            assert direct[0] == by_falcon[0]
            if method != 'publish':
                # Two publications have different offsets.
                assert re.sub(rb'"offset":\d+', b'', direct[1]) == re.sub(
                    rb'"offset":\d+', b'', by_falcon[1]
                )


@pytest.mark.parametrize(
    ('data', 'status'),
    [
        (request(key=f'X-API-Key: {OTHER_KEY}'), 401),
        (request(key=f'X-API-Key: {KEY} x'), 401),
        (request(key=''), 401),
        (request(key=f'Authorization: Bearer {KEY}'), 401),
        (request(f'X-API-Key: {KEY}'), 401),
        (request(kind=''), 415),
        (request(kind='Content-Type: text/plain'), 415),
        (request('Content-Encoding: gzip'), 415),
        (request(first=f'POST /api/publish?api_key={KEY} HTTP/1.1'), 400),
        (request(first='POST /api/publish?x=1 HTTP/1.1'), 200),
        (request(first='POST /api/publi%73h HTTP/1.1'), 200),
        (request(first='POST /api/publish/ HTTP/1.1'), 404),
        (request(first='POST /other HTTP/1.1'), 404),
        (request(first='PUT /api/publish HTTP/1.1'), 405),
        (request(body=PUBLISH.ljust(1001)), 413),
        (request('Connection: close'), 200),
        (request('Upgrade: h2c'), 200),
        (request('TE: trailers'), 200),
        (request('X-Forwarded-For: 192.0.2.1'), 200),
        (request(first='POST /api/publish HTTP/1.0'), 200),
        (
            request(
                'Transfer-Encoding: chunked',
                length='Accept: */*',
                body=b'%x\r\n%b\r\n0\r\n\r\n' % (len(PUBLISH), PUBLISH),
            ),
            200,
        ),
    ],
)
def test_unusual_and_refused_requests_go_to_falcon(data: bytes, status: int) -> None:
    """Only a usual request that is allowed is answered without Falcon."""
    logging.getLogger('uvicorn.access').propagate = True
    with serving(make_app(max_body_bytes=1000)) as server:
        with Peer(server.port) as peer:
            peer.send(data)
            head = peer.read_head()
        assert head.startswith(f'HTTP/1.1 {status} ')
        assert len(seen) == 1


@pytest.mark.parametrize(
    'data',
    [
        request('Transfer-Encoding: chunked'),
        request(f'Content-Length: {len(PUBLISH)}'),
        request('Content-Length: 0'),
        request(length=f'Content-Length: +{len(PUBLISH)}'),
        request('Name : value'),
        request(' folded'),
        request('Name: a\0b'),
        request().replace(b'\r\nHost', b'\nHost', 1),
    ],
)
def test_requests_that_parsers_may_read_differently_are_refused(data: bytes) -> None:
    """The parser refuses them as before: they could hide another request."""
    with serving(make_app()) as server, Peer(server.port) as peer:
        peer.send(data)
        assert peer.read_head().startswith('HTTP/1.1 400 ')
        assert seen == []


class Refusing:
    """Middleware that lets nobody pass."""

    async def process_request(self, req: Any, resp: Any) -> None:
        raise falcon.HTTPForbidden


class Marking:
    """Middleware that adds a header to each response."""

    async def process_response(
        self, req: Any, resp: Any, resource: Any, req_succeeded: bool
    ) -> None:
        resp.set_header('X-Mark', 'yes')


class Watching:
    """Middleware that is called with the resource."""

    async def process_resource(
        self, req: Any, resp: Any, resource: Any, params: Any
    ) -> None:
        resp.set_header('X-Mark', 'yes')


@pytest.mark.parametrize(
    ('middleware', 'start'),
    [
        (Refusing(), 'HTTP/1.1 403 '),
        (Marking(), 'HTTP/1.1 200 '),
        (Watching(), 'HTTP/1.1 200 '),
    ],
)
def test_middleware_of_the_app_is_called(middleware: object, start: str) -> None:
    """An app with middleware for HTTP gets each request."""
    with serving(make_app(middleware)) as server:
        head, _ = ask(server, request())
        assert head.startswith(start)
        assert ('x-mark: yes' in head) == ('200' in start)
        assert seen == ['/api/publish']


def test_middleware_of_asgi_is_called() -> None:
    """An app inside another ASGI application gets each request."""
    app = make_app()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    with serving(outer) as server:
        ask(server, request())
        assert seen == ['/api/publish']


class Own:
    """A resource of the app at a path of the server API."""

    async def on_post(self, req: Any, resp: Any) -> None:
        resp.media = 'own'


def test_route_of_the_app_comes_first() -> None:
    """Falcon prefers a path without fields, also if it was added later."""
    app = make_app()
    app.add_route('/api/publish', Own())
    with serving(app) as server:
        assert ask(server, request())[1] == b'"own"'
        assert seen == ['/api/publish']
        seen.clear()
        ask(server, request(first='POST /api/channels HTTP/1.1', body=b'{}'))
        assert seen == []


def test_responders_get_the_request() -> None:
    """`rpc` has a responder of the app, also in a batch."""
    with serving(make_app(resource=Calls())) as server:
        call = b'{"method": "x"}'
        rpc = request(first='POST /api/rpc HTTP/1.1', body=call)
        assert ask(server, rpc)[1] == b'{"result":{"data":"/api/rpc"}}'
        body = b'{"commands": [{"rpc": %b}]}' % call
        batch = request(first='POST /api/batch HTTP/1.1', body=body)
        assert b'"/api/batch"' in ask(server, batch)[1]
        assert seen == ['/api/rpc', '/api/batch']


def test_key_is_checked_in_each_request_of_a_connection() -> None:
    """After an accepted head, only the length of the body may be different."""
    with serving(make_app()) as server, Peer(server.port) as peer:
        peer.send(request())
        assert read_answer(peer)[0].startswith('HTTP/1.1 200 ')
        for body in (b'{}', PUBLISH.ljust(150), PUBLISH):
            peer.send(request(body=body))
            assert read_answer(peer)[0].startswith('HTTP/1.1 200 ')
        assert seen == []
        peer.send(request(key=f'X-API-Key: {OTHER_KEY}'))
        assert read_answer(peer)[0].startswith('HTTP/1.1 401 ')
        peer.send(request(key='X-Nothing: key-for-the-serv'))
        assert read_answer(peer)[0].startswith('HTTP/1.1 401 ')
        peer.send(request())
        assert read_answer(peer)[0].startswith('HTTP/1.1 200 ')
        assert len(seen) == 2


def test_key_is_checked_after_the_length_of_the_body() -> None:
    """A header behind `Content-Length` counts, too."""
    length = f'Content-Length: {len(PUBLISH)}\r\nX-API-Key: '
    allowed = request(key='', length=length + KEY)
    forged = request(key='', length=length + OTHER_KEY)
    with serving(make_app()) as server, Peer(server.port) as peer:
        for data, status in [(allowed, 200), (allowed, 200), (forged, 401)]:
            peer.send(data)
            assert read_answer(peer)[0].startswith(f'HTTP/1.1 {status} ')
        assert len(seen) == 1


def test_request_in_two_parts_is_answered() -> None:
    """The parts may be divided at any byte."""
    data = request()
    with serving(make_app()) as server, Peer(server.port) as peer:
        for size in range(1, len(data)):
            peer.send(data[:size])
            # NOTE: an answer to other bytes shows that the server has read the part.
            with Peer(server.port) as other:
                other.send(request())
                read_answer(other)
            peer.send(data[size:])
            head, body = read_answer(peer)
            assert head.startswith('HTTP/1.1 200 '), size
            assert json.loads(body)['result']['offset'] == 0
        # The parser reads each head that is divided.
        assert len(seen) == data.index(PUBLISH) - 1


def test_requests_that_follow_at_once_are_answered_in_order() -> None:
    """Pipelined requests are answered once each, in their order."""
    methods = ['publish', 'channels', 'nothing', 'publish', 'info'] * 3
    firsts = [f'POST /api/{method} HTTP/1.1' for method in methods]
    requests = [request(first=first, body=b'{}') for first in firsts]
    answers = [
        *(b'{"error":{"code":107', b'{"result":{"channels"', b'{"error":{"code":104'),
        *(b'{"error":{"code":107', b'{"result":{"nodes"'),
    ] * 3
    with serving(make_app()) as server:
        data = b''.join(requests)
        for size in (len(data), len(requests[0]), len(requests[0]) + 1, 700):
            with Peer(server.port) as peer:
                for start in range(0, len(data), size):
                    peer.send(data[start : start + size])
                for answer in answers:
                    assert read_answer(peer)[1].startswith(answer)


def test_body_that_does_not_arrive_is_refused() -> None:
    """A body has the same deadline as for Falcon."""
    options = ServerOptions(body_timeout_s=0.2)
    with serving(make_app(), options=options) as server, Peer(server.port) as peer:
        peer.send(request()[:-1])
        assert peer.read_head().startswith('HTTP/1.1 408 ')
        wait_until(lambda: not server.connections, 'the connection has ended')
        assert seen == []


def test_client_that_leaves_in_the_body_is_forgotten() -> None:
    """Half a body leaves nothing behind."""
    with serving(make_app()) as server:
        with Peer(server.port) as peer:
            peer.send(request()[:-1])
            wait_until(lambda: server.connections, 'the server knows the connection')
        wait_until(lambda: not server.connections, 'the connection has ended')
        assert not server.server.server_state.tasks


@pytest.mark.parametrize('rest', [b'', b'\r\n'])
def test_connection_ends_after_the_keep_alive_time(rest: bytes) -> None:
    """Bytes that begin no request do not keep the connection open."""
    with serving(make_app(), timeout_keep_alive=1) as server:
        with Peer(server.port) as peer:
            peer.send(request())
            read_answer(peer)
            peer.send(rest)
            assert peer.at_eof()


def test_access_log_has_each_request(caplog: pytest.LogCaptureFixture) -> None:
    """The lines are the same as those of requests that Falcon answers."""
    logging.getLogger('uvicorn.access').propagate = True
    with caplog.at_level(logging.INFO), serving(make_app()) as server:
        for lines in ([], ['TE: trailers']):
            first = 'POST /api/"a[ HTTP/1.1'
            with Peer(server.port) as peer:
                peer.send(request(*lines, first=first, body=b'{}'))
                read_answer(peer)
                port = peer.sock.getsockname()[1]
            assert caplog.messages[-1] == (
                f'127.0.0.1:{port} - "POST /api/%22a%5B HTTP/1.1" 200'
            )
        assert len(seen) == 1


class Slow:
    """A method that waits until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits = 0
        self._release = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        monkeypatch.setattr(
            'falcon_channels.server_api.methods.ApiMethods.call', self.call
        )

    async def call(self, name: str, body: bytes, req: Any) -> dict[str, Any]:
        self._loop = asyncio.get_running_loop()
        self.waits += 1
        await self._release.wait()
        if name == 'fail':
            raise RuntimeError('a defect')
        return {'result': name}

    def release(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._release.set)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


def test_stop_waits_for_the_answer(slow: Slow) -> None:
    """A server that stops answers first, and says that the connection ends."""
    with serving(make_app()) as server, Peer(server.port) as peer:
        peer.send(request())
        wait_until(lambda: slow.waits, 'the method is called')
        server.server.should_exit = True
        wait_until(
            lambda: not server.server.servers[0].is_serving(), 'the server stops'
        )
        slow.release()
        head, body = read_answer(peer)
        assert 'connection: close' in head
        assert body == b'{"result":"publish"}'
        assert peer.at_eof()


def test_client_that_leaves_does_not_hurt(slow: Slow) -> None:
    """The method runs to its end; nothing is written."""
    with serving(make_app()) as server:
        with Peer(server.port) as peer:
            peer.send(request())
            wait_until(lambda: slow.waits, 'the method is called')
        wait_until(lambda: not server.connections, 'the connection has ended')
        slow.release()
        wait_until(lambda: not server.server.server_state.tasks, 'the task has ended')
        assert ask(server, request())[1] == b'{"result":"publish"}'


def test_requests_behind_a_slow_one_wait(slow: Slow) -> None:
    """One request of a connection is answered at a time."""
    with serving(make_app()) as server, Peer(server.port) as peer:
        peer.send(request())
        wait_until(lambda: slow.waits, 'the method is called')
        peer.send(request(first='POST /api/next HTTP/1.1'))
        with Peer(server.port) as other:
            other.send(request())
            wait_until(lambda: slow.waits == 2, 'another connection is served')
        slow.release()
        assert read_answer(peer)[1] == b'{"result":"publish"}'
        assert read_answer(peer)[1] == b'{"result":"next"}'


def test_defect_is_answered_with_500(
    slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of a method is logged, and ends at most its connection."""
    with serving(make_app()) as server, Peer(server.port) as peer:
        peer.send(request(first='POST /api/fail HTTP/1.1'))
        wait_until(lambda: slow.waits, 'the method is called')
        slow.release()
        head, body = read_answer(peer)
        assert head.startswith('HTTP/1.1 500 ')
        assert 'connection: close' in head
        assert body == b'Internal Server Error'
        assert peer.at_eof()
        assert ask(server, request())[0].startswith('HTTP/1.1 200 ')
    assert any(
        record.exc_info and 'a defect' in str(record.exc_info[1])
        for record in caplog.records
    )
