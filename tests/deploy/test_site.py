"""nginx with the file of deploy/, in front of two workers of the chat and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import http.client
import json
from pathlib import Path
import signal
import threading

import httpx
import pytest
from support.deploy import Site
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('deploy'),
    pytest.mark.timeout(120),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        yield site


def texts(ws: ClientConnection, count: int) -> list[str]:
    """Return the texts of the next messages of the lobby."""
    found: list[str] = []
    while len(found) < count:
        for line in str(ws.recv(30)).splitlines():
            push = json.loads(line).get('push', {})
            data = push.get('pub', {}).get('data', {})
            if push.get('channel') == 'rooms:lobby' and 'text' in data:
                found.append(data['text'])
    return found


def close_code(ws: ClientConnection) -> int | None:
    """Read until the server has closed the WebSocket; return the code."""
    with suppress(ConnectionClosed):
        while True:
            ws.recv(60)
    return ws.close_code


def test_clients_of_both_workers_receive_each_message(site: Site) -> None:
    """nginx gives clients to both workers, and all of them receive each message."""
    sent = [f'message {number}' for number in range(6)]
    clients = [site.subscriber() for _ in range(4)]
    # The connection of a request that came before may still be closing.
    wait_until(
        lambda: [2, 2] == [connections(worker.port) for worker in site.workers],
        'two clients at each worker',
    )
    for text in sent:
        site.say(text)
    for ws in clients:
        assert sent == texts(ws, len(sent))


def test_stop_of_a_worker_refuses_no_request_and_moves_its_clients(site: Site) -> None:
    """While a worker drains, each request is answered, and its clients reconnect.

    The clients of the other worker stay connected.
    """
    clients = [site.subscriber() for _ in range(4)]
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            answer = httpx.get(
                f'{site.nginx.url}/api/rooms/lobby', headers=site.headers
            )
            statuses.append(answer.status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        first = site.workers[0]
        first.signal(signal.SIGTERM)
        assert first.process is not None
        assert 0 == first.process.wait(60)
        count = len(statuses)
        wait_until(lambda: len(statuses) > count + 5, 'requests after the stop')
        moved = [ws for ws in clients if not is_open(ws)]
        assert [3001, 3001] == [close_code(ws) for ws in moved]
        returned = [site.subscriber() for _ in moved]
        site.say('after the stop')
        stayed = [ws for ws in clients if ws not in moved]
        for ws in stayed + returned:
            assert ['after the stop'] == texts(ws, 1)
    finally:
        stopped.set()
        thread.join()
    assert {200} == {*statuses}


def test_nginx_limits_what_it_passes_on(site: Site) -> None:
    """An image of 4 MiB passes, and more does not; internal paths are not public."""
    url = f'{site.nginx.url}/api/images'
    headers = {**site.headers, 'Content-Type': 'image/png'}
    image = b'\x89PNG\r\n\x1a\n' + bytes(4 * 1024 * 1024 - 8)
    accepted = httpx.post(url, content=image, headers=headers)
    assert 201 == accepted.status_code, accepted.text
    too_big = httpx.post(url, content=bytes(6 * 1024 * 1024), headers=headers)
    assert 413 == too_big.status_code
    for path in ('/health', '/metrics'):
        assert 404 == httpx.get(site.nginx.url + path).status_code
        assert 'nginx' in httpx.get(site.nginx.url + path).text
    assert 200 == httpx.get(f'{site.workers[0].url}/health').status_code


def test_nginx_passes_on_no_upgrade_except_websocket(site: Site) -> None:
    """A request to upgrade to HTTP/2 is answered as an ordinary request."""
    connection = http.client.HTTPConnection('127.0.0.1', site.nginx.port, timeout=30)
    headers = {**site.headers, 'Upgrade': 'h2c', 'Connection': 'Upgrade'}
    connection.request('GET', '/api/session', headers=headers)
    answer = connection.getresponse()
    assert 200 == answer.status
    assert 'Ada' == json.load(answer)['name']
    connection.close()


def connections(port: int) -> int:
    """Return the number of open connections to a port of this host."""
    lines = Path('/proc/net/tcp').read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return len(
        [row for row in rows if row[2].endswith(f':{port:04X}') and '01' == row[3]]
    )


def is_open(ws: ClientConnection) -> bool:
    """Return whether the server has not closed the WebSocket."""
    try:
        while True:
            ws.recv(0.2)
    except TimeoutError:
        return True
    except ConnectionClosed:
        return False
