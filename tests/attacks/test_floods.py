"""Floods and bombs: rows H9, H14, F6 to F11 and F14 of docs/security.md.

Each of them runs beside a neighbour, a client who goes on talking: the attack must not
keep them from their answers for longer than a busy machine may. Memory is the highest
that the server's processes reach together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
import zlib

from attacks.conftest import Neighbour
from attacks.conftest import Victim
from attacks.targets import expected
from attacks.targets import Target
import pytest
from support import memory
from support.processes import wait_until
from support.rawsocket import CLOSE
from support.rawsocket import ClosedByServer
from support.rawsocket import CONTINUATION
from support.rawsocket import frame
from support.rawsocket import PATIENCE_S
from support.rawsocket import PING
from support.rawsocket import RawSocket
from support.rawsocket import TEXT

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

MB = 1_000_000
MAX_TEXT_BYTES = 1024 * 1024

# What a server may grow by under attack: a few messages of the limit in each of its
# layers, and what the interpreter keeps. The attacks send several times as much.
BOUND_BYTES = 16 * MB


def growth(server: Victim, before: int) -> str:
    """Return whether the memory since `memory.reset_peak` stayed within bounds."""
    grown = memory.peak_bytes(server.pid) - before
    return 'bounded' if grown < BOUND_BYTES else 'grows'


def sockets(server: Victim) -> int:
    """Return how many connections of clients the server's processes hold."""
    return len(memory.clients(server.port))


def measure(server: Victim) -> int:
    """Begin to measure memory; return what is used now."""
    memory.reset_peak(server.pid)
    return memory.resident_bytes(server.pid)


def end(sock: RawSocket) -> str:
    """Return how the connection ended: with a close code, 'eof', or an answer."""
    try:
        found = sock.read_message()
    except ClosedByServer:
        return 'eof'
    if found.opcode == CLOSE:
        return (
            str(int.from_bytes(found.payload[:2], 'big'))
            if found.payload
            else 'no code'
        )
    return 'answered'


def becomes(condition: Callable[[], bool], outcomes: set[str]) -> str:
    """Return 'gone' as soon as the condition holds, and 'stays' if it never does."""
    try:
        wait_until(condition, 'gone', 6.0 if 'stays' in outcomes else 60.0)
    except AssertionError:
        return 'stays'
    return 'gone'


def test_h9_headers_without_end(fresh_server: Victim, target: Target) -> None:
    """H9: headers without end are refused, or at least not kept."""
    with Neighbour(fresh_server) as neighbour, fresh_server.connect() as sock:
        before = measure(fresh_server)
        sock.send(fresh_server.handshake()[:-2])
        lines = b''.join(b'X-%d: %s\r\n' % (n, b'a' * 1000) for n in range(32_000))
        sock.push(lines)
        neighbour.gets_on()
        assert growth(fresh_server, before) in expected('H9 flood', target, 'bounded')


def test_h14_many_connections(fresh_server: Victim) -> None:
    """H14: 200 connections from one address, half of them idle, starve nobody."""
    with Neighbour(fresh_server) as neighbour:
        with ExitStack() as stack:
            for number in range(200):
                sock = stack.enter_context(fresh_server.connect())
                if number % 2:
                    sock.send(fresh_server.handshake())
            neighbour.gets_on()
        wait_until(lambda: sockets(fresh_server) == 1, 'the sockets are given back')
        neighbour.gets_on()


@pytest.mark.every_server
def test_f6_fragments_without_end(fresh_server: Victim, target: Target) -> None:
    """F6: a message without end is refused long before it fills the memory."""
    parts = frame(CONTINUATION, b'a' * 65536, fin=False) * 1600
    with Neighbour(fresh_server) as neighbour, fresh_server.connect() as sock:
        before = measure(fresh_server)
        sock.open()
        sock.send(frame(TEXT, b'a', fin=False))
        all_is_taken = sock.push(parts, PATIENCE_S) == len(parts)
        found = growth(fresh_server, before)
        if found == 'grows' and all_is_taken:
            found = 'grows without end'
        assert found in expected('F6 memory', target, 'bounded')
        neighbour.gets_on()


def test_f7_tiny_fragments(fresh_server: Victim, target: Target) -> None:
    """F7: a message of 100,000 empty fragments is cut off, and starves nobody."""
    with Neighbour(fresh_server) as neighbour, fresh_server.connect() as sock:
        before = measure(fresh_server)
        sock.open()
        sock.push_and_read(
            frame(TEXT, b'a', fin=False)
            + frame(CONTINUATION, fin=False) * 100_000
            + frame(CONTINUATION)
        )
        outcomes = expected('F7', target, '1002', '1008', '1009', 'eof')
        assert end(sock) in outcomes
        assert 'bounded' == growth(fresh_server, before)
        neighbour.gets_on()


def test_f8_bomb(fresh_server: Victim, target: Target) -> None:
    """F8: 256 MB deflated to 254 KB are refused long before they are inflated."""
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = b''.join(deflate.compress(bytes(MB)) for _ in range(256))
    bomb += deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    offer = [('Sec-WebSocket-Extensions', 'permessage-deflate')]
    with Neighbour(fresh_server) as neighbour, fresh_server.connect() as sock:
        before = measure(fresh_server)
        answer = sock.open(add=offer)
        agreed = 'sec-websocket-extensions' in answer.headers
        sock.push_and_read(frame(TEXT, bomb, rsv=4))
        outcomes = {'1009'} if agreed else {'1002'}
        assert end(sock) in expected('F8', target, *outcomes)
        assert growth(fresh_server, before) in expected('F8 memory', target, 'bounded')
        neighbour.gets_on()


@pytest.mark.every_server
def test_f9_pings(fresh_server: Victim, target: Target) -> None:
    """F9: pings without end from a client that reads no pong fill no memory."""
    pings = frame(PING, b'a' * 125) * 250_000
    with Neighbour(fresh_server) as neighbour:
        with fresh_server.connect(receive_buffer_bytes=4096) as sock:
            before = measure(fresh_server)
            sock.open()
            sock.push(pings)
            neighbour.gets_on()
            assert growth(fresh_server, before) in expected('F9', target, 'bounded')


def test_f10_texts(fresh_server: Victim) -> None:
    """F10: texts without end from a client that reads no answer are held back."""
    texts = frame(TEXT, b'a' * 65536) * 1000
    with Neighbour(fresh_server) as neighbour:
        with fresh_server.connect(receive_buffer_bytes=4096) as sock:
            before = measure(fresh_server)
            sock.open()
            assert sock.push(texts) < len(texts)
            neighbour.gets_on()
            assert 'bounded' == growth(fresh_server, before)


def test_f11_reads_nothing(quick_server: Victim, target: Target) -> None:
    """F11: a client that reads nothing is given up, and its socket is really gone."""
    outcomes = expected('F11', target, 'gone')
    with Neighbour(quick_server) as neighbour:
        with quick_server.connect(receive_buffer_bytes=4096) as sock:
            client_port = sock.sock.getsockname()[1]
            sock.open()
            sock.push(frame(TEXT, b'a' * 65536) * 1000)
            neighbour.gets_on()
            gone = becomes(
                lambda: client_port not in memory.clients(quick_server.port), outcomes
            )
            assert gone in outcomes
        neighbour.gets_on()


def test_f14_memory_is_given_back(fresh_server: Victim, target: Target) -> None:
    """F14: connections that once had a large message keep no memory of it for life."""
    text = frame(TEXT, b'a' * MAX_TEXT_BYTES)
    outcomes = expected('F14', target, 'gone')
    with ExitStack() as stack:
        # The first connection is for what a worker imports when it begins.
        first = stack.enter_context(fresh_server.connect())
        first.open()
        first.echo('hello')
        before = memory.resident_bytes(fresh_server.pid)
        for _ in range(30):
            sock = stack.enter_context(fresh_server.connect())
            sock.open()
            sock.push_and_read(text)
            assert 'answered' == end(sock)
            # NOTE: the last message itself may stay at hand until the next ones.
            sock.echo('a short one')
            sock.echo('another')
        # Half of what the messages measure.
        gone = becomes(
            lambda: memory.resident_bytes(fresh_server.pid) - before < 15 * MB,
            outcomes,
        )
        assert gone in outcomes
