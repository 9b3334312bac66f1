"""uvicorn's WebSocket behaviours, over its three classes and ours.

`EXPECTED` is the list of differences: each row has the behaviour of all classes, and
the classes that differ. If only ours differs, a comment says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from server.behaviours import keepalive
from server.behaviours import RecordingApp
from server.behaviours import SCENARIOS
from server.behaviours import shutdown
from server.running import OURS
from server.running import running
from server.running import RunningServer

SANSIO = 'websockets-sansio'
WSPROTO = 'wsproto'
LEGACY = 'websockets'

ALL = '*'

EXPECTED: dict[str, dict[str, Any]] = {
    'text_and_bytes_are_echoed': {ALL: ('é', b'\xff', 'in fragments')},
    'subprotocol_and_headers_of_the_accept': {ALL: ('b', ['1', '2'], True)},
    'proxy_headers_are_believed': {ALL: ('1.2.3.4', 'wss')},
    'close_before_accept': {ALL: (403, 1006)},
    # Ours streams the body until the end of the stream; wsproto's streams it in chunks;
    # the others collect it.
    'denial_response': {
        ALL: ('429', True, b'too many'),
        WSPROTO: ('429', True, b'4\r\ntoo \r\n4\r\nmany\r\n0\r\n\r\n'),
    },
    'exception_before_accept': {ALL: 500},
    # Ours sends 1011; uvicorn's classes end the connection without a close frame.
    'exception_after_accept': {ALL: 1006, OURS: 1011},
    'return_before_accept': {ALL: 500},
    # Ours sends 1000, because the application has finished.
    'return_after_accept': {ALL: 1006, OURS: 1000},
    'client_closes_with_a_code': {ALL: (4321, 'ciao')},
    'client_closes_without_a_code': {ALL: (1005, (0x88, b''))},
    # 1005 means a close frame without a code, but none came (RFC 6455 7.1.5).
    'link_is_cut': {ALL: 1005, LEGACY: 1006, OURS: 1006},
    # ASGI 2.4: a server-specific subclass of OSError.
    'send_after_the_client_has_gone': {ALL: 'OSError', LEGACY: 'RuntimeError'},
    'server_closes': {
        ALL: ((4001, 'bye'), (4001, 'bye')),
        LEGACY: ((4001, 'bye'), (1005, '')),
    },
    'send_after_close': {ALL: 'RuntimeError'},
    'message_is_too_big': {ALL: 1009},
    'text_is_not_utf_8': {
        ALL: (1007, 1007),
        WSPROTO: (None, 1007),
        LEGACY: (1007, 1006),
    },
    'frame_is_not_masked': {
        ALL: (1002, 1002),
        WSPROTO: (None, 1002),
        LEGACY: (1002, 1006),
    },
    # RFC 6455 section 5.2 demands the minimal length.
    'length_is_not_minimal': {ALL: 0x81, OURS: 0x88, WSPROTO: None},
    # Compression triples the memory of an idle connection: off by default in ours.
    'deflate_is_offered': {ALL: True, OURS: False},
    # RFC 6455 section 5.5.3 allows it; a flood is then not answered with a flood.
    'many_pings_at_once': {ALL: 'each', OURS: 'fewer'},
    # sansio keeps such a connection for ever, which breaks the shutdown.
    'request_with_a_body': {ALL: 101, SANSIO: 'no answer', OURS: 400},
    # RFC 9112 section 3.2; an Origin is compared with the Host.
    'no_host': {ALL: 101, WSPROTO: 400, OURS: 400},
    # RFC 6455 section 4.4.
    'version_12': {ALL: 400, WSPROTO: 426, OURS: 426},
}

_SCOPE = {
    'type': 'websocket',
    'http_version': '1.1',
    'scheme': 'ws',
    'path': '/mount/scope',
    'raw_path': b'/mount/scope',
    'root_path': '/mount',
    'asgi': '2.4',
    'query': b'a=%20',
    'subprotocols': ['x', 'y'],
    'lower': True,
    'extensions': ['websocket.http.response'],
}
EXPECTED['scope_of_the_connection'] = {
    ALL: _SCOPE,
    OURS: {
        **_SCOPE,
        'extensions': ['falcon_channels.websocket', 'websocket.http.response'],
    },
}

# 503 means that the server refuses, and not the application.
SHUTDOWN = {ALL: (1012, 1012, [500]), OURS: (1012, 1012, [503])}
# The application gets 1006, because no close frame came.
KEEPALIVE = {ALL: (1011, 1005), LEGACY: (1011, 1006), OURS: (1011, 1006)}

CLASSES = [SANSIO, WSPROTO, LEGACY, OURS]

# uvicorn deprecates one of its classes, and websockets the code that it uses.
pytestmark = [
    pytest.mark.filterwarnings('ignore:The `websockets` implementation is deprecated'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
]


def expected(row: dict[str, Any], ws: str) -> Any:
    return row.get(ws, row[ALL])


@pytest.fixture(scope='module', params=CLASSES)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, RunningServer]]:
    app = RecordingApp()
    with running(
        app,
        ws=request.param,
        http='httptools',
        ws_max_size=65536,
        root_path='/mount',
        timeout_graceful_shutdown=1,
    ) as server:
        yield request.param, app, server


@pytest.mark.parametrize('name', SCENARIOS)
def test_scenario_behaves_as_in_uvicorn_except_listed_differences(
    place: tuple[str, Any, RunningServer], name: str
) -> None:
    """Our class behaves as uvicorn's classes, except for the rows in `EXPECTED`."""
    ws, app, server = place

    assert expected(EXPECTED[name], ws) == SCENARIOS[name](server, app)


@pytest.mark.parametrize('ws', CLASSES)
def test_server_stop_closes_with_1012_and_refuses_handshakes(ws: str) -> None:
    """All clients get 1012, and a handshake without an answer is refused."""
    assert expected(SHUTDOWN, ws) == shutdown(ws)


@pytest.mark.parametrize('ws', CLASSES)
def test_client_without_pongs_is_closed_with_1011(ws: str) -> None:
    """A client that answers no ping is closed with 1011."""
    assert expected(KEEPALIVE, ws) == keepalive(ws)
