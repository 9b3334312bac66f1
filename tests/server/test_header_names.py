"""Headers of the application in the answer to a handshake."""

from __future__ import annotations

import pytest

from server.running import Peer
from server.running import running


class Answering:
    """An application that answers with a wrong header, and then without one."""

    def __init__(self, kind: str, name: bytes) -> None:
        self._kind = kind
        self._name = name
        self.error: Exception | None = None

    async def __call__(self, scope, receive, send) -> None:
        await receive()
        answer = {'type': self._kind, 'status': 404}
        try:
            await send({**answer, 'headers': [(self._name, b'value')]})
        except ValueError as ex:
            self.error = ex
        await send({**answer, 'headers': [(b'X-Right_1', b'value')]})
        if self._kind != 'websocket.accept':
            await send({'type': 'websocket.http.response.body'})


@pytest.mark.parametrize('name', [b'X: y\r\nX-Added', b'X Y', b'', b'X\xe9', b'X:'])
@pytest.mark.parametrize('kind', ['websocket.accept', 'websocket.http.response.start'])
def test_illegal_header_name_is_an_error_of_the_application(
    kind: str, name: bytes
) -> None:
    """A name cannot add a header to the answer; the application may answer again."""
    app = Answering(kind, name)
    with running(app) as server, Peer(server.port) as peer:
        head = peer.request()
    assert ('101' if kind == 'websocket.accept' else '404') in head
    assert 'X-Right_1: value' in head
    assert 1 == head.count('value')
    assert 'is not the name of a header' in str(app.error)
