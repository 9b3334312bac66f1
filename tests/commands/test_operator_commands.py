"""Commands about connections, with an app that has two processes."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from typing import Any

import pytest
from support.api_app import KEY
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.shell import Shell
import websockets
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels.cli import main

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('operator commands')]


@pytest.fixture(scope='module')
def server(
    asgi_server: AsgiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    command = asgi_server.command('support.api_app:app', '--workers', '2')
    folder = tmp_path_factory.mktemp('operator')
    env = {'PYTHONPATH': 'tests', 'API_BROKER': f'sqlite:///{folder}/channels.db'}
    with ServerProcess(command, env=env) as process:
        yield process


@pytest.fixture
def shell(
    server: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.setenv('FALCON_CHANNELS_API_URL', f'{server.url}/api')
    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', KEY)
    shell = Shell(capsys)
    wait_until(lambda: len(shell.lines('info')) == 2, 'both processes have started')
    return shell


@contextlib.contextmanager
def sockets(
    server: ServerProcess, user: str, channel: str, count: int = 1
) -> Iterator[list[ClientConnection]]:
    """Connect plain WebSockets of a user that are subscribed to a channel."""
    with contextlib.ExitStack() as stack:
        url = f'{server.ws_url}/ws/{channel}?user={user}'
        opened = []
        for _ in range(count):
            ws = stack.enter_context(connect(url, open_timeout=30))
            assert 'subscribed' in json.loads(ws.recv(30))
            opened.append(ws)
        yield opened


def close_code(ws: ClientConnection) -> int:
    with pytest.raises(websockets.ConnectionClosed) as caught:
        ws.recv(30)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code


def parsed(lines: list[str]) -> list[Any]:
    return [json.loads(line) for line in lines]


def test_info_prints_each_process(server: ServerProcess, shell: Shell) -> None:
    """One line for each process has its id, name and counts."""
    with sockets(server, 'ann', 'rooms:o1', 3):
        nodes = parsed(shell.lines('info'))
        assert 2 == len({node['uid'] for node in nodes})
        assert 3 == sum(node['num_clients'] for node in nodes)


def test_connections_prints_those_of_a_user_of_all_processes(
    server: ServerProcess, shell: Shell
) -> None:
    """One line for each connection; the user, the channel and the id narrow them."""
    with sockets(server, 'ida', 'rooms:o2', 4), sockets(server, 'ben', 'rooms:o2'):
        found = parsed(shell.lines('connections', 'ida'))
        assert ['ida'] * 4 == [facts['user'] for facts in found]
        times = [facts['connected_at'] for facts in found]
        assert sorted(times) == times
        [ben] = parsed(shell.lines('connections', 'ben', '--channel', 'rooms:o2'))
        assert [ben] == parsed(shell.lines('connections', f'--client={ben["client"]}'))
        assert [] == shell.lines('connections', 'ben', '--channel', 'rooms:other')
        words = ('connections', '--channel', 'rooms:o2', '--count')
        assert [{'total': 5, 'num_nodes': 2}] == parsed(shell.lines(*words))


def test_connections_above_the_limit_are_reported(
    server: ServerProcess, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """If there are more connections, standard error says how many there are."""
    with sockets(server, 'lim', 'rooms:o3', 3):
        assert 0 == main(['connections', 'lim', '--limit', '2'])
    printed = capsys.readouterr()
    assert 2 == len(printed.out.splitlines())
    assert '2 of 3 connections are shown; increase --limit' in printed.err


def test_disconnect_closes_the_connections_of_a_user(
    server: ServerProcess, shell: Shell
) -> None:
    """The code and the reason reach all but excluded connections; the rest is told."""
    with sockets(server, 'dan', 'rooms:o4', 2) as (first, second):
        [excluded, other] = [
            facts['client'] for facts in parsed(shell.lines('connections', 'dan'))
        ]
        words = ('disconnect', 'dan', f'--exclude={excluded}', '--code', '4100')
        [line] = parsed(shell.lines(*words, '--reason', 'enough'))
        assert {'user': 'dan', 'num_connections': 1, 'num_nodes': 2} == line
        wait_until(
            lambda: shell.lines('connections', f'--client={other}') == [],
            'one connection has ended',
        )
        [line] = parsed(shell.lines('disconnect', 'dan', f'--client={excluded}'))
        assert 1 == line['num_connections']
        assert [3503, 4100] == sorted(map(close_code, (first, second)))
        [line] = parsed(shell.lines('disconnect', 'dan'))
        assert 0 == line['num_connections']


def test_unsubscribe_ends_the_subscription_to_one_channel(
    server: ServerProcess, shell: Shell
) -> None:
    """Only subscriptions to this channel end, and their number is printed."""
    with (
        sockets(server, 'uma', 'rooms:o5') as (ws,),
        sockets(server, 'uma', 'rooms:o6') as (other,),
    ):
        [line] = parsed(shell.lines('unsubscribe', 'uma', 'rooms:o5'))
        expected = {'user': 'uma', 'channel': 'rooms:o5'}
        assert {**expected, 'num_connections': 1, 'num_nodes': 2} == line
        assert 3403 == close_code(ws)
        shell.lines('publish', 'rooms:o6', '1')
        assert 1 == json.loads(other.recv(30))['data']


def test_revoke_refuses_a_user_until_restore(
    server: ServerProcess, shell: Shell
) -> None:
    """A revoked user is refused by all processes, and admitted after `restore`."""
    with sockets(server, 'rex', 'rooms:o7') as (ws,):
        [line] = parsed(shell.lines('revoke', 'rex', 'rooms:o7', '--ttl-s', '600'))
        expected = {'user': 'rex', 'channel': 'rooms:o7'}
        assert {
            **expected,
            'ttl_s': 600,
            'num_connections': 1,
            'num_nodes': 2,
        } == line
        assert 3403 == close_code(ws)
    for _ in range(4):
        with pytest.raises(websockets.InvalidStatus) as refused:
            connect(f'{server.ws_url}/ws/rooms:o7?user=rex', open_timeout=30)
        assert 403 == refused.value.response.status_code
    assert [expected] == parsed(shell.lines('restore', 'rex', 'rooms:o7'))
    with sockets(server, 'rex', 'rooms:o7', 4) as opened:
        assert 4 == len(opened)


def test_broadcast_publishes_to_all_channels(
    server: ServerProcess, shell: Shell
) -> None:
    """Each channel gets the data and the tags, and one line has its position."""
    names = ['rooms:o8', 'rooms:o9']
    lines = parsed(shell.lines('broadcast', '{"n": 1}', *names, '--tag', 'a=b'))
    assert [(name, 1) for name in names] == [
        (line['channel'], line['offset']) for line in lines
    ]
    for name in names:
        [item] = parsed(shell.lines('history', name))
        assert ({'n': 1}, {'a': 'b'}) == (item['data'], item['tags'])


def test_broadcast_to_more_channels_than_a_request_takes_reaches_all(
    shell: Shell,
) -> None:
    """Many channels are sent in several requests, and each is printed once."""
    names = [f'plain:{number}' for number in range(1001)]
    lines = parsed(shell.lines('broadcast', '1', *names))
    assert names == [line['channel'] for line in lines]


def test_broadcast_that_fails_in_one_channel_exits_with_1(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other channels get the publication; the line of the channel has the error."""
    assert 1 == main(['broadcast', '1', 'rooms:o10', 'nowhere'])
    printed = capsys.readouterr()
    first, second = parsed(printed.out.splitlines())
    assert ('rooms:o10', 1) == (first['channel'], first['offset'])
    assert {
        'channel': 'nowhere',
        'error': {'code': 102, 'message': 'unknown channel'},
    } == second
    assert '1 of 2 channels did not get the publication' in printed.err


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['disconnect', ''], 'add --anonymous'),
        (['disconnect', 'ann', '--anonymous'], 'give one of them'),
        (['disconnect', 'ann', '--code', '9'], 'must be from 3000 to 4999'),
        (['disconnect', 'ann', '--reason', 'x' * 124], 'exceeds 123'),
        (['unsubscribe', '', 'rooms:a'], 'add --anonymous'),
        (['unsubscribe', 'ann', ''], 'error 107'),
        (['revoke', '', 'rooms:a'], 'error 107'),
        (['revoke', 'ann', 'nowhere'], 'error 102'),
        (['restore', 'ann', 'nowhere'], 'error 102'),
        (['connections', '--limit', '1001'], 'error 107'),
        (['broadcast', 'hello', 'rooms:a'], 'not JSON'),
        (['info', '--url', 'http://127.0.0.1:1/api'], 'no answer'),
    ],
)
def test_errors_are_one_line_and_change_nothing(
    server: ServerProcess, shell: Shell, words: list[str], said: str
) -> None:
    """An error is one line with exit code 1, and nobody is disconnected."""
    with sockets(server, 'ann', 'rooms:a'), sockets(server, '', 'rooms:a'):
        assert said in shell.error(*words)
        [line] = parsed(shell.lines('connections', '--channel', 'rooms:a', '--count'))
        assert 2 == line['total']


def test_anonymous_clients_are_disconnected_only_on_request(
    server: ServerProcess, shell: Shell
) -> None:
    """With --anonymous, an empty user means the clients without a user."""
    with (
        sockets(server, '', 'rooms:o11') as (anonymous,),
        sockets(server, 'ann', 'rooms:o11') as (ann,),
    ):
        [line] = parsed(shell.lines('disconnect', '', '--anonymous'))
        assert 1 == line['num_connections']
        assert 3503 == close_code(anonymous)
        shell.lines('publish', 'rooms:o11', '1')
        assert 1 == json.loads(ann.recv(30))['data']
