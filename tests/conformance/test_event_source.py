"""The npm package `eventsource`, under Node, against a full process."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import subprocess
from typing import Any

from endpoint.peer import Peer
from endpoint.peer import serving
import pytest
from support.asgi_servers import AsgiServer

from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.transports import http_stream

FOLDER = Path(__file__).with_name('js')

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

#: What `onerror` reports while an EventSource connects again.
CONNECTING = 'readyState 0'
#: What `onerror` reports when an EventSource gives up.
CLOSED = 'readyState 2'


class Clients:
    async def on_connect(self, req: Any, connection: Any) -> None:
        """Let every client connect."""


@contextlib.contextmanager
def event_source(url: str) -> Iterator[Iterator[str]]:
    """Open an EventSource; its lines are those that `event_source.mjs` prints."""
    assert (FOLDER / 'node_modules').is_dir(), f'run npm ci in {FOLDER}: make test does'
    node = subprocess.Popen(
        ['node', 'event_source.mjs', url], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    try:
        yield (line.strip() for line in node.stdout)
    finally:
        node.kill()
        node.wait()
        node.stdout.close()


@pytest.mark.every_server
def test_refused_event_source_of_node_connects_when_there_is_room(
    asgi_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An EventSource that a full process has refused connects later."""
    monkeypatch.setattr(http_stream, 'REFUSED_RETRY_MS', (100, 200))
    channels = Channels(options=NodeOptions(max_connections=1))
    with serving(channels, Clients(), asgi_server=asgi_server) as server:
        url = f'http://127.0.0.1:{server.port}/connection/uni_sse'
        with Peer.to(server) as peer:
            peer.connect()
            with event_source(url) as lines:
                for _ in range(2):
                    assert 3001 == json.loads(next(lines))['disconnect']['code']
                    assert CONNECTING == next(lines)
                peer.ws.close()
                while 'connect' not in (line := next(lines)) or 'disconnect' in line:
                    assert CONNECTING == line or 'disconnect' in line
                assert 'connect' in json.loads(line)
