"""Limits that `falcon-channels serve` has for floods and silence: H14 and H15."""

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

# The server believes the proxy, which is where it believes one from the start.
PROXY = '127.0.0.1'
CLIENT = '127.0.0.2'


@pytest.fixture(scope='module')
def server() -> Iterator[ServerProcess]:
    """A server with a limit for each address, and little patience with silence."""
    with ServerProcess(
        [
            *(COMMAND, 'serve', 'tests.attacks.silence_asgi:app', '--port', '{port}'),
            *('--ws-max-per-peer', str(LIMIT), '--ws-first-message-timeout', '2'),
        ]
    ) as server:
        yield server


class Visitors:
    """Connections from several addresses that stay until they are told to leave."""

    def __init__(self, server: ServerProcess, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack

    def visit(self, source: str, forwarded: str | None = None) -> tuple[int, RawSocket]:
        """Shake hands and say hello; return the status, and the connection."""
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


def test_h14_an_address_has_a_limit(visitors: Visitors) -> None:
    """H14: one more than the limit gets 429; others get in, and places become free."""
    crowd = [visitors.visit(CLIENT) for _ in range(LIMIT)]
    assert [101] * LIMIT == [status for status, _ in crowd]
    assert 429 == visitors.visit(CLIENT)[0]
    assert 101 == visitors.visit('127.0.0.3')[0]
    crowd[0][1].sock.close()
    wait_until(lambda: 101 == visitors.visit(CLIENT)[0], 'a place is free')
    assert 429 == visitors.visit(CLIENT)[0]


def test_h14_a_forged_address_changes_nothing(visitors: Visitors) -> None:
    """H14: X-Forwarded-For of anybody but a trusted proxy is not believed."""
    client = '127.0.0.4'
    statuses = [
        visitors.visit(client, f'203.0.113.{number}')[0] for number in range(LIMIT + 1)
    ]
    assert [*[101] * LIMIT, 429] == statuses


def test_h14_a_proxys_clients_are_counted_one_by_one(visitors: Visitors) -> None:
    """H14: behind a trusted proxy, the address counts that the proxy itself added."""
    for number in range(LIMIT):
        assert 101 == visitors.visit(PROXY, f'198.51.100.{number}, 203.0.113.7')[0]
    assert 429 == visitors.visit(PROXY, '203.0.113.7')[0]
    assert 429 == visitors.visit(PROXY, '198.51.100.9, 203.0.113.7')[0]
    assert 101 == visitors.visit(PROXY, '203.0.113.8')[0]


def test_h15_silence_after_the_accept_ends(
    server: ServerProcess, visitors: Visitors
) -> None:
    """H15: a client that never says anything gets 1008, one that has spoken stays."""
    _, talker = visitors.visit('127.0.0.5')
    with RawSocket(server.port, '/hello', source='127.0.0.5') as silent:
        silent.open()
        found = silent.read_message()
        assert (CLOSE, close_payload(1008, b'no message')) == found[:2]
        assert b'' == silent.read_rest()
    assert 'Message text was: still here' == talker.echo('still here')


def test_h15_a_client_that_does_not_connect_ends(server: ServerProcess) -> None:
    """H15: without a connect command the client protocol ends with 3502."""
    path = '/connection/websocket'
    with RawSocket(server.port, path, source='127.0.0.6') as sock:
        sock.open()
        found = sock.read_message()
        assert (CLOSE, close_payload(3502, b'stale')) == found[:2]
