"""The WebSocket of a responder: sending, receiving, closing, and its limits."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import resource
import socket
import threading
import time
import tracemalloc
import zlib

import falcon
import pytest
from support.processes import wait_until
from support.wsgi import DEADLINE_S
from support.wsgi import frame
from support.wsgi import RawClient
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from falcon_channels.wsgi import App
from falcon_channels.wsgi import connection
from falcon_channels.wsgi import WebSocket
from falcon_channels.wsgi import WebSocketError
from falcon_channels.wsgi.options import WebSocketOptions
from falcon_channels.wsgi.testing import serve_connection
from falcon_channels.wsgi.testing import simulate_ws

Dial = Callable[[App], RawClient]


def app_of(responder: Callable[[WebSocket], None], **options: object) -> App:
    """Return an app with one responder; options are set on ws_options."""

    class Resource:
        def on_websocket(self, req, ws):
            responder(ws)

    app = App()
    app.add_route('/', Resource())
    for name, value in options.items():
        setattr(app.ws_options, name, value)
    return app


def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


def open_raw(dial: Dial, responder: Callable[[WebSocket], None], **options: object):
    raw = dial(app_of(responder, **options))
    raw.shake_hands()
    return raw


def send_until_it_fails(raw: RawClient, data: bytes) -> int:
    """Send the same bytes repeatedly; return how many were accepted in all."""
    sent = 0
    try:
        while True:
            sent += raw.sock.send(data[sent % len(data) :])
    except (ConnectionError, TimeoutError):
        return sent


# Receiving.


def test_receive_returns_text_as_str_and_binary_as_bytes() -> None:
    """Each kind arrives as its type, also through the methods for one kind."""
    seen = []

    def responder(ws):
        seen.append(ws.receive())
        seen.append(ws.receive())
        seen.append(ws.receive_text())
        seen.append(ws.receive_data())

    with simulate_ws(app_of(responder)) as client:
        for message in ('a', b'b', 'c', b'd'):
            client.send(message)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=DEADLINE_S)
    assert ['a', b'b', 'c', b'd'] == seen


def test_receive_that_times_out_loses_no_message() -> None:
    """The next receive gets the message."""
    timed_out = threading.Event()

    def responder(ws):
        with pytest.raises(TimeoutError):
            ws.receive(timeout_s=0.01)
        timed_out.set()
        ws.send(ws.receive(timeout_s=DEADLINE_S))

    with simulate_ws(app_of(responder)) as client:
        assert timed_out.wait(DEADLINE_S)
        client.send('late')
        assert 'late' == client.recv(timeout=DEADLINE_S)


class PingFlood:
    """A stream on which the next ping of the client is always there."""

    def __init__(self) -> None:
        self._end = time.monotonic() + DEADLINE_S

    def new_lock(self):
        return threading.Lock()

    def recv(self, max_bytes: int, timeout_s: float) -> bytes:
        assert time.monotonic() < self._end, 'receive() did not time out'
        return frame(Opcode.PING, b'', mask=True)

    def send_all(self, data: bytes, timeout_s: float) -> None:
        """Drop the pongs."""

    def give_way(self) -> None:
        """Do nothing: it is a thread."""


def test_receive_times_out_during_a_flood_of_pings() -> None:
    """Only a message ends the wait, so that a client cannot hold a thread."""
    flooded = connection.WebSocketConnection(
        PingFlood(), WebSocketOptions(), accepted=True
    )
    with pytest.raises(TimeoutError, match='no message in time'):
        flooded.receive(timeout_s=0.05)


def sender_until(ended, pause_s):
    """Return a responder that only sends, until the test ends it."""

    def responder(ws):
        with contextlib.suppress(WebSocketError):
            while not ended.wait(pause_s):
                ws.send('x')

    return responder


@pytest.mark.parametrize('ending', ['ping', 'close'])
def test_frame_after_an_unread_message_is_answered_while_sending(
    dial: Dial, ending: str
) -> None:
    """A responder that only sends answers pings and the close, also after messages."""
    ended = threading.Event()
    raw = open_raw(dial, sender_until(ended, 0.01))
    raw.send(Opcode.TEXT, b'never received')
    raw.send(Opcode.PING, b'the message was read')
    read_until(raw, frame(Opcode.PONG, b'the message was read'))
    body = b'\x03\xe8'
    raw.send(Opcode.PING if ending == 'ping' else Opcode.CLOSE, body)
    read_until(raw, frame(Opcode.PONG if ending == 'ping' else Opcode.CLOSE, body))
    ended.set()


def read_until(raw: RawClient, expected: bytes) -> None:
    """Read until certain bytes have arrived."""
    received = b''
    while expected not in received:
        part = raw.sock.recv(65_536)
        assert part
        received += part


def send_all(raw: RawClient, message: bytes, count: int) -> None:
    """Send a number of equal messages."""
    for _ in range(count):
        raw.sock.sendall(message)


def test_sending_responder_reads_a_limited_number_of_messages(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of messages to a responder that only sends fills no memory."""
    monkeypatch.setattr(connection, '_POLL_INTERVAL_S', 0.001)
    ended = threading.Event()
    raw = open_raw(dial, sender_until(ended, 0.001))
    message = frame(Opcode.BINARY, bytes(10_000), mask=True)
    raw.sock.settimeout(0.5)
    tracemalloc.start()
    try:
        with pytest.raises(TimeoutError):
            send_all(raw, message, 5000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
        ended.set()


def test_method_before_accept_raises_operation_not_allowed() -> None:
    """All methods except receive() and send() need accept() first."""
    calls = []

    def responder(ws):
        for call in (
            ws.receive_text,
            ws.receive_data,
            ws.receive_media,
            lambda: ws.send_text('x'),
            lambda: ws.send_data(b'x'),
            lambda: ws.send_media('x'),
        ):
            with pytest.raises(falcon.OperationNotAllowed):
                call()
            calls.append(call)
        ws.send('accepted')
        with pytest.raises(TypeError):
            ws.send_text(b'x')
        with pytest.raises(TypeError):
            ws.send_data('x')

    with simulate_ws(app_of(responder)) as client:
        assert 'accepted' == client.recv(timeout=DEADLINE_S)
    assert 6 == len(calls)


def test_second_accept_raises_operation_not_allowed() -> None:
    """accept() after an accept() is an error of the caller."""

    def responder(ws):
        ws.accept()
        with pytest.raises(falcon.OperationNotAllowed):
            ws.accept()
        ws.send('fine')

    with simulate_ws(app_of(responder)) as client:
        assert 'fine' == client.recv(timeout=DEADLINE_S)


def test_media_is_serialized_by_the_media_handlers() -> None:
    """JSON is text and MessagePack is binary, in both directions."""

    def responder(ws):
        ws.accept()
        for kind in falcon.WebSocketPayloadType:
            ws.send_media(ws.receive_media(), kind)

    with simulate_ws(app_of(responder)) as client:
        client.send('{"a": 1}')
        assert '{"a": 1}' == client.recv(timeout=DEADLINE_S)
        client.send(b'\x81\xa1a\x01')
        assert b'\x81\xa1a\x01' == client.recv(timeout=DEADLINE_S)


@pytest.mark.parametrize('text', ['{', '[' * 100_000, '9' * 5000])
def test_malformed_media_closes_with_3400_without_a_traceback(
    text: str, caplog
) -> None:
    """Malformed JSON of a client is not logged."""

    def responder(ws):
        ws.accept()
        ws.receive_media()

    with simulate_ws(app_of(responder)) as client:
        client.send(text)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=DEADLINE_S)
        assert (3400, 'Bad Request') == (client.close_code, client.close_reason)
    assert [] == caplog.records


# The end.


def test_receive_after_the_end_raises_with_code_and_reason() -> None:
    """WebSocketError is Falcon's WebSocketDisconnected, with the reason."""
    ends = []

    def responder(ws):
        with pytest.raises(falcon.WebSocketDisconnected) as caught:
            ws.receive()
        ends.append(caught.value)
        assert (ws.closed, ws.ready, ws.unaccepted) == (True, False, False)
        assert (4001, 'bye') == (ws.close_code, ws.close_reason)
        with pytest.raises(WebSocketError):
            ws.send('too late')

    with simulate_ws(app_of(responder)) as client:
        client.close(4001, 'bye')
    (end,) = ends
    assert isinstance(end, WebSocketError)
    assert (4001, 'bye') == (end.code, end.reason)
    assert 'WebSocket closed with code 4001: bye' == str(end)


@pytest.mark.parametrize(
    ('payload', 'code', 'answer'),
    [
        (b'', 1005, b''),
        (b'\x03\xe8', 1000, b'\x03\xe8'),
        (b'\x0f\xa1bye', 4001, b'\x0f\xa1bye'),
    ],
)
def test_close_frame_is_answered_with_the_same_code_and_reason(
    payload: bytes, code: int, answer: bytes, dial: Dial
) -> None:
    """Later frames are ignored, also a second close frame."""
    codes = []

    def responder(ws):
        echo(ws)
        codes.append(ws.close_code)

    raw = open_raw(dial, responder)
    raw.send(Opcode.CLOSE, payload)
    raw.send(Opcode.TEXT, b'after the end')
    raw.send(Opcode.CLOSE, b'\x03\xe9')
    assert frame(Opcode.CLOSE, answer) == raw.read_to_end()
    wait_until(lambda: codes, 'the responder has ended')
    assert [code] == codes


def test_close_frame_within_a_fragmented_message_is_answered(dial: Dial) -> None:
    """Control frames may come between the fragments of a message (section 5.4)."""
    codes = []

    def responder(ws):
        with pytest.raises(WebSocketError) as caught:
            ws.receive()
        codes.append(caught.value.code)

    raw = open_raw(dial, responder)
    raw.send(Opcode.TEXT, b'un', fin=False)
    raw.send(Opcode.CLOSE, b'\x0f\xa1done')
    assert (4001, 'done') == raw.read_close()
    wait_until(lambda: codes, 'the responder has ended')
    assert [4001] == codes


def test_close_waits_for_the_answer_of_the_client() -> None:
    """close() sends code and reason, returns when answered, and may be repeated."""
    seen = []

    def responder(ws):
        ws.accept()
        ws.close(4002, 'enough')
        ws.close(4003)
        seen.append((ws.closed, ws.close_code, ws.close_reason))

    with simulate_ws(app_of(responder)) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=DEADLINE_S)
        assert (4002, 'enough') == (client.close_code, client.close_reason)
    assert [(True, 4002, 'enough')] == seen


def test_client_that_never_answers_a_close_is_aborted(dial: Dial) -> None:
    """After close_timeout_s the connection ends without the client."""
    raw = open_raw(dial, lambda ws: ws.accept(), close_timeout_s=0.05)
    assert frame(Opcode.CLOSE, b'\x03\xe8Normal Closure') == raw.read(18)
    assert send_until_it_fails(raw, frame(Opcode.TEXT, b'still here', mask=True))


def test_close_from_another_thread_ends_receive() -> None:
    """A thread may close while the responder receives."""
    codes = []

    def responder(ws):
        ws.accept()
        closer = threading.Thread(target=ws.close, args=(4009,))
        closer.start()
        with pytest.raises(WebSocketError) as caught:
            ws.receive()
        codes.append(caught.value.code)
        closer.join()

    with simulate_ws(app_of(responder)) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=DEADLINE_S)
        assert 4009 == client.close_code
    assert [4009] == codes


@pytest.mark.parametrize('code', [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, '1000'])
def test_close_with_a_reserved_code_raises_value_error(code: object) -> None:
    """RFC 6455 section 7.4 reserves these codes."""

    def responder(ws):
        ws.accept()
        with pytest.raises(ValueError, match=r'close code|int'):
            ws.close(code)
        with pytest.raises(ValueError, match='124 bytes exceeds 123'):
            ws.close(4000, 'x' * 124)
        ws.close(4000, 'x' * 123)

    with simulate_ws(app_of(responder)) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=DEADLINE_S)
        assert (4000, 'x' * 123) == (client.close_code, client.close_reason)


def test_worker_that_stops_closes_with_1001() -> None:
    """SystemExit in the responder closes without waiting."""

    def responder(ws):
        ws.accept()
        raise SystemExit

    def serve():
        # The server tries to answer 500, which must not get into the WebSocket.
        with contextlib.suppress(BrokenPipeError):
            serve_connection(app_of(responder), theirs)

    ours, theirs = socket.socketpair()
    worker = threading.Thread(target=serve)
    worker.start()
    with RawClient(ours) as raw:
        raw.shake_hands()
        assert frame(Opcode.CLOSE, b'\x03\xe9server is stopping') == raw.read_to_end()
    worker.join(DEADLINE_S)


# Silence.


def test_client_that_answers_no_ping_is_aborted_with_1006(dial: Dial) -> None:
    """After silence, a ping and silence, the connection has ended."""
    ends = []

    def responder(ws):
        with pytest.raises(WebSocketError) as caught:
            ws.receive()
        ends.append((caught.value.code, caught.value.reason))

    raw = open_raw(dial, responder, ping_interval_s=0.02, ping_timeout_s=0.02)
    assert b'\x89\x04' == raw.read(6)[:2]
    assert b'' == raw.read_to_end()
    wait_until(lambda: ends, 'the responder has ended')
    assert [(1006, 'the client did not answer a ping')] == ends


def test_client_that_answers_pings_stays_connected(dial: Dial) -> None:
    """Three pings and their pongs keep the connection open."""
    raw = open_raw(dial, echo, ping_interval_s=0.01, ping_timeout_s=DEADLINE_S)
    raw.send(Opcode.TEXT, b'hello')
    assert frame(Opcode.TEXT, b'hello') == raw.read(7)
    for _ in range(3):
        ping = raw.read(6)
        assert b'\x89\x04' == ping[:2]
        raw.send(Opcode.PONG, ping[2:])


def test_client_that_reads_slowly_is_not_aborted_for_a_missing_pong(dial: Dial) -> None:
    """The timeout of a ping begins when it is sent, and not when it is due.

    A ping waited for a long message. Its answer already counted as missing when the
    ping was sent.
    """
    size = 4_000_000

    def responder(ws):
        ws.accept()
        sender = threading.Thread(target=ws.send_data, args=(bytes(size),))
        sender.start()
        ws.send(ws.receive())
        sender.join()

    raw = open_raw(dial, responder, ping_interval_s=0.1, ping_timeout_s=1.0)
    unread = size + 10
    slow_until = time.monotonic() + 1.5
    while time.monotonic() < slow_until:
        unread -= len(raw.read(1000))
        time.sleep(0.01)  # the client is slow
    raw.read(unread)
    ping = raw.read(6)
    assert b'\x89\x04' == ping[:2]
    raw.send(Opcode.PONG, ping[2:])
    raw.send(Opcode.TEXT, b'hello')
    assert frame(Opcode.TEXT, b'hello') in raw.read(7 + 18) + raw.read_to_end()


def test_responder_that_only_sends_gets_the_close_code(dial: Dial) -> None:
    """A send reads the client's frames once a second."""
    codes = []
    pace = threading.Event()

    def responder(ws):
        ws.accept()
        try:
            while not pace.wait(0.02):
                ws.send('tick')
        except WebSocketError as ex:
            codes.append(ex.code)

    raw = open_raw(dial, responder)
    raw.send(Opcode.CLOSE, b'\x0f\xa1')
    assert (4001, '') == raw.read_close()
    wait_until(lambda: codes, 'the responder has noticed')
    assert [4001] == codes


# Limits.


@pytest.mark.parametrize(
    ('data', 'code'),
    [
        (frame(Opcode.TEXT, b'x'), 1002),
        (frame(Opcode.TEXT, b'x', mask=True, reserved=4), 1002),
        (frame(Opcode.TEXT, b'x', mask=True, reserved=2), 1002),
        (frame(Opcode.TEXT, b'x', mask=True, reserved=1), 1002),
        (b'\x83\x80\x00\x00\x00\x00', 1002),
        (b'\x8b\x80\x00\x00\x00\x00', 1002),
        (frame(Opcode.CONT, b'x', mask=True), 1002),
        (
            frame(Opcode.TEXT, b'x', mask=True, fin=False)
            + frame(Opcode.TEXT, b'x', mask=True),
            1002,
        ),
        (b'\x09\x80\x00\x00\x00\x00', 1002),
        (b'\x89\xfe\x00\x7e\x00\x00\x00\x00' + bytes(126), 1002),
        (frame(Opcode.TEXT, b'\xff', mask=True), 1007),
        (frame(Opcode.TEXT, b'\xed\xa0\x80', mask=True), 1007),
        (
            frame(Opcode.TEXT, b'\xce', mask=True, fin=False)
            + frame(Opcode.CONT, b'\xce', mask=True, fin=False),
            1007,
        ),
        (b'\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00', 1009),
        (b'\x82\xff\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00xyz', 1009),
        (b'\x88\x81\x00\x00\x00\x00\x03', 1002),
        (frame(Opcode.CLOSE, b'\x03\xed', mask=True), 1002),
        (frame(Opcode.CLOSE, b'\x03\xe8\xff', mask=True), 1007),
    ],
    ids=[
        *('unmasked', 'rsv1', 'rsv2', 'rsv3', 'opcode-3', 'opcode-11'),
        *('continuation-of-nothing', 'text-in-a-message', 'fragmented-ping'),
        *('ping-of-126-bytes', 'not-utf8', 'surrogate', 'not-utf8-in-fragments'),
        *('length-over-63-bits', '64-mib-announced', 'close-of-1-byte'),
        *('close-code-1005', 'close-reason-not-utf8'),
    ],
)
def test_illegal_frame_closes_with_its_code(data: bytes, code: int, dial: Dial) -> None:
    """Each violation gets its close code at once."""
    raw = open_raw(dial, echo)
    raw.sock.sendall(data)
    assert code == raw.read_close()[0]


def test_message_over_max_message_bytes_is_refused_with_1009(
    dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit counts whole messages, also in fragments; the log names it."""
    raw = open_raw(dial, echo, max_message_bytes=100)
    raw.send(Opcode.BINARY, bytes(100))
    assert 102 == len(raw.read(102))
    raw.send(Opcode.BINARY, bytes(60), fin=False)
    raw.send(Opcode.CONT, bytes(41))
    assert 1009 == raw.read_close()[0]
    assert 1 == caplog.text.count('closing a WebSocket with 1009')
    assert 'ws_options.max_message_bytes is 100' in caplog.text


def test_message_of_more_than_max_fragments_is_refused_with_1009(dial: Dial) -> None:
    """A message of max_fragments frames passes, one more does not."""
    raw = open_raw(dial, echo, max_fragments=4)
    for opcode, fin in ((Opcode.TEXT, False), (0, False), (0, False), (0, True)):
        raw.send(Opcode(opcode), b'x', fin=fin)
    assert frame(Opcode.TEXT, b'xxxx') == raw.read(6)
    raw.send(Opcode.BINARY, b'', fin=False)
    raw.sock.sendall(frame(Opcode.CONT, b'', mask=True, fin=False) * 4)
    assert (1009, 'message has more than 4 fragments') == raw.read_close()


def test_frame_sent_byte_by_byte_is_received(dial: Dial) -> None:
    """The client's bytes may come one at a time."""
    raw = open_raw(dial, echo)
    for byte in frame(Opcode.TEXT, 'grüße'.encode(), mask=True):
        raw.sock.sendall(bytes([byte]))
    expected = frame(Opcode.TEXT, 'grüße'.encode())
    assert expected == raw.read(len(expected))


def test_compression_bomb_is_refused_with_1009_before_inflating(dial: Dial) -> None:
    """64 MiB in 64 KiB take less than 8 MiB of memory."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = deflate.compress(bytes(64 << 20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    raw = dial(app_of(echo, compression=True))
    raw.shake_hands(
        Sec_WebSocket_Extensions='permessage-deflate; client_max_window_bits'
    )
    tracemalloc.start()
    try:
        raw.send(Opcode.BINARY, bomb[:-4], reserved=4)
        assert 1009 == raw.read_close()[0]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_ping_flood_without_reading_ends_by_the_send_timeout(dial: Dial) -> None:
    """A client that does not read its pongs is aborted, and memory stays bounded."""
    codes = []

    def responder(ws):
        with pytest.raises(WebSocketError) as caught:
            ws.receive()
        codes.append((caught.value.code, caught.value.reason))

    raw = open_raw(dial, responder, send_timeout_s=0.2)
    pings = frame(Opcode.PING, bytes(125), mask=True) * 1000
    tracemalloc.start()
    try:
        assert send_until_it_fails(raw, pings)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    wait_until(lambda: codes, 'the responder has ended')
    assert [(1006, 'the client did not read for 0.2 s')] == codes


def test_message_flood_is_stopped_by_backpressure(dial: Dial) -> None:
    """A responder that does not receive stops the client, and no message is lost."""
    resume, done = threading.Event(), threading.Event()
    received = []

    def responder(ws):
        received.append(ws.receive())
        resume.wait(DEADLINE_S)
        received.extend(ws)
        done.set()

    raw = open_raw(dial, responder)
    message = frame(Opcode.BINARY, bytes(65_000), mask=True)
    raw.sock.settimeout(0.5)
    sent = send_until_it_fails(raw, message)
    resume.set()
    raw.sock.settimeout(DEADLINE_S)
    raw.sock.sendall(message[sent % len(message) :])
    raw.send(Opcode.CLOSE, b'\x03\xe8')
    raw.read_to_end()
    assert done.wait(DEADLINE_S)
    assert sent // len(message) + 1 == len(received)


def test_websocket_with_a_descriptor_above_1023_works() -> None:
    """Waiting does not use select(), which cannot watch such descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    null = os.open(os.devnull, os.O_RDONLY)
    copies = [os.dup(null) for _ in range(1100)]
    try:
        with simulate_ws(app_of(echo)) as client:
            client.send('hello')
            assert 'hello' == client.recv(timeout=DEADLINE_S)
    finally:
        for descriptor in (null, *copies):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
