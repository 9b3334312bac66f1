"""Attacks on the handshake, rows H1 to H16 of docs/security.md."""

from __future__ import annotations

from collections.abc import Iterable

from attacks.conftest import Victim
from attacks.targets import expected
from attacks.targets import Target
import pytest
from support.processes import wait_until
from support.rawsocket import CLOSE
from support.rawsocket import close_payload
from support.rawsocket import ClosedByServer
from support.rawsocket import frame
from support.rawsocket import KEY
from support.rawsocket import PATIENCE_S
from support.rawsocket import RawSocket
from support.rawsocket import SILENCE_S
from support.rawsocket import TEXT

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.timeout(120),
]


def patience_s(outcomes: Iterable[str]) -> float:
    """Return the timeout for an outcome that may be known not to come."""
    known = any(outcome.endswith(('silence', 'stays')) for outcome in outcomes)
    return SILENCE_S if known else PATIENCE_S


def answer(sock: RawSocket, outcomes: Iterable[str]) -> str:
    """Return the first answer: a status, 'eof' or 'silence'."""
    sock.sock.settimeout(patience_s(outcomes))
    try:
        return str(sock.read_response().status)
    except ClosedByServer:
        return 'eof'
    except TimeoutError:
        return 'silence'
    finally:
        sock.sock.settimeout(PATIENCE_S)


def check(server: Victim, request: bytes, outcomes: set[str]) -> None:
    """Send a request; its answer must be one of the outcomes."""
    with server.connect() as sock:
        sock.send(request)
        assert answer(sock, outcomes) in outcomes
    with server.connect() as sock:
        sock.open()
        assert 'Message text was: still here' == sock.echo('still here')


@pytest.mark.parametrize(
    'origins',
    [
        ['https://evil.example'],
        ['null'],
        ['http://127.0.0.1.evil.example'],
        ['http://127.0.0.1:1'],
        ['https://{host}'],
        ['http://{host}/'],
        ['http://{host}', 'http://{host}'],
        ['http://{host}', 'https://evil.example'],
    ],
)
def test_h1_foreign_origin_is_refused(
    server: Victim, target: Target, origins: list[str]
) -> None:
    """H1: A page of any other origin is refused before the accept."""
    host = f'127.0.0.1:{server.port}'
    add = [('Origin', origin.replace('{host}', host)) for origin in origins]
    outcomes = expected('H1', target, '403', '400')
    check(server, server.handshake(add=add), outcomes)


@pytest.mark.parametrize('origins', [[], ['http://{host}'], ['HTTP://{host}']])
def test_h1_own_origin_or_none_is_accepted(server: Victim, origins: list[str]) -> None:
    """H1: The site's own pages, and clients that are not browsers, may connect."""
    host = f'127.0.0.1:{server.port}'
    with server.connect() as sock:
        sock.open(add=[('Origin', origin.format(host=host)) for origin in origins])
        assert 'Message text was: hello' == sock.echo('hello')


@pytest.mark.parametrize(
    'hosts', [[], ['127.0.0.1:{port}', '127.0.0.1:{port}'], ['a', 'b']]
)
def test_h2_request_without_exactly_one_host_is_refused(
    server: Victim, target: Target, hosts: list[str]
) -> None:
    """H2: A request without exactly one Host is refused."""
    add = [('Host', host.format(port=server.port)) for host in hosts]
    request = server.handshake(drop=['Host'], add=add)
    check(server, request, expected('H2', target, '400'))


@pytest.mark.parametrize('version', ['8', '12', '0', '13, 8', 'x'])
def test_h3_unsupported_version_is_refused_and_the_connection_ends(
    server: Victim, target: Target, version: str
) -> None:
    """H3: After a refused upgrade, further bytes are not read."""
    request = server.handshake(
        drop=['Sec-WebSocket-Version'],
        add=[('Sec-WebSocket-Version', version)],
    )
    smuggled = b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
    with server.connect() as sock:
        sock.send(request + smuggled)
        response = sock.read_response()
        assert response.status in (400, 426)
        assert 'close' in response.headers.get('connection', 'close')
        outcomes = expected('H3 end', target, 'ended')
        if 'read, stays' in outcomes:
            sock.wait_for(b'HTTP/1.1')
        try:
            rest, found = sock.read_rest(patience_s(outcomes)), 'ended'
        except TimeoutError:
            rest, found = sock.taken(), 'stays'
        assert ('read, ' if b'HTTP/1.1' in rest else '') + found in outcomes
    outcomes = expected('H3 version', target, '13')
    named = response.headers.get('sec-websocket-version', 'none')
    assert named in outcomes
    assert response.status == 426 or named == 'none'


BODIES = {
    'length': ('Content-Length: 5', b'hello'),
    'chunked': ('Transfer-Encoding: chunked', b'5\r\nhello\r\n0\r\n\r\n'),
}


@pytest.mark.parametrize('kind', list(BODIES))
def test_h4_handshake_with_a_body_is_refused(
    server: Victim, target: Target, kind: str
) -> None:
    """H4: An upgrade with a body gets an answer."""
    header, body = BODIES[kind]
    name, value = header.split(': ')
    request = server.handshake(add=[(name, value)]) + body
    check(server, request, expected(f'H4 {kind}', target, '400'))


@pytest.mark.parametrize('later', [False, True], ids=['at-once', 'later'])
def test_h5_bytes_after_a_close_frame_are_no_request(
    server: Victim, later: bool
) -> None:
    """H5: They are never parsed as an HTTP request (request smuggling)."""
    close = frame(CLOSE, close_payload(1000))
    smuggled = f'GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n'.encode()
    with server.connect() as sock:
        sock.open()
        if later:
            sock.send(close)
            assert (CLOSE, close_payload(1000)) == sock.read_frame()[:2]
            sock.send(smuggled)
            assert b'' == sock.read_rest()
        else:
            sock.send(close + smuggled)
            assert b'HTTP' not in sock.read_rest()


KEYS = {
    'none': [],
    'short': ['dGhlIHNhbXBsZQ=='],
    'not-base64': ['!!!!IHNhbXBsZSBub25jZQ=='],
    'twice': [KEY, KEY],
}


@pytest.mark.parametrize('keys', list(KEYS))
def test_h6_handshake_without_exactly_one_valid_key_is_refused(
    server: Victim, target: Target, keys: str
) -> None:
    """H6: The key has 16 bytes in base64."""
    request = server.handshake(
        drop=['Sec-WebSocket-Key'],
        add=[('Sec-WebSocket-Key', key) for key in KEYS[keys]],
    )
    check(server, request, expected(f'H6 {keys}', target, '400'))


def test_h6_handshake_by_post_is_refused(server: Victim, target: Target) -> None:
    """H6: A WebSocket is opened by GET only."""
    request = server.handshake(method='POST')
    check(server, request, expected('H6 POST', target, '400', '405'))
    with server.connect() as sock:
        sock.send(request)
        response = sock.read_response()
        if 405 == response.status:
            assert 'GET' in response.headers['allow'].split(', ')


def test_h6_handshake_over_http_1_0_is_refused(server: Victim, target: Target) -> None:
    """H6: HTTP/1.0 cannot upgrade."""
    request = server.handshake(version='HTTP/1.0')
    outcomes = expected('H6 HTTP/1.0', target, '400', '426', '505')
    check(server, request, outcomes)


@pytest.mark.parametrize(
    'connection', ['keep-alive, Upgrade', 'upgrade', 'UPGRADE,keep-alive']
)
def test_h7_connection_header_with_several_tokens_is_accepted(
    server: Victim, connection: str
) -> None:
    """H7: Firefox sends Upgrade as one token of a list."""
    request = server.handshake(drop=['Connection'], add=[('Connection', connection)])
    check(server, request, {'101'})


H2C = [('Upgrade', 'h2c'), ('HTTP2-Settings', 'AAMAAABkAAQAAP__')]
HALF_UPGRADES: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    'h2c': (['Upgrade'], H2C),
    'no Connection': (['Connection'], []),
    'keep-alive': (['Connection'], [('Connection', 'keep-alive')]),
    'no Upgrade': (['Upgrade'], []),
}


@pytest.mark.parametrize('half', list(HALF_UPGRADES))
def test_h8_incomplete_upgrade_is_plain_http_or_refused(
    server: Victim, target: Target, half: str
) -> None:
    """H8: Only a complete upgrade to WebSocket opens one."""
    drop, add = HALF_UPGRADES[half]
    outcomes = expected(f'H8 {half}', target, '200', '400')
    check(server, server.handshake(drop=drop, add=add), outcomes)


HEADERS = {
    'line of 70 KB': [('X-Long', 'a' * 70_000)],
    'line of 1 MB': [('X-Long', 'a' * 1_000_000)],
    '130 lines': [(f'X-{n}', 'a') for n in range(130)],
    '5000 lines': [(f'X-{n}', 'a') for n in range(5000)],
}


@pytest.mark.parametrize('headers', list(HEADERS))
def test_h9_too_many_or_too_long_headers_are_refused(
    server: Victim, target: Target, headers: str
) -> None:
    """H9: The client gets an answer or the end of the connection."""
    outcomes = expected(f'H9 {headers}', target, '400', '431', 'eof')
    check(server, server.handshake(add=HEADERS[headers]), outcomes)


def test_h10_incomplete_request_is_dropped_within_15_s(
    server: Victim, target: Target
) -> None:
    """H10: This is also true for a connection without any byte."""
    with server.connect() as half, server.connect() as idle:
        half.send(server.handshake()[:-2])
        for row, sock in (('H10 half', half), ('H10 none', idle)):
            outcomes = expected(row, target, 'eof', '400', '408')
            sock.sock.settimeout(min(15.0, patience_s(outcomes)))
            try:
                found = str(sock.read_response().status)
            except ClosedByServer:
                found = 'eof'
            except TimeoutError:
                found = 'silence'
            assert found in outcomes


@pytest.mark.parametrize(
    'more',
    ['h\xffllo', '?x=\xe9', 'hel\x01lo', '?x=\x00', '?x=\x7f'],
)
def test_h11_path_with_raw_bytes_is_refused(
    server: Victim, target: Target, more: str
) -> None:
    """H11: Raw bytes outside of ASCII and control characters are refused."""
    check(
        server,
        server.handshake(path=server.path + more),
        expected('H11 raw', target, '400'),
    )


def test_h11_encoded_line_end_splits_neither_headers_nor_log_lines(
    server: Victim, target: Target
) -> None:
    """H11: A path with an encoded line end cannot forge log lines."""
    path = '/no%0d%0aX-Evil:%20yes%0d%0aINFO:%20forged'
    with server.connect() as sock:
        sock.send(server.handshake(path=path))
        response = sock.read_response()
        assert response.status in (400, 403, 404)
        assert 'x-evil' not in response.headers
        # NOTE: The line may come after the answer, but before the next answer.
        check(server, server.handshake(), {'101'})
    if 'forged' in expected('H11 log', target, 'quiet'):
        wait_until(lambda: '\nINFO: forged' in server.log(), 'a forged line')
    else:
        assert '\nINFO: forged' not in server.log()
        assert '\r' not in server.log()


def test_h11_token_in_the_query_string_is_not_logged(
    server: Victim, target: Target
) -> None:
    """H11: Query strings carry tokens."""
    with server.connect() as sock:
        sock.open(query='?token=SECRET')
        assert 'Message text was: hello' == sock.echo('hello')
    found = 'shown' if 'SECRET' in server.log() else 'hidden'
    assert found in expected('H11 token', target, 'hidden')


NEGOTIATIONS = {
    'subprotocol not ASCII': [('Sec-WebSocket-Protocol', 'ch\xe4t')],
    '2000 extensions': [('Sec-WebSocket-Extensions', ', '.join(['x-a; b=c'] * 2000))],
    'malformed extension': [('Sec-WebSocket-Extensions', 'permessage-deflate; =')],
    'unclosed quote': [('Sec-WebSocket-Extensions', 'x; a="' + '\\"' * 1000)],
}
# NOTE: Two thousand offers are legal.
NEGOTIATED = dict.fromkeys(NEGOTIATIONS, ('400', '431'))
NEGOTIATED['2000 extensions'] = ('400', '431', '101')


@pytest.mark.parametrize('offer', list(NEGOTIATIONS))
def test_h12_malformed_offer_is_refused_without_a_traceback(
    server: Victim, target: Target, offer: str
) -> None:
    """H12: A malformed offer of extensions or subprotocols is refused at once."""
    outcomes = expected(f'H12 {offer}', target, *NEGOTIATED[offer])
    before = len(server.log())
    check(server, server.handshake(add=NEGOTIATIONS[offer]), outcomes)
    if offer == 'subprotocol not ASCII' and 'traceback' in expected('H12 log', target):
        # NOTE: The traceback may come after the answer to the next client.
        wait_until(lambda: 'Traceback' in server.log()[before:], 'a traceback')
    else:
        assert 'Traceback' not in server.log()[before:]


def test_h13_frame_sent_with_the_handshake_is_not_lost(
    server: Victim, target: Target
) -> None:
    """H13: The frame is answered, or the connection ends."""
    outcomes = expected('H13', target, 'answered', 'failed')
    with server.connect() as sock:
        sock.send(server.handshake() + frame(TEXT, b'early'))
        found = 'failed'
        if 101 == sock.read_response().status:
            sock.send(frame(TEXT, b'second'))
            message = sock.read_message()
            if message.payload == b'Message text was: early':
                found = 'answered'
            elif message.payload == b'Message text was: second':
                found = 'lost'
            else:
                assert CLOSE == message.opcode
        assert found in outcomes


def test_h16_refusal_has_the_status_of_the_app(server: Victim, target: Target) -> None:
    """H16: An unknown path is refused with 404."""
    request = server.handshake(path='/nowhere')
    check(server, request, expected('H16', target, '404'))
