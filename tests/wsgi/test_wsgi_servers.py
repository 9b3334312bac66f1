"""Every WSGI server of the table, as a real process, with real clients."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from urllib.request import urlopen
from uuid import uuid4

import pytest
from support.processes import wait_until
from support.wsgi import DEADLINE_S
from support.wsgi import frame
from support.wsgi import handshake
from support.wsgi import RawClient
from support.wsgi import RunningServer
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


def client(server: RunningServer, path: str = '/', **options) -> ClientConnection:
    url = server.process.ws_url + path
    return connect(url, max_size=None, open_timeout=DEADLINE_S, **options)


def get(server: RunningServer, path: str = '/') -> bytes:
    with urlopen(server.process.url + path, timeout=DEADLINE_S) as response:
        body: bytes = response.read()
        return body


def await_outcome(server: RunningServer, expected: str) -> None:
    """Wait until a WebSocket has ended as expected."""
    found: list[str] = []

    def look() -> bool:
        found.extend(json.loads(get(server, '/outcomes')))
        return expected in found

    wait_until(look, f'{expected!r} among the outcomes {found}')


def test_messages_of_all_kinds_are_echoed(server: RunningServer) -> None:
    """Text, binary, a MiB, and a fragmented message are echoed; a ping is answered."""
    with client(server, '/?name=kinds') as ws:
        for message in ('grüße', b'\x00\xff', b'x' * (1 << 20), 'y' * (1 << 20)):
            ws.send(message)
            assert message == ws.recv(timeout=DEADLINE_S)
        ws.send(['one ', 'two ', 'three'])
        assert 'one two three' == ws.recv(timeout=DEADLINE_S)
        assert ws.ping().wait(DEADLINE_S)
    assert 1000 == ws.close_code
    await_outcome(server, 'kinds 1000')


def test_close_code_of_the_client_reaches_the_responder(server: RunningServer) -> None:
    """The client gets its own code back."""
    with client(server, '/?name=leaver') as ws:
        ws.send('hello')
        ws.recv(timeout=DEADLINE_S)
        ws.close(4001, 'bye')
        assert (4001, 'bye') == (ws.close_code, ws.close_reason)
    await_outcome(server, 'leaver 4001')


def test_close_code_of_the_responder_reaches_the_client(server: RunningServer) -> None:
    """Code and reason of the responder reach the client."""
    with client(server, '/closing') as ws:
        ws.send('hello')
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=DEADLINE_S)
        assert (4002, 'enough') == (ws.close_code, ws.close_reason)


def test_client_that_resets_ends_the_responder_with_1006(server: RunningServer) -> None:
    """A TCP reset instead of a close frame ends the responder."""
    with RawClient.connect(server.process.port, '/?name=victim') as raw:
        raw.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
    await_outcome(server, 'victim 1006')


def test_frame_together_with_the_handshake_is_echoed(server: RunningServer) -> None:
    """All servers except uWSGI pass on bytes after the handshake."""
    early, late = frame(Opcode.TEXT, b'early'), frame(Opcode.TEXT, b'late')
    with socket.create_connection(('127.0.0.1', server.process.port)) as sock:
        raw = RawClient(sock)
        raw.shake_hands(early=frame(Opcode.TEXT, b'early', mask=True))
        raw.send(Opcode.TEXT, b'late')
        # uWSGI does not pass on the bytes that it has read already.
        expected = early + late if server.case.early else late
        assert expected == raw.read(len(expected))


def test_handshake_with_a_body_is_refused(server: RunningServer) -> None:
    """A handshake has no body, neither with a length nor in chunks."""
    for headers, body in (
        ({'Content_Length': '5'}, b'hello'),
        ({'Transfer_Encoding': 'chunked'}, b'5\r\nhello\r\n0\r\n\r\n'),
    ):
        with socket.create_connection(('127.0.0.1', server.process.port)) as sock:
            raw = RawClient(sock)
            sock.sendall(handshake(**headers) + body)
            head = raw.read_head()
            if b' 101 ' in head:
                # gevent-websocket has sent the 101, so the refusal is a close code.
                assert 'geventwebsocket' in server.case.name
                assert 3400 == raw.read_close()[0]
            else:
                assert head.startswith(b'HTTP/1.1 400 '), head


def test_bytes_after_the_close_frame_are_never_served_as_requests(
    server: RunningServer,
) -> None:
    """HTTP requests after a close frame are discarded (request smuggling)."""
    close = frame(Opcode.CLOSE, b'\x03\xe8', mask=True)
    post = b'POST /smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n' * 500
    with RawClient.connect(server.process.port, '/?name=smuggler') as raw:
        raw.sock.sendall(close + post)
        raw.sock.sendall(post)
        raw.sock.shutdown(socket.SHUT_WR)
        assert frame(Opcode.CLOSE, b'\x03\xe8') == raw.read_to_end()
    await_outcome(server, 'smuggler 1000')
    with socket.create_connection(('127.0.0.1', server.process.port)) as sock:
        # Now the server's own reader has read a part of them.
        raw = RawClient(sock)
        sock.sendall(handshake() + close + post)
        with contextlib.suppress(ConnectionError):
            sock.shutdown(socket.SHUT_WR)
            assert raw.read_to_end().count(b'HTTP/1.') <= 1
    assert b'0' == get(server, '/smuggled')


def test_10000_pipelined_messages_are_echoed_in_order(server: RunningServer) -> None:
    """10,000 messages, sent without waiting, come back complete and in order."""
    payloads = [b'message %d' % number for number in range(10_000)]
    sent = b''.join(frame(Opcode.TEXT, payload, mask=True) for payload in payloads)
    expected = b''.join(frame(Opcode.TEXT, payload) for payload in payloads)
    with RawClient.connect(server.process.port) as raw:
        sender = threading.Thread(target=raw.sock.sendall, args=(sent,), daemon=True)
        sender.start()
        assert expected == raw.read(len(expected))
        sender.join(DEADLINE_S)


def test_messages_of_two_concurrent_senders_arrive_whole(server: RunningServer) -> None:
    """Two threads or greenlets may send at once."""
    with client(server, f'/twice?library={server.case.library}') as ws:
        messages = [ws.recv(timeout=DEADLINE_S) for _ in range(200)]
        ws.send('enough')
    assert 100 == messages.count('a')
    assert 100 == messages.count('b' * 70_000)


def test_receive_that_is_interrupted_while_another_sends_loses_no_message(
    server: RunningServer,
) -> None:
    """A responder that gives up in time gets the message with its next receive.

    Bytes of the client were lost if a timeout of greenlets interrupted a reader that
    waited for a sender. ``timeout_s`` did not end the wait.
    """
    case = server.case
    marker, size = f'gave up {uuid4()}', 16_000_000
    path = (
        f'/interrupted?library={case.library}&give_up={case.give_up}&size={size}'
        f'&marker={marker.replace(" ", "+")}'
    )
    with RawClient.connect(server.process.port, path) as raw:
        assert b'\x82\x7f' + size.to_bytes(8) == raw.read(10)
        raw.send(Opcode.TEXT, b'one')
        wait_until(lambda: marker in server.process.log(), f'{marker} in the log')
        raw.read(size)
        raw.send(Opcode.TEXT, b'two')
        raw.send(Opcode.CLOSE, b'\x03\xe8')
        assert 1000 == raw.read_close()[0]
    await_outcome(server, 'one and two')


def test_client_that_does_not_read_is_aborted_after_the_send_timeout(
    server: RunningServer,
) -> None:
    """A sender waits for a stalled client no longer than send_timeout_s."""
    with RawClient.connect(
        server.process.port, '/flood', receive_buffer_bytes=4096
    ) as raw:
        await_outcome(server, 'flood 1006')
        with pytest.raises(ConnectionResetError):
            raw.read_to_end()


def test_50_websockets_and_plain_requests_are_served_together(
    server: RunningServer,
) -> None:
    """50 open WebSockets answer, and so do ordinary requests among them."""
    if not server.case.concurrent:
        # gunicorn's sync worker serves one connection after the other.
        for _ in range(50):
            with client(server) as ws:
                ws.send('hello')
                assert 'hello' == ws.recv(timeout=DEADLINE_S)
            assert b'plain' == get(server)
        return
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(server)) for _ in range(50)]
        for number, ws in enumerate(clients):
            ws.send(f'number {number}')
            if number % 10 == 0:
                assert b'plain' == get(server)
        for number, ws in enumerate(clients):
            assert f'number {number}' == ws.recv(timeout=DEADLINE_S)
    assert {1000} == {ws.close_code for ws in clients}


def test_sigterm_ends_connections_and_server(server: RunningServer) -> None:
    """SIGTERM ends the connections first, then the server."""
    process = server.process
    with RawClient.connect(process.port) as raw:
        raw.send(Opcode.TEXT, b'hello')
        echo = frame(Opcode.TEXT, b'hello')
        assert echo == raw.read(len(echo))
        stopper = threading.Thread(target=server.stop, daemon=True)
        stopper.start()
        with contextlib.suppress(ConnectionResetError):
            raw.read_to_end()
        stopper.join(DEADLINE_S)
        assert not stopper.is_alive()
