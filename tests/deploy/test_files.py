"""The files of deploy/ agree with each other, with the server and with the apps."""

from __future__ import annotations

from argparse import ArgumentParser
import os
from pathlib import Path
import re
from typing import Any

import httpx
import pytest
from support.deploy import BIN
from support.deploy import COMPOSE
from support.deploy import compose_environment
from support.deploy import FOLDER
from support.deploy import WORKERS
from support.dockerfile import Dockerfile
from support.processes import ROOT
from support.processes import ServerProcess
import yaml

from falcon_channels.server import command
from falcon_channels_chat.settings import Settings

STARTER = ROOT / 'src' / 'falcon_channels' / 'commands' / 'starter'
OBJECTS: dict[str, dict[str, Any]] = {
    found['kind']: found
    for found in yaml.safe_load_all((FOLDER / 'kubernetes.yaml').read_text())
}
POD = OBJECTS['Deployment']['spec']['template']
CONTAINER = POD['spec']['containers'][0]


def stop_timeout_s() -> int:
    """Return the longest time that `falcon-channels serve` takes to stop."""
    parser = ArgumentParser()
    command.add_arguments(parser)
    timeout_s: int = parser.get_default('stop_timeout')
    return timeout_s


def test_grace_periods_are_longer_than_the_stop_of_the_server() -> None:
    """Docker and Kubernetes do not kill a server that is still stopping."""
    for name in WORKERS:
        grace = COMPOSE['services'][name]['stop_grace_period']
        assert stop_timeout_s() < int(grace.removesuffix('s'))
    (word, wait_s) = CONTAINER['lifecycle']['preStop']['exec']['command']
    assert 'sleep' == word
    grace_s = POD['spec']['terminationGracePeriodSeconds']
    assert stop_timeout_s() + int(wait_s) < grace_s
    for path in (FOLDER / 'Dockerfile', STARTER / 'Dockerfile.template'):
        (time,) = re.findall(r'docker stop -t (\d+)', path.read_text())
        assert stop_timeout_s() < int(time)


def test_variables_of_the_workers_are_settings_of_the_chat() -> None:
    """Each variable of a worker is one that the chat or the server reads."""
    for name in WORKERS:
        environment = compose_environment(name, 6379)
        assert '127.0.0.1' == environment.pop('FORWARDED_ALLOW_IPS')
        settings = Settings.from_environ(environment)
        assert {'CHAT_BROKER': settings.broker} == environment
        assert settings.broker.startswith('redis://:')


def test_only_nginx_is_reachable_from_outside() -> None:
    """Redis and the workers publish no port; nginx listens on loopback."""
    ports = {
        name: service.get('ports', []) for name, service in COMPOSE['services'].items()
    }
    assert ['127.0.0.1:8080:8080'] == ports.pop('nginx')
    assert [[], [], []] == list(ports.values())
    assert (
        '@redis:6379/' in COMPOSE['services']['worker1']['environment']['CHAT_BROKER']
    )


def test_nginx_names_the_workers_and_the_port_of_the_image() -> None:
    """The servers of the upstream are the workers; none has the address of nginx."""
    text = (FOLDER / 'nginx.conf').read_text()
    port = Dockerfile(FOLDER / 'Dockerfile').last('EXPOSE')
    assert [f'{name}:{port}' for name in WORKERS] == re.findall(
        r' server (\w+:\d+)', text
    )
    assert 'listen 8080;' in text
    addresses = [
        COMPOSE['services'][name]['networks']['inside']['ipv4_address']
        for name in (*WORKERS, 'nginx')
    ]
    assert 3 == len({*addresses})


def test_kubernetes_objects_select_the_pods_of_the_app() -> None:
    """The service, the budget and the deployment select the labels of the pods."""
    labels = POD['metadata']['labels']
    assert {'Deployment', 'Service', 'PodDisruptionBudget'} == {*OBJECTS}
    assert labels == OBJECTS['Deployment']['spec']['selector']['matchLabels']
    assert labels == OBJECTS['Service']['spec']['selector']
    assert labels == OBJECTS['PodDisruptionBudget']['spec']['selector']['matchLabels']
    (port,) = OBJECTS['Service']['spec']['ports']
    assert port['targetPort'] == CONTAINER['ports'][0]['name']
    # With one replica, a budget of one missing pod would protect nothing.
    assert (
        OBJECTS['Deployment']['spec']['replicas']
        > (OBJECTS['PodDisruptionBudget']['spec']['maxUnavailable'])
    )


def test_kubernetes_pod_fits_the_image_of_a_new_app() -> None:
    """User, port, health path and variables are those of `falcon-channels new`."""
    image = Dockerfile(STARTER / 'Dockerfile.template')
    app = (STARTER / 'app.py.template').read_text()
    assert int(image.last('USER')) == POD['spec']['securityContext']['runAsUser']
    assert int(image.last('EXPOSE')) == CONTAINER['ports'][0]['containerPort']
    for probe in ('startupProbe', 'readinessProbe', 'livenessProbe'):
        path = CONTAINER[probe]['httpGet']['path']
        assert f"app.add_route('{path}', Health())" in app
        assert path in image.health_check[-1]
    assert [*image.command, '--log-json'] == CONTAINER['args']
    names = {variable['name'] for variable in CONTAINER['env']}
    assert {'CHANNELS_BROKER', 'FORWARDED_ALLOW_IPS'} == names
    assert "os.environ.get('CHANNELS_BROKER'" in app


@pytest.mark.server
@pytest.mark.parametrize(
    ('trusted', 'seen'),
    [
        ('127.0.0.1', '203.0.113.9'),
        ('127.0.0.0/24', '203.0.113.9'),
        ('172.30.0.2', '127.0.0.1'),
    ],
)
def test_variable_forwarded_allow_ips_names_the_proxies(
    tmp_path: Path, trusted: str, seen: str
) -> None:
    """Only a proxy that FORWARDED_ALLOW_IPS names can set the address of a client."""
    (tmp_path / 'main.py').write_text(
        'import falcon.asgi\n'
        'class Address:\n'
        '    async def on_get(self, req, resp):\n'
        '        resp.media = req.remote_addr\n'
        'app = falcon.asgi.App()\n'
        "app.add_route('/', Address())\n"
    )
    words = [str(BIN / 'falcon-channels'), 'serve', 'main:app', '--port', '{port}']
    env = {**os.environ, 'FORWARDED_ALLOW_IPS': trusted}
    with ServerProcess(words, cwd=tmp_path, env=env) as server:
        answer = httpx.get(server.url, headers={'X-Forwarded-For': '203.0.113.9'})
        assert seen == answer.json()


def test_readme_names_each_file_and_what_was_not_run() -> None:
    """deploy/README.md describes each file, and says which of them nobody has run."""
    text = (FOLDER / 'README.md').read_text()
    for path in FOLDER.iterdir():
        assert path.name == 'README.md' or f'`{path.name}`' in text, path.name
    assert 'not been run' in text


@pytest.mark.parametrize('word', ['docker', 'kubectl'])
def test_commands_of_the_readme_name_files_that_exist(word: str) -> None:
    """The files in the commands of the page exist."""
    text = (FOLDER / 'README.md').read_text()
    lines = [line for line in text.splitlines() if line.startswith(f'    {word} ')]
    assert lines
    for line in lines:
        for name in re.findall(r'(?:--file|-f) (\S+)', line):
            assert (ROOT / name).exists(), line
