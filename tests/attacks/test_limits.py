"""Limits of `falcon-channels serve` for floods and silence: H14 and H15."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
import sys

import pytest
from support.processes import ServerProcess
from support.processes import wait_until
from support.rawsocket import CLOSE
from support.rawsocket import close_payload
from support.rawsocket import handshake
from support.rawsocket import RawSocket

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(120),
    pytest.mark.xdist_group('limits'),
]

COMMAND = str(Path(sys.executable).with_name('falcon-channels'))
LIMIT = 3

# The server trusts a proxy at this address by default.
PROXY = '127.0.0.1'
CLIENT = '127.0.0.2'


@pytest.fixture(scope='module')
def server() -> Iterator[ServerProcess]:
    """A server with a limit for each address, and a timeout for silent clients."""
    with ServerProcess(
        [
            *(COMMAND, 'serve', 'tests.attacks.silence_asgi:app', '--port', '{port}'),
            *('--ws-max-per-peer', str(LIMIT), '--ws-first-message-timeout', '2'),
        ]
    ) as server:
        yield server


class Visitors:
    """Connections from several addresses, which stay open until the end of a test."""

    def __init__(self, server: ServerProcess, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack

    def visit(self, source: str, forwarded: str | None = None) -> tuple[int, RawSocket]:
        """Do the handshake and send a message; return the status and the connection."""
        port = self._server.port
        sock = self._stack.enter_context(RawSocket(port, '/hello', source=source))
        add = [] if forwarded is None else [('X-Forwarded-For', forwarded)]
        sock.send(handshake(port, '/hello', add=add))
        status = sock.read_response().status
        if 101 == status:
            assert 'Message text was: hello' == sock.echo('hello')
        return status, sock


@pytest.fixture
def visitors(server: ServerProcess) -> Iterator[Visitors]:
    with ExitStack() as stack:
        yield Visitors(server, stack)


def test_h14_connection_over_the_limit_of_its_address_gets_429(
    visitors: Visitors,
) -> None:
    """H14: Other addresses may connect, and closed connections do not count."""
    crowd = [visitors.visit(CLIENT) for _ in range(LIMIT)]
    assert [101] * LIMIT == [status for status, _ in crowd]
    assert 429 == visitors.visit(CLIENT)[0]
    assert 101 == visitors.visit('127.0.0.3')[0]
    crowd[0][1].sock.close()
    wait_until(lambda: 101 == visitors.visit(CLIENT)[0], 'the address has a free place')
    assert 429 == visitors.visit(CLIENT)[0]


def test_h14_forwarded_address_of_an_untrusted_peer_is_ignored(
    visitors: Visitors,
) -> None:
    """H14: X-Forwarded-For counts only from a trusted proxy."""
    client = '127.0.0.4'
    statuses = [
        visitors.visit(client, f'203.0.113.{number}')[0] for number in range(LIMIT + 1)
    ]
    assert [*[101] * LIMIT, 429] == statuses


def test_h14_clients_behind_a_trusted_proxy_are_counted_by_address(
    visitors: Visitors,
) -> None:
    """H14: The address that the proxy itself has added counts."""
    for number in range(LIMIT):
        assert 101 == visitors.visit(PROXY, f'198.51.100.{number}, 203.0.113.7')[0]
    assert 429 == visitors.visit(PROXY, '203.0.113.7')[0]
    assert 429 == visitors.visit(PROXY, '198.51.100.9, 203.0.113.7')[0]
    assert 101 == visitors.visit(PROXY, '203.0.113.8')[0]


def test_h15_client_without_a_first_message_gets_1008(
    server: ServerProcess, visitors: Visitors
) -> None:
    """H15: A client that has sent a message stays connected."""
    _, talker = visitors.visit('127.0.0.5')
    with RawSocket(server.port, '/hello', source='127.0.0.5') as silent:
        silent.open()
        found = silent.read_message()
        assert (CLOSE, close_payload(1008, b'no message')) == found[:2]
        assert b'' == silent.read_rest()
    assert 'Message text was: still here' == talker.echo('still here')


def test_h15_client_without_a_connect_command_gets_3502(server: ServerProcess) -> None:
    """H15: The client protocol has its own timeout."""
    path = '/connection/websocket'
    with RawSocket(server.port, path, source='127.0.0.6') as sock:
        sock.open()
        found = sock.read_message()
        assert (CLOSE, close_payload(3502, b'stale')) == found[:2]
