"""Event streams and polls of a portal, in real WSGI servers."""

from __future__ import annotations

from collections.abc import Iterator
import json
import socket
from typing import Any

import httpx
import pytest
from support.event_reader import EventReader
from support.processes import ServerProcess
from support.processes import wait_until

from portal.test_servers import HTTP
from portal.test_servers import post
from portal.test_servers import SERVERS
from portal.test_servers import start

pytestmark = [pytest.mark.server]

JSON = {'Accept': 'application/json'}


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(f'portal events {name}'))
        for name in SERVERS
    ],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with start(request.param, tmp_path_factory.mktemp('portal')) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


def users(server: ServerProcess, channel: str) -> list[str]:
    found: list[str] = HTTP.get(f'{server.url}/{channel}?limit=0').json()['users']
    return found


def test_stream_of_a_portal_resumes_exactly(
    server: ServerProcess, client: httpx.Client
) -> None:
    """A blocking stream has the events and ids of an asynchronous one."""
    with EventReader.open(client, '/events/rooms:e1?user=ann') as reader:
        ids = [reader.start()]
        for n in range(3):
            post(server, 'rooms:e1', n)
            event = reader.event()
            assert (str(n), 'message') == (event.data, event.name)
            ids.append(event.id)
        assert ['ann'] == users(server, 'rooms:e1')
    post(server, 'rooms:e1', 3)
    wait_until(lambda: users(server, 'rooms:e1') == [], 'the client has left')
    for number, event_id in enumerate(ids):
        path = '/events/rooms:e1'
        with EventReader.open(client, path, last_event_id=event_id) as reader:
            expected = [str(n) for n in range(number, 4)]
            assert expected == reader.data(len(expected))


def test_stream_of_several_channels_of_a_portal_resumes_all(
    server: ServerProcess, client: httpx.Client
) -> None:
    """Each id has the positions in all channels."""
    path = '/events/rooms:s1,rooms:s2'
    with EventReader.open(client, path) as reader:
        reader.start()
        post(server, 'rooms:s1', 1)
        assert '1' == reader.event().data
        last_id = reader.last_id
    post(server, 'rooms:s2', 2)
    post(server, 'rooms:s1', 3)
    with EventReader.open(client, path, last_event_id=last_id) as reader:
        assert {'2', '3'} == set(reader.data(2))


def test_poll_of_a_portal_waits_for_what_is_new(
    server: ServerProcess, client: httpx.Client
) -> None:
    """A poll without news ends at its deadline, and the next one misses nothing."""

    def poll(**params: str) -> Any:
        answer = client.get('/events/rooms:e2', params=params, headers=JSON)
        assert 200 == answer.status_code
        return answer.json()

    since = poll()['since']
    empty = {'publications': [], 'since': since, 'lost': [], 'ended': []}
    assert empty == poll(since=since)
    post(server, 'rooms:e2', 'new')
    assert ['new'] == [item['data'] for item in poll(since=since)['publications']]


@pytest.mark.parametrize('accept', ['text/event-stream', 'application/json'])
@pytest.mark.parametrize(
    ('names', 'headers', 'status'),
    [
        ('secret:a', {}, 403),
        ('nowhere', {}, 404),
        ('rooms:a', {'Origin': 'https://evil.example'}, 403),
        ('rooms:a', {'Sec-Fetch-Site': 'cross-site'}, 403),
        ('rooms:a', {'Host': 'a b'}, 400),
    ],
)
def test_refused_client_of_a_portal_gets_an_http_status(
    client: httpx.Client,
    names: str,
    headers: dict[str, str],
    status: int,
    accept: str,
) -> None:
    """`on_subscribe`, routes and the origin decide as on ASGI."""
    answer = client.get(f'/events/{names}', headers={'Accept': accept, **headers})
    assert status == answer.status_code


def test_stream_of_a_portal_that_is_not_read_is_ended(
    server: ServerProcess, client: httpx.Client
) -> None:
    """A client that does not read leaves its channel; others receive everything."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(('127.0.0.1', server.port))
        sock.sendall(b'GET /events/rooms:e3?user=lazy HTTP/1.1\r\nHost: a\r\n\r\n')
        with EventReader.open(client, '/events/rooms:e3?user=quick') as reader:
            wait_until(
                lambda: users(server, 'rooms:e3') == ['lazy', 'quick'],
                'both are present',
            )
            count = 0
            while users(server, 'rooms:e3') != ['quick']:
                assert count < 800
                post(server, 'rooms:e3', f'{count}' + 'x' * 60_000)
                assert f'{count}xx' == reader.event().data[: len(str(count)) + 2]
                count += 1


def test_disconnected_user_of_a_portal_is_asked_again(
    server: ServerProcess, client: httpx.Client
) -> None:
    """The stream of a disconnected user ends, in every process."""
    with EventReader.open(client, '/events/rooms:e4?user=eve') as reader:
        reader.start()
        HTTP.request('DELETE', f'{server.url}/rooms:e4?user=eve')
        assert reader.next() is None
    wait_until(lambda: users(server, 'rooms:e4') == [], 'eve has left')


@pytest.mark.parametrize('error', ['', 'too long'])
def test_stream_of_a_portal_ends_with_its_channel(
    server: ServerProcess, client: httpx.Client, error: str
) -> None:
    """A blocking stream has the event `end`, and a client that returns gets 204."""
    channel = f'rooms:end{len(error)}'
    path = f'/events/{channel}'
    end = {'channel': channel, 'error': error}

    def finish() -> None:
        answer = HTTP.put(f'{server.url}/{channel}', params={'error': error})
        assert 200 == answer.status_code

    with EventReader.open(client, path) as reader:
        reader.start()
        post(server, channel, 'a')
        assert 'a' == reader.event().data
        finish()
        event = reader.event()
        assert ('end', end) == (event.name, json.loads(event.data))
        assert reader.next() is None
    headers = {'Last-Event-ID': event.id, 'Accept': 'text/event-stream'}
    assert 204 == client.get(path, headers=headers).status_code
    assert [end] == client.get(path, headers=JSON).json()['ended']
    assert [] == users(server, channel)
