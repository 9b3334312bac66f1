"""The access log has one line for each request, for any text of the client."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from server.running import running

HTTP = 'falcon_channels.server.http:BoundedHttpProtocol'
#: Text that becomes the client's address if all proxies are trusted.
FORGED = '1.2.3.4 - "GET /admin HTTP/1.1" 200\x85\x9b31m\t\\x\xe4'


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Accept or answer everything."""
    if scope['type'] == 'websocket':
        await receive()
        await send({'type': 'websocket.close'})
        return
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body'})


UPGRADE = (
    'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n'
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
)


@pytest.mark.parametrize('upgrade', ['', UPGRADE], ids=['http', 'websocket'])
def test_access_log_escapes_text_of_the_client(
    upgrade: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A forged address cannot add fields, lines or control characters to the log."""
    logging.getLogger('uvicorn.access').propagate = True
    with (
        caplog.at_level(logging.INFO),
        running(app, http=HTTP, forwarded_allow_ips='*') as server,
        socket.create_connection(('127.0.0.1', server.port), 20) as client,
    ):
        head = (
            f'GET /a%0ab%22?"x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
            f'X-Forwarded-For: {FORGED}\r\n{upgrade}\r\n'
        )
        if upgrade:
            head = head.replace('Connection: close\r\n', '')
        client.sendall(head.encode('latin-1'))
        assert client.recv(4096)
    [line] = [
        record.getMessage()
        for record in caplog.records
        if record.name == 'uvicorn.access'
    ]
    assert line.isascii()
    assert line.isprintable()
    assert 2 == line.count('"')
    assert line.startswith('1.2.3.4\\x20-\\x20\\x22GET\\x20/admin\\x20HTTP')
