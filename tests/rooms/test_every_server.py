"""Plain WebSockets on every ASGI server: all publications, in order."""

from __future__ import annotations

import json

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.rawsocket import CLOSE
from support.rawsocket import frame
from support.rawsocket import RawSocket
from support.rawsocket import TEXT
from websockets.sync.client import connect

from rooms.servers import APP
from rooms.servers import FURTHER

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('rooms')]


@pytest.mark.every_server
def test_slow_reader_gets_all_publications_once_and_in_order(
    asgi_server: AsgiServer,
) -> None:
    """A reader that falls behind gets all publications, each once, in order."""
    with ServerProcess(asgi_server.command(APP)) as server:
        check_slow_reader(server)


@pytest.mark.every_server
def test_messages_just_before_the_close_frame_are_published(
    asgi_server: AsgiServer,
) -> None:
    """Messages that arrive together with the close are published in order."""
    with (
        ServerProcess(asgi_server.command(APP)) as server,
        connect(server.ws_url + '/log/b', compression=None) as reader,
    ):
        reader.recv(30)
        for visit in range(5 if asgi_server.hears_all else 1):
            with RawSocket(server.port, '/log/b') as leaver:
                leaver.open()
                said = [frame(TEXT, b'[%d,%d]' % (visit, n)) for n in range(9)]
                leaver.send(b''.join(said) + frame(CLOSE, b'\x03\xe8'))
                for n in range(9 if asgi_server.hears_all else 1):
                    assert [visit, n] == json.loads(reader.recv(30))['data']


@pytest.mark.parametrize('command', FURTHER.values(), ids=FURTHER.keys())
def test_slow_reader_on_further_servers_gets_all_publications(
    command: list[str],
) -> None:
    """The same holds on servers that the rest of the suite does not use."""
    with ServerProcess(command) as server:
        check_slow_reader(server)


def check_slow_reader(server: ServerProcess) -> None:
    """Read publications late, and read some again from a position."""
    words = 'x' * 10_000
    with (
        connect(server.ws_url + '/log/a', compression=None, max_size=None) as reader,
        connect(server.ws_url + '/log/a', compression=None, max_size=None) as writer,
    ):
        assert 0 == json.loads(reader.recv(30))['subscribed']['offset']
        assert 0 == json.loads(writer.recv(30))['subscribed']['offset']
        for number in range(300):
            writer.send(json.dumps([number, words]))
            # NOTE: Only the writer reads, so the other client falls behind.
            assert number == json.loads(writer.recv(30))['data'][0]
        for number in range(300):
            message = json.loads(reader.recv(30))
            assert [number, words] == message['data']
            assert number + 1 == message['offset']
        epoch = message['epoch']
    url = f'{server.ws_url}/log/a?since=290:{epoch}'
    with connect(url, compression=None, max_size=None) as back:
        assert True is json.loads(back.recv(30))['subscribed']['recovered']
        for number in range(290, 300):
            assert number + 1 == json.loads(back.recv(30))['offset']
