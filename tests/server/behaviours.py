"""One application with a path for each behaviour of uvicorn's classes.

Scenarios are its clients; test_behaviours compares what they return.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import threading
from typing import Any

from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from server.running import BINARY
from server.running import CLOSE
from server.running import frame
from server.running import Peer
from server.running import running
from server.running import RunningServer
from server.running import TEXT


class RecordingApp:
    """An ASGI application that records its events by path."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    async def __call__(self, scope, receive, send) -> None:
        if scope['type'] == 'lifespan':
            return
        await receive()
        name = scope['path'].removeprefix('/mount').strip('/') or 'echo'
        await getattr(self, name)(scope, receive, send)

    def wait(self, name: str) -> Any:
        wait_until(lambda: name in self.seen, f'the application has seen {name}')
        return self.seen.pop(name)

    async def _until_disconnect(self, receive) -> tuple[int, str]:
        while (event := await receive())['type'] != 'websocket.disconnect':
            pass
        return event['code'], event.get('reason') or ''

    async def echo(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        while (event := await receive())['type'] == 'websocket.receive':
            await send({**event, 'type': 'websocket.send'})

    async def scope(self, scope, receive, send) -> None:
        self.seen['scope'] = scope
        await send({'type': 'websocket.accept'})
        await self._until_disconnect(receive)

    async def chosen(self, scope, receive, send) -> None:
        await send(
            {
                'type': 'websocket.accept',
                'subprotocol': scope['subprotocols'][1],
                'headers': [(b'x-one', b'1'), (b'x-one', b'2')],
            }
        )

    async def denied(self, scope, receive, send) -> None:
        await send({'type': 'websocket.close', 'code': 4000})
        self.seen['denied'] = await self._until_disconnect(receive)

    async def denied_with_a_response(self, scope, receive, send) -> None:
        await send(
            {
                'type': 'websocket.http.response.start',
                'status': 429,
                'headers': [(b'retry-after', b'7')],
            }
        )
        await send(
            {'type': 'websocket.http.response.body', 'body': b'too ', 'more_body': True}
        )
        await send({'type': 'websocket.http.response.body', 'body': b'many'})

    async def raises_first(self, scope, receive, send) -> None:
        raise ValueError('on purpose')

    async def raises_later(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        raise ValueError('on purpose')

    async def returns_first(self, scope, receive, send) -> None:
        return

    async def returns_later(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})

    async def watches(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        self.seen['watches'] = await self._until_disconnect(receive)

    async def sends_late(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        await self._until_disconnect(receive)
        try:
            await send({'type': 'websocket.send', 'text': 'late'})
        except OSError:
            self.seen['sends_late'] = 'OSError'
        except Exception as ex:
            self.seen['sends_late'] = type(ex).__name__
        else:
            self.seen['sends_late'] = 'nothing'

    async def closes(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        await send({'type': 'websocket.close', 'code': 4001, 'reason': 'bye'})
        self.seen['closes'] = await self._until_disconnect(receive)

    async def sends_after_close(self, scope, receive, send) -> None:
        await send({'type': 'websocket.accept'})
        await send({'type': 'websocket.close'})
        try:
            await send({'type': 'websocket.send', 'text': 'late'})
        except Exception as ex:
            self.seen['sends_after_close'] = type(ex).__name__

    async def undecided(self, scope, receive, send) -> None:
        self.seen['undecided'] = True
        self.seen['undecided_end'] = (await receive()).get('code')


Scenario = Callable[[RunningServer, RecordingApp], Any]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def _end(ws: Any) -> tuple[int, str]:
    """Return code and reason of the close frame that the server sends."""
    try:
        while True:
            ws.recv(timeout=15)
    except ConnectionClosed as ex:
        return (1006, '') if ex.rcvd is None else (ex.rcvd.code, ex.rcvd.reason)


def _refused(server: RunningServer, path: str) -> tuple[int, bytes]:
    try:
        connect(server.ws_url + path).close()
    except InvalidStatus as ex:
        return ex.response.status_code, bytes(ex.response.body)
    return 101, b''


@scenario
def text_and_bytes_are_echoed(server, app):
    with connect(server.ws_url) as ws:
        ws.send('é')
        ws.send(b'\xff')
        ws.send(['in ', 'fragments'])
        return ws.recv(), ws.recv(), ws.recv()


@scenario
def subprotocol_and_headers_of_the_accept(server, app):
    with connect(server.ws_url + '/chosen', subprotocols=['a', 'b']) as ws:
        headers = ws.response.headers
        return ws.subprotocol, headers.get_all('x-one'), 'date' in headers


@scenario
def scope_of_the_connection(server, app):
    with connect(server.ws_url + '/scope?a=%20', subprotocols=['x', 'y']):
        scope = app.wait('scope')
    return {
        key: scope[key]
        for key in ('type', 'http_version', 'scheme', 'path', 'raw_path', 'root_path')
    } | {
        'asgi': scope['asgi']['spec_version'],
        'query': scope['query_string'],
        'subprotocols': scope['subprotocols'],
        'lower': all(name == name.lower() for name, _ in scope['headers']),
        'extensions': sorted(scope['extensions']),
    }


@scenario
def proxy_headers_are_believed(server, app):
    headers = {'X-Forwarded-For': '1.2.3.4', 'X-Forwarded-Proto': 'https'}
    with connect(server.ws_url + '/scope', additional_headers=headers):
        scope = app.wait('scope')
    return scope['client'][0], scope['scheme']


@scenario
def close_before_accept(server, app):
    return _refused(server, '/denied')[0], app.wait('denied')[0]


@scenario
def denial_response(server, app):
    with Peer(server.port) as peer:
        head = peer.request(path='/denied_with_a_response')
        rest = peer._bytes
        while data := peer.sock.recv(65536):
            rest += data
    return head.split()[1], 'retry-after: 7' in head.lower(), rest


@scenario
def exception_before_accept(server, app):
    return _refused(server, '/raises_first')[0]


@scenario
def exception_after_accept(server, app):
    with connect(server.ws_url + '/raises_later') as ws:
        return _end(ws)[0]


@scenario
def return_before_accept(server, app):
    return _refused(server, '/returns_first')[0]


@scenario
def return_after_accept(server, app):
    with connect(server.ws_url + '/returns_later') as ws:
        return _end(ws)[0]


@scenario
def client_closes_with_a_code(server, app):
    with connect(server.ws_url + '/watches') as ws:
        ws.close(4321, 'ciao')
    return app.wait('watches')


@scenario
def client_closes_without_a_code(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/watches')
        peer.send(frame(CLOSE))
        answer = peer.frame()
    return app.wait('watches')[0], answer


@scenario
def link_is_cut(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/watches')
    return app.wait('watches')[0]


@scenario
def send_after_the_client_has_gone(server, app):
    with connect(server.ws_url + '/sends_late'):
        pass
    return app.wait('sends_late')


@scenario
def server_closes(server, app):
    with connect(server.ws_url + '/closes') as ws:
        return _end(ws), app.wait('closes')


@scenario
def send_after_close(server, app):
    with connect(server.ws_url + '/sends_after_close'):
        return app.wait('sends_after_close')


@scenario
def message_is_too_big(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/echo').send(frame(BINARY, b'x' * 70_000))
        return peer.close_code()


@scenario
def text_is_not_utf_8(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/watches').send(frame(TEXT, b'\xff'))
        code = peer.close_code()
    return code, app.wait('watches')[0]


@scenario
def frame_is_not_masked(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/watches').send(frame(TEXT, b'x', masked=False))
        code = peer.close_code()
    return code, app.wait('watches')[0]


@scenario
def length_is_not_minimal(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/echo').send(frame(TEXT, b'x', long_form=8))
        try:
            return peer.frame()[0]
        except EOFError:
            return None


@scenario
def deflate_is_offered(server, app):
    with connect(server.ws_url) as ws:
        return 'Sec-WebSocket-Extensions' in ws.response.headers


@scenario
def many_pings_at_once(server, app):
    with Peer(server.port) as peer:
        peer.open(path='/echo')
        peer.send(b''.join(frame(9, b'%d' % i) for i in range(40)))
        peer.send(frame(TEXT, b'end'))
        pongs = 0
        while (head := peer.frame()[0]) != 0x81:
            pongs += head == 0x8A
    return 'each' if pongs == 40 else 'fewer'


@scenario
def request_with_a_body(server, app):
    with Peer(server.port) as peer:
        peer.sock.settimeout(1)
        try:
            return peer.status('Content-Length: 5', body='hello')
        except TimeoutError:
            return 'no answer'


@scenario
def no_host(server, app):
    with Peer(server.port) as peer:
        return peer.status(without=('Host',))


@scenario
def version_12(server, app):
    with Peer(server.port) as peer:
        return peer.status(
            'Sec-WebSocket-Version: 12', without=('Sec-WebSocket-Version',)
        )


def shutdown(ws: str) -> Any:
    """Return the codes of clients and applications when the server stops."""
    app = RecordingApp()
    with running(app, ws=ws) as server:
        waiting = Peer(server.port)
        answers: list[Any] = []

        def wait_for_an_answer() -> None:
            with contextlib.suppress(AssertionError, OSError):
                answers.append(waiting.status(path='/undecided'))

        thread = threading.Thread(target=wait_for_an_answer)
        thread.start()
        app.wait('undecided')
        with connect(server.ws_url + '/watches') as client:
            server.server.should_exit = True
            code = _end(client)[0]
            told = app.wait('watches')[0]
        thread.join(15)
        waiting.sock.close()
        return code, told, answers


def keepalive(ws: str) -> Any:
    """Return the codes of both sides when a client answers no ping."""
    app = RecordingApp()
    with (
        running(app, ws=ws, ws_ping_interval=0.1, ws_ping_timeout=0.1) as server,
        Peer(server.port) as peer,
    ):
        peer.open(path='/watches')
        assert 0x89 == peer.frame()[0]
        code = peer.close_code()
        peer.sock.close()
        return code, app.wait('watches')[0]
