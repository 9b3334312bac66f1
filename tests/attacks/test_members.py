"""Members of a channel who attack, or fall silent, leave it on every server."""

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

#: How long somebody is looked at who is known to stay.
STAYS_S = 3.0

pytestmark = [
    pytest.mark.server,
    pytest.mark.every_server,
    pytest.mark.timeout(120),
]


@pytest.fixture(scope='module')
def rooms(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    """Rooms on a server that gives up soon on clients who are silent."""
    with ServerProcess(asgi_server.command(APP, *asgi_server.impatience)) as server:
        yield server


def members(server: ServerProcess) -> int:
    """Return how many connections the hub has."""
    with urllib.request.urlopen(f'{server.url}/figures', timeout=30) as answer:
        found: int = json.load(answer)['connections']
    return found


def leaves(server: ServerProcess, sent: bytes, known_to_stay: bool) -> str:
    """Let somebody join and send something; return what becomes of them."""
    with RawSocket(server.port, '/plain/hall') as sock:
        sock.open()
        wait_until(lambda: members(server) == 1, 'somebody is in the room')
        sock.push_and_read(sent)
        try:
            wait_until(
                lambda: members(server) == 0,
                'they have left',
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
    # NOTE: over the limit of every server's. Hypercorn only says so: it is the time
    #   limit of its options that ends the silence after it.
    'too much': frame(TEXT, b'a' * (17 << 20)),
}


@pytest.mark.parametrize('attack', list(ATTACKS))
def test_who_breaks_the_protocol_leaves(rooms: ServerProcess, attack: str) -> None:
    """A frame that ends the connection ends the membership with it."""
    assert 'leaves' == leaves(rooms, ATTACKS[attack], known_to_stay=False)


def test_who_is_silent_leaves(rooms: ServerProcess, asgi_server: AsgiServer) -> None:
    """A client that answers no ping is found by all servers that have pings."""
    stays = not asgi_server.finds_silent
    assert ('stays' if stays else 'leaves') == leaves(rooms, b'', known_to_stay=stays)
    # The end of TCP is noticed in any case.
    wait_until(lambda: members(rooms) == 0, 'they have left')
