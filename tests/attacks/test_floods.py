"""Floods and bombs: rows H9, H14, F6 to F11 and F14 of docs/security.md.

During each attack a neighbour, a second client, sends messages. It must get its answers
in the time that a busy machine needs. Memory is the peak of all processes of a server.
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

#: Memory that an attack may cost: a few messages of the largest size in each layer of
#: the server, and memory that the interpreter does not free. The attacks send several
#: times as much.
BOUND_BYTES = 16 * MB


def growth(server: Victim, before: int) -> str:
    """Return whether memory stayed within bounds since `memory.reset_peak`."""
    grown = memory.peak_bytes(server.pid) - before
    return 'bounded' if grown < BOUND_BYTES else 'grows'


def sockets(server: Victim) -> int:
    """Return the number of clients' connections of the server's processes."""
    return len(memory.clients(server.port))


def measure(server: Victim) -> int:
    """Begin to measure memory; return the current use."""
    memory.reset_peak(server.pid)
    return memory.resident_bytes(server.pid)


def end(sock: RawSocket) -> str:
    """Return how the connection ended: a close code, 'eof', or 'answered'."""
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


def outcome_of(condition: Callable[[], bool], outcomes: set[str]) -> str:
    """Return 'gone' when the condition becomes true, 'stays' if it never does."""
    try:
        wait_until(condition, 'gone', 6.0 if 'stays' in outcomes else 60.0)
    except AssertionError:
        return 'stays'
    return 'gone'


def test_h9_endless_headers_cost_bounded_memory(
    fresh_server: Victim, target: Target
) -> None:
    """H9: Endless headers are refused, or at least not stored."""
    with Neighbour(fresh_server) as neighbour, fresh_server.connect() as sock:
        before = measure(fresh_server)
        sock.send(fresh_server.handshake()[:-2])
        lines = b''.join(b'X-%d: %s\r\n' % (n, b'a' * 1000) for n in range(32_000))
        sock.push(lines)
        neighbour.check_served()
        assert growth(fresh_server, before) in expected('H9 flood', target, 'bounded')


def test_h14_200_connections_of_one_address_do_not_affect_others(
    fresh_server: Victim,
) -> None:
    """H14: Half of the connections are idle; other clients are served."""
    with Neighbour(fresh_server) as neighbour:
        with ExitStack() as stack:
            for number in range(200):
                sock = stack.enter_context(fresh_server.connect())
                if number % 2:
                    sock.send(fresh_server.handshake())
            neighbour.check_served()
        wait_until(lambda: sockets(fresh_server) == 1, 'the sockets are closed')
        neighbour.check_served()


@pytest.mark.every_server
def test_f6_endless_message_costs_bounded_memory(
    fresh_server: Victim, target: Target
) -> None:
    """F6: A message without end is refused long before it fills the memory."""
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
        neighbour.check_served()


def test_f7_message_of_100000_empty_fragments_is_refused(
    fresh_server: Victim, target: Target
) -> None:
    """F7: The message is refused, and other clients are served."""
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
        neighbour.check_served()


def test_f8_compression_bomb_costs_bounded_memory(
    fresh_server: Victim, target: Target
) -> None:
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
        neighbour.check_served()


@pytest.mark.every_server
def test_f9_endless_pings_without_reading_cost_bounded_memory(
    fresh_server: Victim, target: Target
) -> None:
    """F9: The client reads no pong."""
    pings = frame(PING, b'a' * 125) * 250_000
    with Neighbour(fresh_server) as neighbour:
        with fresh_server.connect(receive_buffer_bytes=4096) as sock:
            before = measure(fresh_server)
            sock.open()
            sock.push(pings)
            neighbour.check_served()
            assert growth(fresh_server, before) in expected('F9', target, 'bounded')


def test_f10_endless_texts_without_reading_are_stopped(fresh_server: Victim) -> None:
    """F10: The client reads no answer, so TCP stops it."""
    texts = frame(TEXT, b'a' * 65536) * 1000
    with Neighbour(fresh_server) as neighbour:
        with fresh_server.connect(receive_buffer_bytes=4096) as sock:
            before = measure(fresh_server)
            sock.open()
            assert sock.push(texts) < len(texts)
            neighbour.check_served()
            assert 'bounded' == growth(fresh_server, before)


def test_f11_client_that_reads_nothing_is_disconnected(
    quick_server: Victim, target: Target
) -> None:
    """F11: After the timeout its socket is closed, too."""
    outcomes = expected('F11', target, 'gone')
    with Neighbour(quick_server) as neighbour:
        with quick_server.connect(receive_buffer_bytes=4096) as sock:
            client_port = sock.sock.getsockname()[1]
            sock.open()
            sock.push(frame(TEXT, b'a' * 65536) * 1000)
            neighbour.check_served()
            gone = outcome_of(
                lambda: client_port not in memory.clients(quick_server.port), outcomes
            )
            assert gone in outcomes
        neighbour.check_served()


def test_f14_memory_of_large_messages_is_freed(
    fresh_server: Victim, target: Target
) -> None:
    """F14: A connection that had a large message uses no memory for it later."""
    text = frame(TEXT, b'a' * MAX_TEXT_BYTES)
    outcomes = expected('F14', target, 'gone')
    with ExitStack() as stack:
        # NOTE: The first connection makes the worker import its modules.
        first = stack.enter_context(fresh_server.connect())
        first.open()
        first.echo('hello')
        before = memory.resident_bytes(fresh_server.pid)
        for _ in range(30):
            sock = stack.enter_context(fresh_server.connect())
            sock.open()
            sock.push_and_read(text)
            assert 'answered' == end(sock)
            # NOTE: The last message may stay in memory until the next ones.
            sock.echo('a short one')
            sock.echo('another')
        # NOTE: Half of the size of the messages.
        gone = outcome_of(
            lambda: memory.resident_bytes(fresh_server.pid) - before < 15 * MB,
            outcomes,
        )
        assert gone in outcomes
