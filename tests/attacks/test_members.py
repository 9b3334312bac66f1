"""Subscribers that attack, or become silent, leave their channel on every server."""

from __future__ import annotations

from collections.abc import Iterator
import json
import urllib.request

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.rawsocket import CLOSE
from support.rawsocket import close_payload
from support.rawsocket import frame
from support.rawsocket import RawSocket
from support.rawsocket import TEXT

APP = 'tests.rooms.app:app'

#: Time for which a client that is known to stay is watched, in seconds.
STAYS_S = 3.0

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.timeout(120),
]


@pytest.fixture(scope='module')
def rooms(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    """Rooms on a server with short timeouts for silent clients."""
    with ServerProcess(asgi_server.command(APP, *asgi_server.impatience)) as server:
        yield server


def connections(server: ServerProcess) -> int:
    """Return the number of connections of the hub."""
    with urllib.request.urlopen(f'{server.url}/metrics', timeout=30) as answer:
        found: int = json.load(answer)['connections']
    return found


def outcome_of(server: ServerProcess, sent: bytes, known_to_stay: bool) -> str:
    """Subscribe one client and send something; return whether it leaves."""
    with RawSocket(server.port, '/plain/hall') as sock:
        sock.open()
        wait_until(lambda: connections(server) == 1, 'the client is in the room')
        sock.push_and_read(sent)
        try:
            wait_until(
                lambda: connections(server) == 0,
                'the client has left',
                STAYS_S if known_to_stay else 30.0,
            )
        except AssertionError:
            return 'stays'
    return 'leaves'


ATTACKS = {
    'not masked': frame(TEXT, b'hello', key=None),
    'not UTF-8': frame(TEXT, b'caf\xe9'),
    'reserved bit': frame(TEXT, b'hello', rsv=2),
    'bad code': frame(CLOSE, close_payload(1005)),
    # NOTE: Over the limit of every server. Hypercorn only sends the close frame; the
    # timeout of its options then ends the connection.
    'too much': frame(TEXT, b'a' * (17 << 20)),
}


@pytest.mark.parametrize('attack', list(ATTACKS))
def test_client_that_violates_the_protocol_leaves_its_channel(
    rooms: ServerProcess, attack: str
) -> None:
    """A frame that ends the connection ends its subscription, too."""
    assert 'leaves' == outcome_of(rooms, ATTACKS[attack], known_to_stay=False)


def test_client_that_answers_no_ping_leaves_its_channel(
    rooms: ServerProcess, asgi_server: AsgiServer
) -> None:
    """All servers that have pings detect such a client."""
    stays = not asgi_server.finds_silent
    assert ('stays' if stays else 'leaves') == outcome_of(
        rooms, b'', known_to_stay=stays
    )
    # NOTE: All servers detect the end of the TCP connection.
    wait_until(lambda: connections(rooms) == 0, 'the client has left')
