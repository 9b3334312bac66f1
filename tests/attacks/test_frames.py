"""Attacks with frames, rows F1 to F6, F12 and F13 of docs/security.md."""

from __future__ import annotations

from attacks.conftest import Victim
from attacks.targets import expected
from attacks.targets import Target
import pytest
from support.rawsocket import BINARY
from support.rawsocket import CLOSE
from support.rawsocket import close_payload
from support.rawsocket import ClosedByServer
from support.rawsocket import CONTINUATION
from support.rawsocket import Frame
from support.rawsocket import frame
from support.rawsocket import PATIENCE_S
from support.rawsocket import PING
from support.rawsocket import PONG
from support.rawsocket import SILENCE_S
from support.rawsocket import TEXT

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.timeout(120),
]

MAX_TEXT_BYTES = 1024 * 1024


def outcome(found: Frame) -> str:
    """Return the code of a close frame, or another outcome."""
    if found.opcode != CLOSE:
        return 'answered'
    return str(int.from_bytes(found.payload[:2], 'big')) if found.payload else 'no code'


def check(server: Victim, sent: bytes, outcomes: set[str]) -> None:
    """Send frames; the first message back must be one of the outcomes.

    After an error the server must also end the TCP connection.
    """
    found = 'nothing'
    with server.connect() as sock:
        sock.open()
        sock.push_and_read(sent)
        sock.sock.settimeout(SILENCE_S if 'nothing, stays' in outcomes else PATIENCE_S)
        try:
            found = outcome(sock.read_message())
            if found != 'answered':
                stays = f'{found}, stays' in outcomes
                sock.read_rest(SILENCE_S if stays else PATIENCE_S)
        except ClosedByServer:
            found = 'eof'
        except TimeoutError:
            found = f'{found}, stays'
        assert found in outcomes


def test_f1_unmasked_frame_closes_with_1002(server: Victim, target: Target) -> None:
    """F1: An unmasked frame of a client ends the connection with 1002."""
    check(server, frame(TEXT, b'hello', key=None), expected('F1', target, '1002'))


@pytest.mark.parametrize('opcode', [TEXT, BINARY, PING, CLOSE, CONTINUATION])
@pytest.mark.parametrize('rsv', [1, 2, 4, 7])
def test_f2_reserved_bit_closes_with_1002(
    server: Victim, target: Target, opcode: int, rsv: int
) -> None:
    """F2: A reserved bit needs the extension that defines it."""
    payload = close_payload(1000) if opcode == CLOSE else b'hello'
    check(server, frame(opcode, payload, rsv=rsv), expected('F2', target, '1002'))


FRAMES = {
    'opcode 3': frame(3, b'a'),
    'opcode 11': frame(11, b'a'),
    'continuation of nothing': frame(CONTINUATION, b'a'),
    'text inside a message': frame(TEXT, b'a', fin=False) + frame(TEXT, b'b'),
    'binary inside a message': frame(TEXT, b'a', fin=False) + frame(BINARY, b'b'),
    'fragmented ping': frame(PING, b'a', fin=False),
    'fragmented close': frame(CLOSE, close_payload(1000), fin=False),
    'ping of 126 bytes': frame(PING, b'a' * 126),
    'close of 126 bytes': frame(CLOSE, close_payload(1000, b'a' * 124)),
}


@pytest.mark.parametrize('name', list(FRAMES))
def test_f3_unknown_or_misplaced_frame_closes_with_1002(
    server: Victim, target: Target, name: str
) -> None:
    """F3: Unknown kinds, and frames at illegal places, are refused."""
    check(server, FRAMES[name], expected('F3', target, '1002'))


def test_f3_control_frame_within_a_message_is_answered(server: Victim) -> None:
    """F3: Control frames may come between the fragments of a message."""
    with server.connect() as sock:
        sock.open()
        sock.send(frame(TEXT, b'hel', fin=False) + frame(PING, b'now'))
        assert (PONG, b'now') == sock.read_frame()[:2]
        sock.send(frame(PONG, b'unasked') + frame(CONTINUATION, b'lo'))
        assert b'Message text was: hello' == sock.read_message().payload


TEXTS = {
    'whole': frame(TEXT, b'caf\xe9'),
    'split': frame(TEXT, b'a\xe2', fin=False) + frame(CONTINUATION, b'\x28\xa1'),
    'cut short': frame(TEXT, b'a\xf0\x9f\x98'),
    'surrogate': frame(TEXT, b'\xed\xa0\x80'),
    'overlong': frame(TEXT, b'\xc0\xaf'),
    'too high': frame(TEXT, b'\xf4\x90\x80\x80'),
}


@pytest.mark.parametrize('name', list(TEXTS))
def test_f4_invalid_utf8_closes_with_1007_without_a_traceback(
    server: Victim, target: Target, name: str
) -> None:
    """F4: A text that is not UTF-8 must not fill the log."""
    before = len(server.log())
    check(server, TEXTS[name], expected('F4', target, '1007'))
    found = 'traceback' if 'Traceback' in server.log()[before:] else 'quiet'
    assert found in expected('F4 log', target, 'quiet')


def test_f4_character_split_over_fragments_is_joined(server: Victim) -> None:
    """F4: A character may be split over fragments and over TCP segments."""
    euro = '\u20ac'.encode()
    with server.connect() as sock:
        sock.open()
        sent = frame(TEXT, euro[:1], fin=False) + frame(CONTINUATION, euro[1:])
        for byte in sent:
            sock.send(bytes([byte]))
        assert 'Message text was: \u20ac' == sock.read_message().payload.decode()


LENGTHS = {
    'top bit': frame(TEXT, b'abc', length=1 << 63, length_bytes=8),
    '2^62': frame(TEXT, b'abc', length=1 << 62, length_bytes=8),
    '64 MB': frame(TEXT, b'abc', length=64_000_000),
}


@pytest.mark.parametrize('name', list(LENGTHS))
def test_f5_illegal_length_is_refused_before_its_payload(
    server: Victim, target: Target, name: str
) -> None:
    """F5: A length that is not allowed is refused at once."""
    check(server, LENGTHS[name], expected(f'F5 {name}', target, '1002', '1009'))


@pytest.mark.parametrize('length_bytes', [2, 8])
def test_f5_length_of_too_many_bytes_is_refused(
    server: Victim, target: Target, length_bytes: int
) -> None:
    """F5: A length must be written in the minimal number of bytes."""
    sent = frame(TEXT, b'abc', length_bytes=length_bytes)
    check(server, sent, expected('F5 not minimal', target, '1002'))


def test_f6_message_of_the_largest_size_passes(server: Victim) -> None:
    """F6: It passes whole and in fragments."""
    part = b'a' * (MAX_TEXT_BYTES // 4)
    with server.connect() as sock:
        sock.open()
        for sent in (
            frame(TEXT, part * 4),
            frame(TEXT, part, fin=False)
            + frame(CONTINUATION, part, fin=False) * 2
            + frame(CONTINUATION, part),
        ):
            sock.push_and_read(sent)
            assert b'Message text was: ' + part * 4 == sock.read_message().payload


def test_f6_message_over_the_limit_closes_with_1009(
    server: Victim, target: Target
) -> None:
    """F6: One byte over the limit ends the connection with 1009."""
    sent = frame(TEXT, b'a' * (MAX_TEXT_BYTES + 1))
    check(server, sent, expected('F6', target, '1009'))


def test_f6_fragments_over_the_limit_close_with_1009(
    server: Victim, target: Target
) -> None:
    """F6: Fragments are refused when their sum exceeds the limit."""
    part = frame(CONTINUATION, b'a' * 65536, fin=False)
    # NOTE: A server may end the connection while bytes are still arriving. TCP then
    # loses its close frame on the way.
    outcomes = expected('F6 fragments', target, '1009', 'eof')
    check(server, frame(TEXT, b'a', fin=False) + part * 300, outcomes)


@pytest.mark.parametrize(
    'code',
    [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535],
)
def test_f12_illegal_close_code_is_answered_with_1002(
    server: Victim, target: Target, code: int
) -> None:
    """F12: Some close codes must not be sent."""
    sent = frame(CLOSE, close_payload(code))
    check(server, sent, expected('F12', target, '1002'))


@pytest.mark.parametrize(
    ('payload', 'code'), [(b'\x03', '1002'), (close_payload(1000, b'\xff'), '1007')]
)
def test_f12_malformed_close_payload_is_answered_with_its_code(
    server: Victim, target: Target, payload: bytes, code: str
) -> None:
    """F12: Half a code is 1002, and a reason that is not UTF-8 is 1007."""
    check(server, frame(CLOSE, payload), expected('F12 payloads', target, code))


@pytest.mark.parametrize(
    'payload',
    [b'', *(close_payload(code, b'bye') for code in (1000, 1001, 1003, 3000, 4999))],
)
def test_f12_legal_close_is_answered_with_its_own_code(
    server: Victim, payload: bytes
) -> None:
    """F12: A close frame without a code is answered without a code."""
    with server.connect() as sock:
        sock.open()
        sock.send(frame(CLOSE, payload))
        answer = sock.read_frame()
        assert CLOSE == answer.opcode
        assert payload[:2] == answer.payload[:2]
        assert b'' == sock.read_rest()


@pytest.mark.parametrize(
    'more',
    [
        frame(TEXT, b'late'),
        frame(PING, b'late'),
        frame(CLOSE, close_payload(1001)),
        b'\xff' * 1000,
    ],
    ids=['text', 'ping', 'close', 'noise'],
)
def test_f12_bytes_after_a_close_frame_are_ignored(server: Victim, more: bytes) -> None:
    """F12: Bytes after a close frame are ignored."""
    with server.connect() as sock:
        sock.open()
        sock.send(frame(CLOSE, close_payload(1000)) + more)
        assert (CLOSE, close_payload(1000)) == sock.read_frame()[:2]
        assert b'' == sock.read_rest()


def test_f13_client_that_never_answers_a_close_is_disconnected(
    quick_server: Victim,
) -> None:
    """F13: The connection ends after the timeout."""
    with quick_server.connect() as sock:
        sock.open()
        sock.send(frame(BINARY, b'not text'))
        found = sock.read_message()
        assert '1003' == outcome(found)
        assert b'' != found.payload[2:]
        sock.read_rest()
