"""The opening handshake on WSGI, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
import re

import falcon
import pytest
from support.wsgi import frame
from support.wsgi import handshake
from support.wsgi import RawClient
from websockets.frames import Opcode

from falcon_channels.errors import OptionsError
from falcon_channels.wsgi import App

Dial = Callable[[App], RawClient]


class Echo:
    def on_get(self, req, resp):
        resp.text = 'plain'

    on_post = on_get

    def on_websocket(self, req, ws):
        for message in ws:
            ws.send(message)


@pytest.fixture
def app() -> App:
    app = App()
    app.add_route('/', Echo())
    return app


def ask(raw: RawClient, request: bytes) -> tuple[int, bytes]:
    """Send a request and a second one; return the status and all received bytes."""
    raw.sock.sendall(request + b'GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n')
    answer = raw.read_to_end()
    assert 1 == len(re.findall(rb'HTTP/1\.\d \d{3} ', answer)), answer
    return int(answer.split()[1]), answer


@pytest.mark.parametrize('value', ['', ' '])
def test_empty_header_of_subprotocols_is_treated_as_absent(
    dial: Dial, app: App, value: str
) -> None:
    """Some clients send the header without a value if they offer nothing."""
    raw = dial(app)
    raw.sock.sendall(handshake(Sec_WebSocket_Protocol=value))
    head = raw.read_head()
    assert head.startswith(b'HTTP/1.1 101 Switching Protocols\r\n')
    assert b'Protocol:' not in head


def test_handshake_of_a_browser_is_accepted(dial: Dial, app: App) -> None:
    """The sample key of RFC 6455 section 1.3 gets its sample answer."""
    raw = dial(app)
    raw.sock.sendall(handshake(Connection='keep-alive, Upgrade'))
    head = raw.read_head()
    assert head.startswith(b'HTTP/1.1 101 Switching Protocols\r\n')
    assert b'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n' in head
    assert b'Extensions' not in head


@pytest.mark.parametrize(
    ('headers', 'status'),
    [
        ({'Sec_WebSocket_Version': '8'}, 426),
        ({'Sec_WebSocket_Version': ''}, 426),
        ({'Sec_WebSocket_Key': ''}, 400),
        ({'Sec_WebSocket_Key': 'c2hvcnQ='}, 400),
        ({'Sec_WebSocket_Key': '!' * 24}, 400),
        ({'Sec_WebSocket_Key': 'A' * 9000}, 431),
        ({'Sec_WebSocket_Protocol': 'caf\xe9'}, 400),
        ({'Sec_WebSocket_Protocol': ','}, 400),
        ({'Sec_WebSocket_Extensions': 'permessage-deflate; ='}, 400),
        ({'Sec_WebSocket_Extensions': 'x; a="b'}, 400),
        ({'Content_Length': '5'}, 400),
        ({'Transfer_Encoding': 'chunked'}, 400),
        ({'Host': ''}, 400),
        ({'Host': 'localhost\r\nHost: other'}, 400),
        ({'Origin': 'http://evil.example'}, 403),
        ({'Origin': 'null'}, 403),
        ({'Origin': 'http://localhost.evil.example'}, 403),
        ({'Origin': 'https://localhost'}, 403),
        ({'Origin': 'http://localhost:444'}, 403),
        ({'Origin': 'http://localhost\r\nOrigin: http://localhost'}, 403),
        ({'Upgrade': 'websocket, h2c'}, 426),
    ],
)
def test_invalid_handshake_is_refused_and_the_connection_ends(
    headers: dict[str, str], status: int, dial: Dial, app: App
) -> None:
    """The client gets one response, and a request after it gets none."""
    found, answer = ask(dial(app), handshake(**headers))
    assert status == found
    assert b'Connection: close\r\n' in answer
    if status == 426 and 'Upgrade' not in headers:
        assert b'sec-websocket-version: 13\r\n' in answer.lower()


@pytest.mark.parametrize(
    ('line', 'status'),
    [(b'POST / HTTP/1.1', 405), (b'GET / HTTP/1.0', 505)],
)
def test_request_line_other_than_get_http_1_1_is_refused(
    line: bytes, status: int, dial: Dial, app: App
) -> None:
    """A WebSocket begins with a GET of HTTP/1.1."""
    request = handshake().replace(b'GET / HTTP/1.1', line)
    assert status == ask(dial(app), request)[0]


def test_upgrade_without_connection_upgrade_is_an_ordinary_request(
    dial: Dial, app: App
) -> None:
    """Upgrade without Connection: Upgrade is ignored (RFC 9110 section 7.8)."""
    raw = dial(app)
    raw.sock.sendall(handshake(Connection='close'))
    assert b'plain' == raw.read_to_end().partition(b'\r\n\r\n')[2]


def test_allowed_origin_may_connect(dial: Dial, app: App) -> None:
    """Allowed are the app's own origin and those of the options."""
    app.ws_options.allowed_origins = ['https://*.example.com']
    dial(app).shake_hands(Origin='https://chat.example.com')
    dial(app).shake_hands(Origin='http://localhost')
    assert 403 == ask(dial(app), handshake(Origin='https://example.com'))[0]


def test_allowed_origin_that_can_never_match_is_an_options_error(app: App) -> None:
    """A mistake in the list of origins is reported at start-up."""
    with pytest.raises(OptionsError, match='/path'):
        app.ws_options.allowed_origins = ['https://example.com/path']


def test_frame_together_with_the_handshake_is_the_first_message(
    dial: Dial, app: App
) -> None:
    """A frame in the same segment as the request is not lost."""
    raw = dial(app)
    raw.shake_hands(early=frame(Opcode.TEXT, b'early', mask=True))
    expected = frame(Opcode.TEXT, b'early')
    assert expected == raw.read(len(expected))


def test_accept_sends_subprotocol_and_headers(dial: Dial) -> None:
    """The 101 has the arguments of accept(); subprotocols keep the client's order."""

    class Chooses:
        def on_websocket(self, req, ws):
            assert ('one', 'two') == ws.subprotocols
            ws.accept('two', {'X-Room': '7'})

    app = App()
    app.add_route('/', Chooses())
    raw = dial(app)
    raw.sock.sendall(handshake(Sec_WebSocket_Protocol='one, two'))
    head = raw.read_head()
    assert b'Sec-WebSocket-Protocol: two\r\n' in head
    assert b'X-Room: 7\r\n' in head


@pytest.mark.parametrize(
    'arguments',
    [
        {'subprotocol': 'three'},
        {'headers': {'Sec-WebSocket-Protocol': 'one'}},
        {'headers': {'Upgrade': 'h2c'}},
        {'headers': [('X-Room', '7\r\nSet-Cookie: a=b')]},
        {'headers': [('X-Room\r\nSet-Cookie', 'a=b')]},
        {'headers': [('X-Room', 'é')]},
        {'headers': {'X Room': '7'}},
        {'headers': {'X-Room:': '7'}},
        {'headers': {'': '7'}},
    ],
)
def test_accept_with_invalid_arguments_raises_value_error(
    arguments: dict[str, object], dial: Dial
) -> None:
    """A subprotocol that was not offered and bad headers are errors of the caller."""

    class Mistakes:
        def on_websocket(self, req, ws):
            with pytest.raises(ValueError, match=r'subprotocol|header'):
                ws.accept(**arguments)
            ws.accept('one')
            ws.send('fine')

    app = App()
    app.add_route('/', Mistakes())
    raw = dial(app)
    raw.shake_hands(Sec_WebSocket_Protocol='one, two')
    expected = frame(Opcode.TEXT, b'fine')
    assert expected == raw.read(len(expected))


def test_compression_is_negotiated_only_if_it_is_switched_on(
    dial: Dial, app: App
) -> None:
    """An offer of permessage-deflate is declined by default."""
    offer = {'Sec_WebSocket_Extensions': 'permessage-deflate; client_max_window_bits'}
    raw = dial(app)
    raw.sock.sendall(handshake(**offer))
    assert b'deflate' not in raw.read_head()
    app.ws_options.compression = True
    raw = dial(app)
    raw.sock.sendall(handshake(**offer))
    assert b'Sec-WebSocket-Extensions: permessage-deflate' in raw.read_head()


def test_many_extension_offers_are_declined_or_refused(dial: Dial, app: App) -> None:
    """150 offers are declined, and 2000 offers are refused."""
    app.ws_options.compression = True
    offers = ', '.join(['permessage-deflate; client_max_window_bits=7'] * 150)
    raw = dial(app)
    raw.sock.sendall(handshake(Sec_WebSocket_Extensions=offers))
    assert raw.read_head().startswith(b'HTTP/1.1 101 ')
    offers = ', '.join(['permessage-deflate'] * 2000)
    assert 431 == ask(dial(app), handshake(Sec_WebSocket_Extensions=offers))[0]


@pytest.mark.parametrize(
    ('name', 'value'),
    [('X\r\nX-Added', '7'), ('X Room', '7'), ('', '7'), ('X', '7\r\nX-Added: 7')],
)
def test_refusal_with_an_illegal_header_becomes_500(
    name: str, value: str, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    """A name cannot add a header, and the client gets an answer."""

    class Refusing:
        def on_websocket(self, req, ws):
            raise falcon.HTTPForbidden(headers={name: value})

    app = App()
    app.add_route('/', Refusing())
    status, answer = ask(dial(app), handshake())
    assert 500 == status
    assert b'added' not in answer.lower()
    assert 'The response to a handshake cannot be written' in caplog.text
