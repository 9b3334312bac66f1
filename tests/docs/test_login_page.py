"""The page about logging in: both of its apps let in whom they should."""

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


def test_a_session_decides_for_clients_of_an_sdk(sessions: ServerProcess) -> None:
    """Ann gets her order and not Bob's, and who has no session nothing."""
    with talk(sessions, **cookie('ann')) as ann:
        ann.connect()
        assert 'subscribe' in ann.ask('subscribe', channel='orders:1')
        assert {'code': 103, 'message': 'that is the order of another'} == ann.ask(
            'subscribe', channel='orders:2'
        )['error']
    with talk(sessions) as nobody:
        nobody.say({'id': 1, 'connect': {}})
        assert (3500, 'log in first') == nobody.end()


def test_a_session_decides_for_plain_websockets(sessions: ServerProcess) -> None:
    """The same holds at the raw door, before the handshake is answered."""
    url = f'{sessions.ws_url}/orders/2'
    with connect(url, **cookie('bob')):
        pass
    with pytest.raises(InvalidStatus) as caught:
        connect(url, **cookie('ann'))
    assert 403 == caught.value.response.status_code


def test_tokens_decide(asgi_server: AsgiServer, tmp_path: Path) -> None:
    """The token of the app lets in, one of another key does not."""
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
