"""The examples that authenticate a handshake: a hook, and middleware."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ServerProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = [pytest.mark.server, pytest.mark.every_server]


def serve(asgi_server: AsgiServer, module: str) -> Iterator[ServerProcess]:
    with ServerProcess(asgi_server.command(f'examples.{module}:app')) as server:
        yield server


@pytest.fixture(scope='module')
def hook(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    yield from serve(asgi_server, 'asgi_hook')


@pytest.fixture(scope='module')
def middleware(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    yield from serve(asgi_server, 'asgi_middleware')


def status(url: str, headers: dict[str, str]) -> int:
    """Return the HTTP status of a refused handshake."""
    with pytest.raises(InvalidStatus) as caught:
        connect(url, additional_headers=headers)
    return caught.value.response.status_code


def test_hook_stores_the_user_for_the_responder(hook: ServerProcess) -> None:
    """The responder knows the user whom the hook has authenticated."""
    with connect(hook.ws_url, additional_headers={'Cookie': 'session=4f1c'}) as ws:
        assert 'Hello, alice' == ws.recv(30)
        ws.send('hi')
        assert 'alice: hi' == ws.recv(30)


@pytest.mark.parametrize('headers', [{}, {'Cookie': 'session=wrong'}])
def test_hook_without_a_session_refuses_the_handshake(
    hook: ServerProcess, headers: dict[str, str]
) -> None:
    """Without a session the handshake is answered with HTTP 403."""
    assert 403 == status(hook.ws_url, headers)


def test_hook_app_refuses_another_origin(hook: ServerProcess) -> None:
    """A page of another site cannot use the cookie of the user."""
    headers = {'Cookie': 'session=4f1c', 'Origin': 'https://evil.example'}
    assert 403 == status(hook.ws_url, headers)


@pytest.mark.parametrize(
    ('token', 'room', 'greeting'),
    [
        ('4f1c', 'garden', 'alice is in the garden'),
        ('9b2e', 'kitchen', 'bob is in the kitchen'),
    ],
)
def test_middleware_accepts_members_of_the_room(
    middleware: ServerProcess, token: str, room: str, greeting: str
) -> None:
    """A member of the room is accepted, and the responder knows the user."""
    url = f'{middleware.ws_url}/rooms/{room}'
    with connect(url, additional_headers={'Authorization': f'Bearer {token}'}) as ws:
        assert greeting == ws.recv(30)


@pytest.mark.parametrize(
    ('headers', 'path', 'expected'),
    [
        ({}, '/rooms/garden', 401),
        ({'Authorization': 'Bearer wrong'}, '/rooms/garden', 401),
        ({'Authorization': 'Bearer 9b2e'}, '/rooms/garden', 403),
        ({'Authorization': 'Bearer 9b2e'}, '/nowhere', 404),
    ],
)
def test_middleware_refuses_users_who_are_not_members(
    asgi_server: AsgiServer,
    middleware: ServerProcess,
    headers: dict[str, str],
    path: str,
    expected: int,
) -> None:
    """Without a valid token or without membership the handshake is refused."""
    refused = status(middleware.ws_url + path, headers)
    assert asgi_server.refusal(expected) == refused
    assert 'Traceback' not in middleware.log()
