"""Commands that speak to a running app: what they print, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest
from support.api_app import KEY
from support.asgi_servers import AsgiServer
from support.processes import free_port
from support.processes import ServerProcess
from support.processes import wait_until
from support.shell import Shell
from websockets.sync.client import connect

import falcon_channels
from falcon_channels.cli import main
from falcon_channels.tokens import TokenKey
from falcon_channels.tokens import TokenVerifier

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('commands')]

SECRET = 'a secret of the tests, which is long enough'


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    command = asgi_server.command('support.api_app:app')
    with ServerProcess(command, env={'PYTHONPATH': 'tests'}) as process:
        yield process


@pytest.fixture(autouse=True)
def environment(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FALCON_CHANNELS_API_URL', f'{server.url}/api')
    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', KEY)
    monkeypatch.setenv('FALCON_CHANNELS_TOKEN_SECRET', SECRET)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_publish_and_history(shell: Shell) -> None:
    """One command publishes, and the other prints the log, the oldest first."""
    (line,) = shell.lines('publish', 'rooms:c1', '{"n": 1}', '--tag', 'a=b=c')
    position = json.loads(line)
    assert 1 == position['offset']
    shell.lines('publish', 'rooms:c1', 'plain text', '--text')
    shell.lines('publish', 'rooms:c1', '[3]')
    items = [json.loads(line) for line in shell.lines('history', 'rooms:c1')]
    assert [{'n': 1}, 'plain text', [3]] == [item['data'] for item in items]
    assert {'a': 'b=c'} == items[0]['tags']
    (newest,) = shell.lines('history', 'rooms:c1', '--limit', '1')
    assert 3 == json.loads(newest)['offset']
    (oldest,) = shell.lines('history', 'rooms:c1', '--limit', '1', '--oldest-first')
    assert 1 == json.loads(oldest)['offset']
    assert [f'3:{position["epoch"]}'] == shell.lines(
        'history', 'rooms:c1', '--position'
    )
    since = f'2:{position["epoch"]}'
    (after,) = shell.lines('history', 'rooms:c1', '--since', since)
    assert 3 == json.loads(after)['offset']


def test_idempotency_key_publishes_once(shell: Shell) -> None:
    """The same key twice prints the same position twice."""
    words = ('publish', 'rooms:c2', '1', '--idempotency-key', 'k')
    assert shell.lines(*words) == shell.lines(*words)
    assert 1 == len(shell.lines('history', 'rooms:c2'))


def test_publish_with_an_old_version_prints_that_it_was_skipped(shell: Shell) -> None:
    """A late command does not replace a newer state."""
    words = ('publish', 'rooms:versions', '1', '--version')
    for version, skipped in (('5', False), ('4', True)):
        (line,) = shell.lines(*words, version)
        assert skipped == json.loads(line).get('skipped', False)
    (line,) = shell.lines(*words, '1', '--version-epoch', 'restored')
    assert 2 == json.loads(line)['offset']


def test_finish_ends_a_channel_and_tail_stops(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tail` prints the last publications and ends; a failed channel is an error."""
    shell.lines('publish', 'rooms:done', '"a"')
    words = ('finish', 'rooms:done', '--idempotency-key', 'k')
    assert shell.lines(*words, '--data', '"b"') == shell.lines(*words)
    assert 'the channel is finished' in shell.error('publish', 'rooms:done', '1')
    assert 0 == main(['tail', 'rooms:done', '--data'])
    printed = capsys.readouterr()
    assert '"a"\n"b"\n' == printed.out
    assert 'falcon-channels: the channel is finished\n' == printed.err
    shell.lines('finish', 'rooms:failed', '--error', 'too long')
    assert 'the channel has failed: too long' in shell.error('tail', 'rooms:failed')


def test_output_cannot_steer_the_terminal(shell: Shell) -> None:
    """Control characters and direction marks of others are printed escaped."""
    nasty = 'a\x1b[2J\x9b\u202e\U000e0001\nb'
    shell.lines('publish', 'rooms:c3', json.dumps(nasty))
    (line,) = shell.lines('history', 'rooms:c3')
    assert line.isprintable()
    assert nasty == json.loads(line)['data']


def test_messages_cannot_steer_the_terminal(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors contain text of others, and are printed escaped, too."""
    shell.lines('finish', 'rooms:failed2', '--error', 'a\x1b[2J\x9b\u202e\nb')
    assert 1 == main(['tail', 'rooms:failed2'])
    printed = capsys.readouterr().err.removesuffix('\n')
    assert printed.isprintable()
    assert 'the channel has failed: a\\u001b[2J' in printed


def test_explain_prints_one_line_for_each_connection(
    server: ServerProcess, shell: Shell
) -> None:
    """A line has the verdict, the words and the connection; --json has the evidence."""
    with connect(f'{server.ws_url}/ws/rooms:e1?user=ann') as ws:
        ws.recv(30)
        (recorded,) = shell.lines('explain', '--user', 'ann', '--record-s', '60')
        assert {'num_nodes': 1} == json.loads(recorded)
        shell.lines('publish', 'rooms:e1', '1')
        ws.recv(30)
        (line,) = shell.lines('explain', 'rooms:e1', '1', '--user', 'ann')
        assert line.startswith('delivered: it was written to the socket at ')
        (detailed,) = shell.lines('explain', 'rooms:e1', '1', '--user', 'ann', '--json')
        answer = json.loads(detailed)
        assert 'delivered' == answer['verdict']
        assert f'connection {answer["connection"]}' in line
        (other,) = shell.lines('explain', 'rooms:e1', '2', '--user', 'ann')
        assert (
            'not_published: the newest publication of the channel has offset 1'
            == (other.partition(' (')[0])
        )
    shell.lines('explain', '--user', 'ann', '--record-s', '0')


def test_connection_whose_id_begins_with_a_minus_sign_is_a_value(shell: Shell) -> None:
    """The commands that name a connection accept each id that the server can make."""
    client = '-LDAxJkxtVPDIz9J_KqrFQ'
    shell.lines('publish', 'rooms:e3', '1')
    words = ('explain', 'rooms:e3', '1', '--user', 'ann', '--client', client)
    (line,) = shell.lines(*words)
    assert repr(client) in line
    assert f' (connection {client}, node ' in line
    assert [] == shell.lines('connections', '--client', client)
    (counts,) = shell.lines('disconnect', 'ann', '--client', client)
    assert 0 == json.loads(counts)['num_connections']


def test_explain_escapes_control_characters_of_users(shell: Shell) -> None:
    """A user id can have any characters; they do not reach the terminal."""
    shell.lines('publish', 'rooms:e2', '1')
    user = 'a\x1b[2J\u202eb'
    (line,) = shell.lines('explain', 'rooms:e2', '1', '--user', user)
    assert line.isprintable()
    assert '\\x1b[2J' in line


def test_explain_with_wrong_arguments_is_refused(shell: Shell) -> None:
    """One line names the argument that is missing or not allowed."""
    assert 'name a channel and an offset' in shell.error('explain', '--user', 'ann')
    words = ('explain', 'rooms:e3', '1', '--user', 'ann')
    assert 'name no channel' in shell.error(*words, '--record-s', '9')
    words = ('explain', '--user', 'ann', '--record-s')
    assert 'name no channel' in shell.error(*words, '9', '--client', 'one')
    assert 'name no channel' in shell.error(*words, '9', '--epoch', 'one')
    assert 'error 107' in shell.error('explain', 'rooms:e3', '0', '--user', 'ann')
    assert 'error 108' in shell.error('explain', 'plain:a', '1', '--user', 'ann')
    assert 'error 102' in shell.error('explain', 'nowhere', '1', '--user', 'ann')
    assert 'for_s' in shell.error('explain', '--user', 'ann', '--record-s', '1e9')


def test_presence_and_channels(server: ServerProcess, shell: Shell) -> None:
    """One command prints the users in a channel, the other the subscribed channels."""
    with connect(f'{server.ws_url}/ws/rooms:c4?user=ann') as ws:
        ws.recv(30)
        wait_until(lambda: shell.lines('presence', 'rooms:c4'), 'ann is there')
        (line,) = shell.lines('presence', 'rooms:c4')
        assert ('ann', {'name': 'ANN'}) == (
            json.loads(line)['user'],
            json.loads(line)['conn_info'],
        )
        (count,) = shell.lines('presence', 'rooms:c4', '--count')
        assert {'num_clients': 1, 'num_users': 1} == json.loads(count)
        assert [['1', 'rooms:c4']] == [
            line.split() for line in shell.lines('channels', 'rooms:c*')
        ]


@pytest.mark.parametrize('channel', [None, 'rooms:a'])
def test_token(shell: Shell, channel: str | None) -> None:
    """A token is made that the verifier takes."""
    words = ['token', 'ann', '--info', '{"a": 1}']
    (made,) = shell.lines(*words, *(['--channel', channel] if channel else []))
    verifier = TokenVerifier(TokenKey(SECRET))
    verify: Any = verifier.connection if channel is None else verifier.subscription
    token = verify(made)
    assert ('ann', channel) == (token.user, getattr(token, 'channel', None))
    assert {'a': 1} == token.info


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (
            ['publish', 'nowhere', '1'],
            'error 102: unknown channel; check the name, or add a route',
        ),
        (['publish', 'rooms:a', 'hello'], 'not JSON'),
        (['publish', 'rooms:a', '1', '--tag', 'x'], 'NAME=VALUE'),
        (['history', 'plain:a'], 'error 108'),
        (['history', 'rooms:a', '--since', 'x'], 'OFFSET:EPOCH'),
        (['history', 'rooms:a', '--since', '1:zzz'], 'error 112'),
        (['presence', 'plain:a'], 'error 108'),
        (['tail', 'nowhere'], 'error 102'),
        (['tail', 'rooms:a', '--since', 'x'], 'OFFSET:EPOCH'),
        (['tail', 'rooms:a', '--url', 'http://127.0.0.1:1/api'], 'no answer'),
        (['channels', '--url', 'nowhere'], 'is no URL'),
        (['channels', '--url', 'ftp://127.0.0.1/'], 'is no URL'),
        (['channels', '--url', 'http://127.0.0.1:x/'], 'is no URL'),
        (['channels', '--url', 'http://a:b@127.0.0.1/'], 'do not belong'),
        (['channels', '--url', 'http://127.0.0.1:1/api'], 'no answer'),
        (['channels', '--key-file', '/nonexistent'], 'cannot read'),
        (['token', 'ann', '--info', '{'], 'not JSON'),
    ],
)
def test_errors_are_one_line(shell: Shell, words: list[str], said: str) -> None:
    """An error is one line without a traceback, and the exit code is 1."""
    assert said in shell.error(*words)


def test_url_without_a_server_api_is_reported(
    server: ServerProcess, shell: Shell
) -> None:
    """The error says that the URL has no server API."""
    assert 'HTTP 404' in shell.error('channels', '--url', f'{server.url}/nope')


def test_command_without_a_key_fails(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a key, or with a wrong one, the command says what to do."""
    monkeypatch.delenv('FALCON_CHANNELS_API_KEY')
    assert 'set FALCON_CHANNELS_API_KEY' in shell.error('channels')
    file = tmp_path / 'key'
    file.write_text(f'{KEY}\n')
    assert isinstance(shell.lines('channels', '--key-file', str(file)), list)
    file.write_text('another key')
    assert 'HTTP 401' in shell.error('channels', '--key-file', str(file))
    assert 'another key' not in shell.error('channels', '--key-file', str(file))


def test_unencrypted_key_prints_a_warning(
    shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that would travel over a network in the clear brings a warning."""
    url = 'http://falcon-channels.invalid:1/api'
    assert 1 == main(['channels', '--url', url, '--timeout-s', '5'])
    assert 'unencrypted to falcon-channels.invalid' in capsys.readouterr().err


def test_version_is_printed_without_a_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`falcon-channels --version` prints the installed version."""
    with pytest.raises(SystemExit) as caught:
        main(['--version'])
    assert 0 == caught.value.code
    assert f'falcon-channels {falcon_channels.__version__}\n' == capsys.readouterr().out


def test_unknown_words_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with code 2 and the usage."""
    with pytest.raises(SystemExit) as caught:
        main(['publish', 'rooms:a'])
    assert 2 == caught.value.code
    assert 'usage: falcon-channels publish' in capsys.readouterr().err


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name('falcon-channels')), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_tail_prints_old_and_new_publications_once(shell: Shell) -> None:
    """A tail prints old publications and new ones, each once, until Ctrl-C."""
    for n in range(4):
        shell.lines('publish', 'rooms:c5', str(n))
    with command('tail', 'rooms:c5', '--data', '--lines', '2') as process:
        assert process.stdout is not None
        old = [process.stdout.readline() for _ in range(2)]
        for n in range(4, 1500, 500):
            publish_many('rooms:c5', n, n + 60)
            expected = [f'{i}\n' for i in range(n, n + 60)]
            assert expected == [process.stdout.readline() for _ in range(60)]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=30)
    assert (['2\n', '3\n'], '', '') == (old, rest, said)
    assert 130 == process.returncode


def test_tail_reports_the_number_of_lost_publications(shell: Shell) -> None:
    """Lost publications are counted, and the stored ones are printed."""
    publish_many('rooms:c6', 0, 130)
    (position,) = shell.lines('history', 'rooms:c6', '--position')
    epoch = position.partition(':')[2]
    with command('tail', 'rooms:c6', '--data', '--since', f'10:{epoch}') as process:
        assert process.stdout is not None
        got = [process.stdout.readline() for _ in range(100)]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert [f'{i}\n' for i in range(30, 130)] == got
    assert '20 publications are no longer in the history' in said


def test_tail_waits_for_a_server_that_restarts(asgi_server: AsgiServer) -> None:
    """A tail goes on with a new server, and says that the channel began anew."""
    port = free_port()
    serve = asgi_server.command('support.api_app:app')
    url = f'http://127.0.0.1:{port}/api'
    env = {'PYTHONPATH': 'tests'}
    with contextlib.ExitStack() as stack:
        with ServerProcess(serve, port=port, env=env):
            publish_many('rooms:c7', 0, 1, url)
            process = stack.enter_context(
                command('tail', 'rooms:c7', '--data', '--url', url)
            )
            assert process.stdout is not None
            assert '0\n' == process.stdout.readline()
        with ServerProcess(serve, port=port, env=env):
            publish_many('rooms:c7', 7, 8, url)
            assert '7\n' == process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert 'the channel began anew' in said


def test_closed_pipe_ends_the_command_without_an_error(shell: Shell) -> None:
    """A reader that has enough, such as head, ends the command without complaint."""
    publish_many('rooms:c8', 0, 5)
    with command('tail', 'rooms:c8') as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()

        def ended() -> bool:
            publish_many('rooms:c8', 0, 1)
            return process.poll() is not None

        wait_until(ended, 'it ends')
        assert process.stderr is not None
        assert (0, '') == (process.returncode, process.stderr.read())


def publish_many(channel: str, start: int, stop: int, url: str | None = None) -> None:
    """Publish the numbers from `start` up to `stop` in one request."""
    commands = [
        {'publish': {'channel': channel, 'data': n}} for n in range(start, stop)
    ]
    answer = httpx.post(
        f'{url or os.environ["FALCON_CHANNELS_API_URL"]}/batch',
        json={'commands': commands},
        headers={'X-API-Key': KEY},
        timeout=30,
    )
    assert stop - start == len(answer.json()['replies'])
