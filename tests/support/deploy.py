"""The chat as deploy/compose.yaml runs it, without containers."""

from __future__ import annotations

from contextlib import ExitStack
import json
from pathlib import Path
from typing import Any
from typing import Self

import httpx
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect
import yaml

from support.nginx import BIN
from support.nginx import nginx_process
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess
from support.redis_server import RedisServer

FOLDER = ROOT / 'deploy'
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / 'compose.yaml').read_text())
WORKERS = ('worker1', 'worker2')
PASSWORD = 'a-password-of-the-tests'


def compose_environment(service: str, redis_port: int) -> dict[str, str]:
    """Return the variables of a service, with addresses of this host."""
    values = {}
    for name, value in COMPOSE['services'][service]['environment'].items():
        before, mark, after = value.partition('${REDIS_PASSWORD:?')
        if mark:
            value = before + PASSWORD + after.partition('}')[2]
        value = value.replace('@redis:6379', f'@127.0.0.1:{redis_port}')
        address = COMPOSE['services']['nginx']['networks']['inside']['ipv4_address']
        values[name] = value.replace(address, '127.0.0.1')
    return values


class Site:
    """Redis, two workers of the chat, and nginx with the file of the repository.

    Args:
        folder: Folder for the files of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.workers: list[ServerProcess] = []
        self.nginx: ServerProcess
        self.cookie = ''

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            redis = RedisServer(self._folder, '--requirepass', PASSWORD)
            stack.callback(redis.stop)
            command = [str(BIN / 'falcon-channels'), 'chat']
            for name in WORKERS:
                worker = ServerProcess(
                    [*command, '--port', '{port}'],
                    cwd=self._folder,
                    env=compose_environment(name, redis.port),
                )
                self.workers.append(stack.enter_context(worker))
            self.nginx = self._new_nginx()
            stack.enter_context(self.nginx)
            self.cookie = self._new_session()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _new_nginx(self) -> ServerProcess:
        port = free_port()
        text = (FOLDER / 'nginx.conf').read_text()
        text = text.replace('listen 8080;', f'listen 127.0.0.1:{port};')
        text = text.replace('/tmp/nginx.pid', 'nginx.pid')
        for name, worker in zip(WORKERS, self.workers, strict=True):
            text = text.replace(f'{name}:8000', f'127.0.0.1:{worker.port}')
        return nginx_process(self._folder, text, port)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a page of the site."""
        return {'Origin': self.nginx.url, 'Cookie': self.cookie}

    def _new_session(self) -> str:
        answer = httpx.post(
            f'{self.nginx.url}/api/session',
            json={'name': 'Ada'},
            headers={'Origin': self.nginx.url},
        )
        assert 201 == answer.status_code, answer.text
        return f'chat_session={answer.cookies["chat_session"]}'

    def say(self, text: str) -> None:
        """Send a message over a new connection."""
        answer = httpx.post(
            f'{self.nginx.url}/api/rooms/lobby/messages',
            json={'text': text},
            headers=self.headers,
        )
        assert 201 == answer.status_code, answer.text

    def subscriber(self) -> ClientConnection:
        """Return a client that is subscribed to the lobby."""
        url = f'{self.nginx.ws_url}/connection/websocket'
        ws = self._stack.enter_context(connect(url, additional_headers=self.headers))
        ws.send('{"id": 1, "connect": {}}')
        ws.send('{"id": 2, "subscribe": {"channel": "rooms:lobby"}}')
        while True:
            for line in str(ws.recv(30)).splitlines():
                answer = json.loads(line)
                if answer.get('id') == 2:
                    assert 'subscribe' in answer, answer
                    return ws
