"""The command `falcon-channels chat`, and the example."""

from __future__ import annotations

import json
from pathlib import Path
import select
import subprocess
import sys

import httpx
import pytest
from support.processes import ServerProcess

ROOM = '/api/rooms/lobby'

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('chat_command')]


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'falcon_channels_chat', *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={'PATH': '', **env},
        timeout=30,
        check=False,
    )


def test_two_workers_share_one_chat(tmp_path: Path) -> None:
    """Each of two processes knows the messages that were sent to the other one."""
    command = [str(Path(sys.executable).with_name('falcon-channels')), 'chat']
    command += ['--workers', '2', '--port', '{port}', '--database', 'talk.db']
    key = run('--bot-key', 'Echo', '--database', 'talk.db', cwd=tmp_path).stdout.strip()
    with ServerProcess(command, cwd=tmp_path) as server:
        for number in range(20):
            # A new client each time, because the kernel picks a process for each
            # connection.
            with httpx.Client(
                base_url=server.url, headers={'Authorization': f'Bearer {key}'}
            ) as http:
                sent = http.post(f'{ROOM}/messages', json={'text': str(number)})
                assert 201 == sent.status_code
        with httpx.Client(
            base_url=server.url, headers={'Authorization': f'Bearer {key}'}
        ) as http:
            page = http.get(ROOM).json()
    assert [str(number) for number in range(20)] == [
        message['text'] for message in page['messages']
    ]
    assert 20 == page['position']['offset']
    assert {'talk.db', 'chat-channels.db'} <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert 0 == path.stat().st_mode & 0o077, f'{path} is for its owner only'


def test_log_of_the_chat_can_be_json(tmp_path: Path) -> None:
    """With `--log-json`, each line after the address is an object, with the events."""
    command = ['python', '-m', 'falcon_channels_chat', '--port', '{port}', '--log-json']
    with ServerProcess(command, cwd=tmp_path) as server:
        assert 200 == httpx.get(f'{server.url}/health').status_code
        server.stop()
        address, *lines = server.log().splitlines()
    assert f'Chat: http://localhost:{server.port}/' == address
    events = [json.loads(line).get('event') for line in lines]
    assert ['node_started', 'node_draining', 'node_closed'] == [*filter(None, events)]


def test_tail_command_with_the_api_key_prints_messages(tmp_path: Path) -> None:
    """`falcon-channels tail` prints messages; without the API key the answer is 401."""
    key = 'k' * 43
    bot = run('--bot-key', 'Echo', cwd=tmp_path).stdout.strip()
    server = ServerProcess(
        ['python', '-m', 'falcon_channels_chat', '--port', '{port}'],
        cwd=tmp_path,
        env={'FALCON_CHANNELS_API_KEY': key},
    )
    with server:
        tail = subprocess.Popen(
            [Path(sys.executable).with_name('falcon-channels'), 'tail', 'rooms:lobby'],
            env={
                'FALCON_CHANNELS_API_KEY': key,
                'FALCON_CHANNELS_API_URL': f'{server.url}/api',
                'PYTHONUNBUFFERED': '1',
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        assert tail.stdout is not None
        with tail, tail.stdout:
            try:
                # It prints messages sent after its start, so send until it prints one.
                for _ in range(100):
                    httpx.post(
                        f'{server.url}{ROOM}/messages',
                        json={'text': 'a line'},
                        headers={'Authorization': f'Bearer {bot}'},
                    )
                    if select.select([tail.stdout], [], [], 0.3)[0]:
                        break
                assert '"text":"a line"' in tail.stdout.readline()
            finally:
                tail.terminate()
        stranger = httpx.post(f'{server.url}/api/info', json={})
        assert 401 == stranger.status_code


def test_chat_example_also_serves_the_hello_page(tmp_path: Path) -> None:
    """The app of `make run` has the chat at / and the hello page at /hello."""
    command = ['python', '-m', 'examples.chat_asgi', '--port', '{port}']
    database = str(tmp_path / 'chat.db')
    broker = f'sqlite:///{tmp_path}/channels.db'
    env = {'CHAT_DATABASE': database, 'CHAT_BROKER': broker}
    with ServerProcess(command, env=env) as server:
        assert 'Falcon Chat' in httpx.get(server.url).text
        assert 'WebSocket Chat' in httpx.get(f'{server.url}/hello').text
        assert 200 == httpx.get(f'{server.url}/static/hello.js').status_code
        assert f'Chat: http://localhost:{server.port}/' in server.log()


@pytest.mark.parametrize(
    ('arguments', 'env', 'complaint'),
    [
        (['--workers', '2'], {'CHAT_BROKER': 'memory://'}, 'a broker that they share'),
        ([], {'CHAT_SECRET': 'short'}, 'at least 32 characters'),
        ([], {'CHAT_MAX_ROOMS': 'many'}, 'max_rooms'),
        (['--bot-key', '\u202e'], {}, 'cannot be shown'),
        (['--bot-key', 'Echo', '--database', 'no/x.db'], {}, 'no/x.db cannot be used'),
    ],
)
def test_invalid_setting_is_reported_without_traceback(
    tmp_path: Path, arguments: list[str], env: dict[str, str], complaint: str
) -> None:
    """A wrong setting causes exit code 2 and a message without a traceback."""
    result = run(*arguments, cwd=tmp_path, **env)
    assert 2 == result.returncode
    assert complaint in result.stderr
    assert 'Traceback' not in result.stderr


def test_database_that_cannot_be_opened_is_reported_without_traceback(
    tmp_path: Path,
) -> None:
    """The chat exits with a message that names the file, without a traceback."""
    result = run('--port', '0', '--database', 'missing/talk.db', cwd=tmp_path)
    assert 3 == result.returncode
    assert (
        'the database missing/talk.db cannot be used: No such file or directory'
    ) in result.stderr
    assert 'Traceback' not in result.stderr


def test_missing_page_is_not_announced(tmp_path: Path) -> None:
    """Without a built page, the command names the way to get it, and no address.

    Before, it printed the address of the chat and answered every request with 503.
    """
    program = (
        'import sys; from pathlib import Path; '
        'from falcon_channels_chat import page, serving; '
        'page.FOLDER = Path("nothing"); sys.exit(serving.main(["--port", "0"]))'
    )
    result = subprocess.run(
        [sys.executable, '-c', program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=30,
        check=False,
    )
    assert 2 == result.returncode
    assert '' == result.stdout
    assert 'the page of the chat is not built: run `make web`' in result.stderr
