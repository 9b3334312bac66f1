"""Plain event streams with curl and the npm package `eventsource`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import json
from pathlib import Path
import signal
import subprocess

import httpx
import pytest
from support.asgi_servers import AsgiServer
from support.processes import free_port
from support.processes import ServerProcess

from conformance.test_event_source import CLOSED
from conformance.test_event_source import CONNECTING
from conformance.test_event_source import event_source

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

APP = 'support.events_app:app'


@pytest.fixture
def start(tmp_path: Path) -> Callable[[AsgiServer], ServerProcess]:
    """Return a function that makes a server; all have one port and one broker."""
    port = free_port()
    env = {'PYTHONPATH': 'tests', 'BROKER': f'sqlite:///{tmp_path}/channels.db'}

    def make(asgi_server: AsgiServer) -> ServerProcess:
        command = asgi_server.command(APP, *asgi_server.ends_streams)
        return ServerProcess(command, port=port, env=env)

    return make


def publish(server: ServerProcess, *values: object) -> None:
    answer = httpx.post(f'{server.url}/events/a', json=values, trust_env=False)
    assert 200 == answer.status_code


def numbers(lines: Iterator[str], count: int) -> list[int]:
    """Return the next numbers that an EventSource prints; it may also reconnect."""
    found: list[int] = []
    while len(found) < count:
        line = next(lines)
        if line != CONNECTING:
            found.append(json.loads(line))
    return found


def check_restart(
    start: Callable[[AsgiServer], ServerProcess],
    asgi_server: AsgiServer,
    end: Callable[[ServerProcess], object],
) -> None:
    """Publish before and after a restart; an EventSource must receive all, once."""
    with start(asgi_server) as server:
        url = f'{server.url}/events/a?start=1'
        with event_source(url) as lines:
            # The event `start` is not printed: it shows that the stream is open.
            assert 'start' == next(lines)
            publish(server, 1, 2, 3)
            assert [1, 2, 3] == numbers(lines, 3)
            end(server)
            assert CONNECTING == next(lines)
            with start(asgi_server) as again:
                publish(again, *range(4, 60))
                assert [*range(4, 60)] == numbers(lines, 56)


@pytest.mark.every_server
def test_event_source_of_node_resumes_after_the_server_was_killed(
    start: Callable[[AsgiServer], ServerProcess], asgi_server: AsgiServer
) -> None:
    """An EventSource receives every publication once, although its server dies."""
    check_restart(start, asgi_server, lambda server: server.kill())


@pytest.mark.every_server
def test_event_source_of_node_resumes_after_a_stop(
    start: Callable[[AsgiServer], ServerProcess], asgi_server: AsgiServer
) -> None:
    """A server that stops ends the streams. An EventSource then connects again."""

    def stop(server: ServerProcess) -> None:
        server.signal(signal.SIGTERM)
        assert server.process is not None
        server.process.wait(15)
        assert not asgi_server.drains or 'drained 1 connections' in server.log()

    check_restart(start, asgi_server, stop)


@pytest.mark.every_server
def test_event_source_of_node_stops_at_the_end_of_its_channel(
    start: Callable[[AsgiServer], ServerProcess], asgi_server: AsgiServer
) -> None:
    """An EventSource gets everything and the end, connects once more, and stops."""
    with start(asgi_server) as server:
        url = f'{server.url}/events/a?start=1'
        with event_source(url) as lines:
            assert 'start' == next(lines)
            publish(server, 1, 2)
            answer = httpx.delete(f'{server.url}/events/a?error=x', trust_env=False)
            assert 200 == answer.status_code
            end = 'end {"channel":"rooms:a","error":"x"}'
            assert ['1', '2', end, CONNECTING, CLOSED] == [
                next(lines) for _ in range(5)
            ]


@pytest.mark.every_server
def test_curl_receives_events_and_polls(
    start: Callable[[AsgiServer], ServerProcess], asgi_server: AsgiServer
) -> None:
    """The commands of the documentation work."""
    with start(asgi_server) as server:
        url = f'{server.url}/events/a'
        curl = subprocess.Popen(
            ['curl', '-sN', f'{url}?start=1'],
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert curl.stdout is not None
        try:
            assert 'retry: 100\n' == curl.stdout.readline()
            assert 'event: start\n' == curl.stdout.readline()
            since = json.loads(curl.stdout.readline().removeprefix('data: '))['since']
            assert [f'id: {since}\n', '\n'] == [curl.stdout.readline() for _ in '12']
            publish(server, {'text': 'hi'})
            assert 'data: {"text":"hi"}\n' == curl.stdout.readline()
            epoch = since.partition(':')[2]
            assert [f'id: 1:{epoch}\n', '\n'] == [curl.stdout.readline() for _ in '12']
        finally:
            curl.kill()
            curl.wait()
            curl.stdout.close()
        command = ['curl', '-s', '-H', 'Accept: application/json']
        answer = subprocess.check_output([*command, f'{url}?since={since}'])
        item = {'channel': 'rooms:a', 'data': {'text': 'hi'}, 'offset': 1}
        assert json.loads(answer) == {
            'publications': [item],
            'since': f'1:{epoch}',
            'lost': [],
            'ended': [],
        }
