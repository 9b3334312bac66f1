"""Test the page about login: both of its apps accept only the right users."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import re
from typing import Any
import urllib.request

from endpoint.peer import Peer
import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from falcon_channels.tokens import make_connection_token
from falcon_channels.tokens import TokenKey

TEXT = (ROOT / 'docs/login.md').read_text()
BLOCKS = dict(re.findall(r'<!-- (\w+\.py) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL))
SECRET = 'a secret of thirty-two characters'

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('tutorial')]


def serving(asgi_server: AsgiServer, folder: Path, name: str) -> ServerProcess:
    (folder / f'{name}.py').write_text(BLOCKS[f'{name}.py'])
    env = {'TOKEN_SECRET': SECRET}
    return ServerProcess(asgi_server.command(f'{name}:app'), cwd=folder, env=env)


@pytest.fixture(scope='module')
def sessions(
    asgi_server: AsgiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp('login')
    with serving(asgi_server, folder, 'sessions') as server:
        yield server


def cookie(user: str) -> dict[str, Any]:
    return {'additional_headers': {'Cookie': f'session=cookie-of-{user}'}}


def talk(server: ServerProcess, **options: Any) -> Any:
    return Peer.to(server, **options)  # type: ignore[arg-type]  # it has a ws_url


def test_sdk_client_subscribes_only_to_orders_of_its_session(
    sessions: ServerProcess,
) -> None:
    """Ann gets her own order and not Bob's. A client without a session gets nothing."""
    with talk(sessions, **cookie('ann')) as ann:
        ann.connect()
        assert 'subscribe' in ann.ask('subscribe', channel='orders:1')
        assert {'code': 103, 'message': 'this order is not yours'} == ann.ask(
            'subscribe', channel='orders:2'
        )['error']
    with talk(sessions) as nobody:
        nobody.say({'id': 1, 'connect': {}})
        assert (3500, 'log in first') == nobody.end()


def test_plain_websocket_of_another_user_is_refused_with_403(
    sessions: ServerProcess,
) -> None:
    """A plain WebSocket is refused before its handshake is accepted."""
    url = f'{sessions.ws_url}/orders/2'
    with connect(url, **cookie('bob')):
        pass
    with pytest.raises(InvalidStatus) as caught:
        connect(url, **cookie('ann'))
    assert 403 == caught.value.response.status_code


def test_client_without_a_valid_token_is_refused(
    asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """A token of the app is accepted. A token of another key, or none, is refused."""
    with serving(asgi_server, tmp_path, 'tokens') as server:
        request = urllib.request.Request(f'{server.url}/token', data=b'')
        with urllib.request.urlopen(request) as response:
            token = json.load(response)['token']
        with talk(server) as ann:
            assert ann.connect(token=token)['expires']
        with talk(server) as eve:
            other = make_connection_token(TokenKey('another secret ' * 3), 'ann')
            eve.say({'id': 1, 'connect': {'token': other}})
            assert (3500, 'invalid token') == eve.end()
        with talk(server) as nobody:
            nobody.say({'id': 1, 'connect': {}})
            assert (3501, 'a token is needed') == nobody.end()
        assert 'not signed by any of the keys' in server.log()
        assert SECRET not in server.log()
