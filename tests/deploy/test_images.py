"""The Dockerfiles: their commands run as process 1, as in a container."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import zipfile

import httpx
import pytest
from support.dockerfile import Dockerfile
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect

from falcon_channels.cli import main

BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('deploy')]


@pytest.fixture
def new_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new app of `falcon-channels new`."""
    monkeypatch.chdir(tmp_path)
    assert 0 == main(['new', 'myapp'])
    return tmp_path / 'myapp'


@pytest.fixture(params=['chat', 'new app'])
def image(request: pytest.FixtureRequest, new_app: Path) -> Dockerfile:
    chat = ROOT / 'deploy' / 'Dockerfile'
    return Dockerfile(chat if request.param == 'chat' else new_app / 'Dockerfile')


@contextlib.contextmanager
def container(image: Dockerfile, folder: Path) -> Iterator[ServerProcess]:
    """Run the command of an image as process 1 of a namespace.

    NOTE: the kernel ignores a signal for process 1 without a handler.
    """
    name, *words = image.command
    unshare = ['unshare', '--user', '--map-root-user', '--pid', '--fork']
    command = [*unshare, '--kill-child', str(BIN / name), *words, '--port', '{port}']
    with ServerProcess(command, cwd=folder) as server:
        try:
            yield server
        finally:
            server.kill()  # unshare ignores SIGTERM


def is_healthy(image: Dockerfile, server: ServerProcess) -> bool:
    """Run the health check of an image, and return whether it reports a success."""
    words = [word.replace('8000', str(server.port)) for word in image.health_check]
    # A container can have this variable; its health check must not use the proxy.
    env = {**os.environ, 'http_proxy': 'http://127.0.0.1:9'}
    words[0] = sys.executable
    result = subprocess.run(
        words, env=env, capture_output=True, timeout=30, check=False
    )
    assert result.returncode in (0, 1)
    return 0 == result.returncode


@contextlib.contextmanager
def client(image: Dockerfile, server: ServerProcess) -> Iterator[ClientConnection]:
    """Connect a client of the app in the image, and wait until it is connected."""
    if 'chat' not in image.command:
        with connect(f'{server.ws_url}/messages') as ws:
            ws.recv(30)
            yield ws
        return
    site = {'Origin': server.url}
    session = httpx.post(
        f'{server.url}/api/session', json={'name': 'Ada'}, headers=site
    )
    cookie = f'chat_session={session.cookies["chat_session"]}'
    headers = {'Cookie': cookie, **site}
    url = f'{server.ws_url}/connection/websocket'
    with connect(url, additional_headers=headers) as ws:
        ws.send('{"id": 1, "connect": {}}')
        ws.recv(30)
        yield ws


def wait_for_close(ws: ClientConnection) -> None:
    """Read until the server has closed the WebSocket."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            ws.recv(30)


@pytest.mark.namespaces
def test_image_at_sigterm_drains_as_process_1(
    image: Dockerfile, tmp_path: Path, new_app: Path
) -> None:
    """At SIGTERM, the container closes its clients with the code of a drain, and exits.

    The health check reports a success while the container serves, and not afterwards.
    """
    folder = tmp_path if 'chat' in image.command else new_app
    with container(image, folder) as server:
        assert is_healthy(image, server)
        with client(image, server) as ws:
            (pid,) = server.child_pids()
            os.kill(pid, signal.SIGTERM)
            wait_for_close(ws)
            assert (3001 if 'chat' in image.command else 1012) == ws.close_code
        assert server.process is not None
        assert 0 == server.process.wait(30)
        assert not is_healthy(image, server)


@pytest.mark.namespaces
def test_health_check_of_a_server_that_hangs_fails(
    image: Dockerfile, tmp_path: Path, new_app: Path
) -> None:
    """The health check fails if the process is alive, but does not answer."""
    folder = tmp_path if 'chat' in image.command else new_app
    with container(image, folder) as server:
        (pid,) = server.child_pids()
        wait_until(lambda: is_healthy(image, server), 'the container is healthy')
        os.kill(pid, signal.SIGSTOP)
        assert not is_healthy(image, server)
        os.kill(pid, signal.SIGCONT)


def test_image_runs_as_a_user_without_rights(image: Dockerfile) -> None:
    """The user is a number, as Kubernetes requires to see that it is not root."""
    assert '10001' == image.last('USER')
    assert 'useradd --uid 10001' in image.last('RUN')


def test_image_passes_hadolint(image: Dockerfile) -> None:
    """The Dockerfile has none of the mistakes that hadolint knows."""
    result = subprocess.run(
        [BIN / 'hadolint', '--no-color', image.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, '') == (result.returncode, result.stdout + result.stderr)


@pytest.mark.namespaces
def test_image_of_a_new_app_copies_all_files_that_the_app_needs(
    new_app: Path, tmp_path: Path
) -> None:
    """The files that the image copies are enough to serve the app."""
    image = Dockerfile(new_app / 'Dockerfile')
    folder = tmp_path / 'image'
    folder.mkdir()
    for word, rest in image.stage(''):
        if word == 'COPY' and not rest.startswith('--from'):
            copy(new_app, rest, folder)
    allowed = (new_app / '.dockerignore').read_text().splitlines()
    for path in folder.iterdir():
        assert f'!{path.name}' in allowed
    with container(image, folder) as server:
        assert 'messages.js' in httpx.get(server.url).text
        assert 200 == httpx.get(f'{server.url}/static/messages.js').status_code
        assert is_healthy(image, server)


def test_image_of_the_chat_copies_all_files_that_its_wheel_needs(
    tmp_path: Path,
) -> None:
    """The files that the image copies are enough to build the wheel with the pages."""
    image = Dockerfile(ROOT / 'deploy' / 'Dockerfile')
    allowed = (ROOT / 'deploy' / 'Dockerfile.dockerignore').read_text().splitlines()
    for word, rest in image.stage('build'):
        if word != 'COPY':
            continue
        if rest.startswith('--from=page '):
            # The stage `page` is a run of Vite, which writes into these folders.
            page = tmp_path / rest.split()[-1]
            page.mkdir()
            (page / 'index.html').write_text('the page')
            continue
        copy(ROOT, rest, tmp_path)
        for name in rest.split()[:-1]:
            assert f'!{name}' in allowed
    build = [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', 'dist']
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (wheel,) = (tmp_path / 'dist').glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert 'falcon_channels_chat/page/index.html' in names
    assert 'falcon_channels/inspector/page/index.html' in names
    assert 'falcon_channels/commands/starter/app.py.template' in names
    assert not [name for name in names if '/web/' in name]


def copy(source: Path, arguments: str, target: Path) -> None:
    """Copy as the instruction COPY does; ignore what .dockerignore excludes."""
    *names, place = arguments.split()
    ignored = shutil.ignore_patterns('page', 'node_modules', '__pycache__')
    for name in names:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / place, ignore=ignored)
        else:
            (target / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / place)
