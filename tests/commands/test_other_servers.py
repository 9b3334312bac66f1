"""Commands whose server, arguments or output are not what they expect."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import http.server
import io
import json
import os
from pathlib import Path
import subprocess
import sys
import threading

import pytest
from support.shell import Shell

from falcon_channels.commands import client

COMMAND = str(Path(sys.executable).with_name('falcon-channels'))
NOT_UTF_8 = os.fsdecode(b'\xff')

FIELDS = [
    *('answers', 'channels', 'connections', 'nodes', 'num_clients', 'num_nodes'),
    *('num_users', 'presence', 'publications', 'responses', 'total'),
]
POSITION = {'offset': 1, 'epoch': 'e'}
ANSWERS = [
    b'',
    b'{}',
    b'[]',
    b'<html>',
    b'"\xff"',
    b'[' * 100_000,
    b'{"result": null}',
    b'{"result": []}',
    b'{"error": "wrong"}',
    b'{"error": {"code": "x"}}',
    b'{"error": {"code": 1}}',
    b'{"result": {}}',
    json.dumps({'result': dict.fromkeys(FIELDS, 'x')}).encode(),
    json.dumps({'result': {name: {'a': 1} for name in FIELDS} | POSITION}).encode(),
]
WORDS = [
    ['publish', 'rooms:a', '1'],
    ['broadcast', '1', 'rooms:a', 'rooms:b'],
    ['finish', 'rooms:a'],
    ['history', 'rooms:a'],
    ['history', 'rooms:a', '--position'],
    ['tail', 'rooms:a'],
    ['presence', 'rooms:a'],
    ['presence', 'rooms:a', '--count'],
    ['explain', 'rooms:a', '1', '--user', 'ann'],
    ['explain', '--user', 'ann', '--record-s', '1'],
    ['info'],
    ['channels'],
    ['connections'],
    ['disconnect', 'ann'],
    ['unsubscribe', 'ann', 'rooms:a'],
    ['revoke', 'ann', 'rooms:a'],
    ['inspect'],
]
#: Commands that need a position only, which the last answer has.
NEEDS_A_POSITION = ['publish', 'finish']
CASES = [
    pytest.param(words, answer, id=f'{" ".join(words)} {number}')
    for words in WORDS
    for number, answer in enumerate(ANSWERS)
    if words[0] not in NEEDS_A_POSITION or answer != ANSWERS[-1]
]


class Fixed(http.server.BaseHTTPRequestHandler):
    """Gives the same answer to each request."""

    answer = b''
    status = 200
    challenge = ''

    def do_POST(self) -> None:
        """Give the answer."""
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(self.status)
        if self.challenge:
            self.send_header('WWW-Authenticate', self.challenge)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Start a server with one answer; return its URL."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Fixed) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()

        def start(answer: bytes) -> str:
            Fixed.answer = answer
            return f'http://127.0.0.1:{server.server_port}/api'

        yield start
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', 'a key of the tests')
    monkeypatch.setenv('FALCON_CHANNELS_TOKEN_SECRET', 's' * 32)


@pytest.mark.parametrize(('words', 'answer'), CASES)
def test_answer_of_another_server_is_an_error(
    serve: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    answer: bytes,
) -> None:
    """An answer that no server API gives is one line, and the exit code is 1."""
    url = serve(answer)
    if words == ['inspect']:
        words = ['inspect', '--print', url]
    else:
        words = [*words, '--url', url]
    said = Shell(capsys).error(*words)
    assert 'did not answer as a server API' in said or 'not as an inspector' in said
    assert 'channels.add_' in said


@pytest.mark.parametrize(
    'response',
    [
        {},
        {'result': None},
        {'error': None},
        {'result': POSITION, 'error': {'code': 100, 'message': 'wrong'}},
    ],
    ids=str,
)
def test_response_of_a_broadcast_without_result_and_error_is_an_error(
    serve: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
    response: dict[str, object],
) -> None:
    """Each channel has either a result or an error.

    Before, a response without any field was a success.
    """
    url = serve(json.dumps({'result': {'responses': [response]}}).encode())
    said = Shell(capsys).error('broadcast', '1', 'rooms:a', '--url', url)
    assert "the response for 'rooms:a' needs a result or an error" in said


def test_fields_that_are_null_are_missing(
    serve: Callable[[bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Servers of other languages write ``null`` for a field without a value."""
    responses = [{'result': POSITION, 'error': None}]
    url = serve(
        json.dumps({'error': None, 'result': {'responses': responses}}).encode()
    )
    (line,) = Shell(capsys).lines('broadcast', '1', 'rooms:a', '--url', url)
    assert {'channel': 'rooms:a', **POSITION} == json.loads(line)


def test_request_that_is_too_large_says_which_option_limits_it(
    serve: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With status 413, the address is right: the message names the limit instead."""
    monkeypatch.setattr(Fixed, 'status', 413)
    url = serve(b'')
    said = Shell(capsys).error('publish', 'rooms:a', '1', '--url', url)
    assert 'max_body_bytes of channels.add_api' in said


@pytest.mark.parametrize(
    ('status', 'challenge'),
    [(401, ''), (401, 'Basic realm="falcon-channels"'), (200, 'falcon-channels')],
)
def test_service_that_asks_for_another_login_is_no_inspector(
    serve: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    challenge: str,
) -> None:
    """A person would type the key of the inspector into the page of the service.

    Before, an answer of ``{"result": null}`` was enough, with any status.
    """
    monkeypatch.setattr(Fixed, 'status', status)
    monkeypatch.setattr(Fixed, 'challenge', challenge)
    said = Shell(capsys).error('inspect', '--print', serve(b'{"result": null}'))
    assert f'answered HTTP {status}, and not as an inspector' in said


@pytest.mark.parametrize(
    'words',
    [
        ['publish', NOT_UTF_8, '1'],
        ['publish', 'rooms:a', NOT_UTF_8],
        ['publish', 'rooms:a', NOT_UTF_8, '--text'],
        ['disconnect', NOT_UTF_8],
        ['token', NOT_UTF_8],
        ['token', 'ann', '--channel', NOT_UTF_8],
        ['token', 'ann', '--audience', NOT_UTF_8],
        ['token', 'ann', '--info', NOT_UTF_8],
    ],
    ids=repr,
)
def test_argument_that_is_not_utf_8_is_an_error(
    serve: Callable[[bytes], str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """An argument that is not UTF-8 is reported in one line."""
    url = [] if words[0] == 'token' else ['--url', serve(b'{"result": {}}')]
    said = Shell(capsys).error(*words, *url)
    assert 'UTF-8' in said or 'utf-8' in said


@pytest.mark.parametrize(
    'url', ['http://127.0.0.1:9/\xe4', 'http://\xe4..b/', f'http://{"a" * 64}/']
)
@pytest.mark.parametrize('command', ['info', 'inspect'])
def test_url_that_http_cannot_send_is_no_url(
    capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    """Characters that a URL cannot have are reported in one line."""
    words = ['info', '--url', url] if command == 'info' else ['inspect', url]
    assert 'is no URL such as' in Shell(capsys).error(*words)


def test_output_to_a_full_disk_is_an_error() -> None:
    """If the output cannot be written, the exit code says so, without a traceback."""
    with open('/dev/full', 'wb') as full:
        done = subprocess.run(
            [COMMAND, 'token', 'ann'],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert 'No space left on device' in done.stderr


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_output_has_only_characters_of_its_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A character that the output cannot have is escaped, as in JSON."""
    value = {'text': 'a\xe9\u20ac\U0001f600'}
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, 'stdout', output)
    client.show(value)
    output.seek(0)
    assert value == json.loads(output.read())
