"""`falcon-channels tail`: what it prints when links are lost and servers restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import http.server
import json
from pathlib import Path
import signal
import sys
import threading
from typing import Any
from typing import ClassVar

import httpx
import pytest
from support.api_app import KEY
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from support.processes import wait_until
from support.proxy import Proxy

from falcon_channels.cli import main
from falcon_channels.commands import tail

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('tail')]

COMMAND = str(Path(sys.executable).with_name('falcon-channels'))


@pytest.fixture(scope='module')
def server(
    asgi_server: AsgiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """An app with two processes that share a broker."""
    command = asgi_server.command('support.api_app:app', '--workers', '2')
    folder = tmp_path_factory.mktemp('tail')
    env = {'PYTHONPATH': 'tests', 'API_BROKER': f'sqlite:///{folder}/channels.db'}
    with ServerProcess(command, env=env) as process:
        wait_until(
            lambda: len(call(process, 'info')['nodes']) == 2,
            'both processes have started',
        )
        yield process


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', KEY)


def call(server: ServerProcess, method: str, **request: Any) -> Any:
    headers = {'X-API-Key': KEY}
    # NOTE: each call has a connection of its own, so that any process may get it.
    answer = httpx.post(
        f'{server.url}/api/{method}', json=request, headers=headers, timeout=30
    )
    return answer.json()['result']


def publish(server: ServerProcess, channel: str, *values: Any) -> None:
    for value in values:
        call(server, 'publish', channel=channel, data=value)


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class Tail:
    """The running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def lines(self, count: int) -> list[Any]:
        """Return the next lines of standard output, decoded."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return [
                json.loads(await self.process.stdout.readline()) for _ in range(count)
            ]

    async def said(self) -> str:
        """Return the next line of standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            line = await self.process.stderr.readline()
        return line.decode().removeprefix('falcon-channels: ').rstrip('\n')

    async def end(self) -> tuple[int | None, str, str]:
        """Return the exit code, and the rest of standard output and error."""
        async with asyncio.timeout(30):
            out, err = await self.process.communicate()
        return self.process.returncode, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def tailing(url: str, *words: str) -> AsyncIterator[Tail]:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *('tail', *words, '--url', f'{url}/api', '--data'),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Tail(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def wait_until_followed(server: ServerProcess, channel: str) -> None:
    """Wait until a process is subscribed to a channel for a tail."""
    await wait_for(
        lambda: call(server, 'connections', channel=channel, limit=0)['total'] == 1
    )


async def wait_until_nobody_follows(server: ServerProcess, channel: str) -> None:
    await wait_for(
        lambda: call(server, 'connections', channel=channel, limit=0)['total'] == 0
    )


@pytest.mark.parametrize('channel', ['rooms:t1', 'plain:t1'])
async def test_publications_of_all_processes_are_printed_in_order(
    server: ServerProcess, channel: str
) -> None:
    """Also a channel without history and without other subscribers is followed."""
    async with tailing(server.url, channel) as shown:
        await wait_until_followed(server, channel)
        publish(server, channel, *range(8))
        assert [*range(8)] == await shown.lines(8)
        shown.process.send_signal(signal.SIGINT)
        assert (130, '', '') == await shown.end()
    await wait_until_nobody_follows(server, channel)


async def test_lost_link_is_mended_without_a_loss(server: ServerProcess) -> None:
    """Publications during the interruption are printed once and in order."""
    async with Proxy(server.port) as proxy, tailing(proxy.url, 'rooms:t2') as shown:
        await wait_until_followed(server, 'rooms:t2')
        publish(server, 'rooms:t2', 0, 1)
        assert [0, 1] == await shown.lines(2)
        await proxy.cut()
        publish(server, 'rooms:t2', *range(2, 7))
        assert (await shown.said()).endswith('; waiting')
        await proxy.mend()
        assert 'the server is back' == await shown.said()
        publish(server, 'rooms:t2', 7)
        assert [*range(2, 8)] == await shown.lines(6)


async def test_publications_that_the_history_lost_are_counted(
    server: ServerProcess,
) -> None:
    """After a long cut, the rest of the history is printed, and the loss is told."""
    async with Proxy(server.port) as proxy, tailing(proxy.url, 'rooms:t3') as shown:
        await wait_until_followed(server, 'rooms:t3')
        publish(server, 'rooms:t3', 0)
        assert [0] == await shown.lines(1)
        await proxy.cut()
        commands = [
            {'publish': {'channel': 'rooms:t3', 'data': n}} for n in range(1, 131)
        ]
        answer = httpx.post(
            f'{server.url}/api/batch',
            json={'commands': commands},
            headers={'X-API-Key': KEY},
            timeout=30,
        )
        assert 130 == len(answer.json()['replies'])
        assert (await shown.said()).endswith('; waiting')
        await proxy.mend()
        assert 'the server is back' == await shown.said()
        assert '30 publications are no longer in the history' == await shown.said()
        assert [*range(31, 131)] == await shown.lines(100)
        publish(server, 'rooms:t3', 131)
        assert [131] == await shown.lines(1)


async def test_lost_link_without_a_history_is_reported(server: ServerProcess) -> None:
    """Without a position nothing can be recovered, and the command says so."""
    async with Proxy(server.port) as proxy, tailing(proxy.url, 'plain:t4') as shown:
        await wait_until_followed(server, 'plain:t4')
        publish(server, 'plain:t4', 'first')
        assert ['first'] == await shown.lines(1)
        await proxy.cut()
        assert (await shown.said()).endswith('; waiting')
        await proxy.mend()
        assert 'the server is back' == await shown.said()
        assert 'the channel has no history' in await shown.said()
        publish(server, 'plain:t4', 'again')
        assert ['again'] == await shown.lines(1)


#: End of an answer after which the server is silent.
SILENCE = b'{}\n'


class Script(http.server.BaseHTTPRequestHandler):
    """A server that answers the requests with a script."""

    #: Status and body of each answer, in order.
    answers: ClassVar[list[tuple[int, bytes]]] = []
    #: The requests, with the last part of their paths.
    requests: ClassVar[list[tuple[str, Any]]] = []
    #: Set when the last request may end.
    go_on: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.requests.append((self.path.rpartition('/')[2], json.loads(body)))
        status, answer = self.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()
        if answer.endswith(SILENCE):
            self.go_on.wait(30)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


@pytest.fixture
def scripted() -> Iterator[Callable[..., str]]:
    """Start a server with a script; return its URL."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Script) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def start(*answers: tuple[int, Any]) -> str:
            Script.answers[:] = [
                (status, body if isinstance(body, bytes) else lines(body))
                for status, body in answers
            ]
            Script.requests.clear()
            Script.go_on.clear()
            return f'http://127.0.0.1:{server.server_port}'

        yield start
        Script.go_on.set()
        server.shutdown()
        thread.join()


def lines(values: list[Any]) -> bytes:
    return b''.join(json.dumps(value).encode() + b'\n' for value in values)


def line(offset: int) -> Any:
    item = {'offset': offset, 'data': offset}
    return {'publication': item, 'epoch': 'e'}


EMPTY = (
    200,
    b'{"result":{"publications":[],"offset":0,"epoch":"e"}}',
)
BEGIN = {'subscribed': {'offset': 0, 'epoch': 'e', 'recovered': True}}
END = {'end': {'error': '', 'offset': 3, 'epoch': 'e'}}


def run(
    capsys: pytest.CaptureFixture[str], url: str, *words: str
) -> tuple[int, list[Any], list[str]]:
    """Run the command here; return its exit code, its output and its messages."""
    code = main(['tail', 'rooms:a', '--url', f'{url}/api', '--data', *words])
    printed = capsys.readouterr()
    said = [text.removeprefix('falcon-channels: ') for text in printed.err.splitlines()]
    return code, [json.loads(text) for text in printed.out.splitlines()], said


@pytest.mark.parametrize(
    'start',
    [b'{"publication": {"off', b'{"publication": {"offset": 2}', b'{"a": "\xc3'],
    ids=['in a word', 'after a brace', 'in a character'],
)
def test_stream_that_is_cut_within_a_line_is_continued(
    scripted: Callable[..., str], capsys: pytest.CaptureFixture[str], start: bytes
) -> None:
    """Half a line is not printed; the next connection continues before it."""
    half = lines([BEGIN, {}, line(1)]) + start
    url = scripted(
        EMPTY,
        (200, half),
        (502, b'bad gateway'),
        (200, b'{"error":{"code":100,"message":"internal server error"}}'),
        (200, [BEGIN, line(2)]),
        (200, [BEGIN, END]),
    )
    code, printed, said = run(capsys, url)
    assert (0, [1, 2]) == (code, printed)
    assert 'the channel is finished' == said[-1]
    since = [request['since'] for name, request in Script.requests if name == 'tail']
    assert [0, 1, 1, 1, 2] == [position['offset'] for position in since]


def test_silent_link_is_noticed_by_missing_heartbeats(
    scripted: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection without heartbeats is given up, and the next one continues."""
    monkeypatch.setattr(tail, '_HEARTBEAT_S', 1)
    url = scripted(EMPTY, (200, [BEGIN, line(1), line(2), {}]), (200, [BEGIN, END]))
    code, printed, said = run(capsys, url, '--timeout-s', '0.1')
    assert (0, [1, 2]) == (code, printed)
    assert said[0].endswith('timed out; waiting')
    assert ['the server is back', 'the channel is finished'] == said[1:]


def test_gap_in_the_stream_is_filled_from_the_history(
    scripted: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A server drops publications for a slow reader; they are read again."""
    page = {
        'publications': [{'offset': n, 'data': n} for n in (2, 3, 4, 5)],
        'offset': 5,
        'epoch': 'e',
    }
    url = scripted(
        EMPTY,
        (200, [BEGIN, line(1), line(4), line(4), {'end': {**END['end'], 'offset': 5}}]),
        (200, json.dumps({'result': page}).encode()),
    )
    assert (0, [1, 2, 3, 4], ['the channel is finished']) == run(capsys, url)


@pytest.mark.parametrize(
    ('begin', 'items', 'told', 'position'),
    [
        ({'offset': 2, 'epoch': 'other'}, [1, 2], 'the channel began anew', 2),
        ({'offset': 2, 'epoch': 'e'}, [], 'is at offset 2, which is before 5', 2),
        ({'offset': 0, 'epoch': ''}, [], 'the channel has no history', None),
    ],
)
def test_position_that_the_channel_does_not_have_is_reported(
    scripted: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    begin: dict[str, Any],
    items: list[int],
    told: str,
    position: int | None,
) -> None:
    """The command says what is wrong, and goes on from the position of the channel.

    If the channel has begun anew, its new history is printed.
    """
    publications = [{'offset': n, 'data': n} for n in items]
    page = {'publications': publications, 'offset': 2, 'epoch': 'other'}
    history = (200, json.dumps({'result': page}).encode())
    url = scripted(
        (200, [{'subscribed': {**begin, 'recovered': False}}]),
        *([history] if items else []),
        (401, b'{}'),
    )
    code, printed, said = run(capsys, url, '--since', '5:e')
    assert (1, items) == (code, printed)
    assert told in said[0]
    _, last = Script.requests[-1]
    assert position == last.get('since', {}).get('offset')


@pytest.mark.parametrize(
    ('answer', 'told'),
    [
        ((401, b'{}'), 'the server does not know this key'),
        ((404, b'{}'), 'answered HTTP 404'),
        ((200, b'{"error":{"code":102,"message":"unknown channel"}}'), 'error 102'),
        ((200, b'<html>\n'), 'did not answer as a server API does'),
    ],
)
def test_refusal_after_a_lost_connection_ends_the_command(
    scripted: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    answer: tuple[int, bytes],
    told: str,
) -> None:
    """A server that is back and refuses is not asked again and again."""
    url = scripted(EMPTY, (200, [BEGIN]), answer)
    code, printed, said = run(capsys, url)
    assert (1, []) == (code, printed)
    assert said[0].endswith('ended the stream; waiting')
    assert told in said[1]


def test_end_by_the_server_that_is_final_ends_the_command(
    scripted: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """After a code that forbids to return, the exit code is 1."""
    end = {'code': 3503, 'reason': 'force disconnect', 'reconnect': False}
    url = scripted(EMPTY, (200, [BEGIN, {'disconnect': end}]))
    expected = (1, [], ['the server ended the tail: 3503 force disconnect'])
    assert expected == run(capsys, url)
