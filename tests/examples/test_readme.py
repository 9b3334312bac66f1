"""The programs in README.md are files of examples/, and work as documented."""

from __future__ import annotations

from pathlib import Path
import re
import shlex
import subprocess
import sys
import tomllib

from build.util import project_wheel_metadata
import httpx
import pytest
from readme_renderer import markdown
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.server


@pytest.mark.parametrize('name', ['echo_asgi', 'echo_wsgi', 'rooms_asgi'])
def test_programs_in_the_readme_equal_the_examples(name: str) -> None:
    """README.md contains the exact text of the files of examples/."""
    program = (ROOT / 'examples' / f'{name}.py').read_text()
    assert f'```python\n{program}```\n' in (ROOT / 'README.md').read_text()


def test_readme_lists_every_extra() -> None:
    """The section "Install" of README.md lists every extra."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    section = (ROOT / 'README.md').read_text().partition('\n## Install\n')[2]
    rows = re.findall(r'^\| (`.*`) \|', section.partition('\n## ')[0], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert {*project['optional-dependencies']} - {'dev'} == named


def save(name: str, folder: Path) -> None:
    """Save a program as README.md says."""
    readme = (ROOT / 'README.md').read_text()
    assert f'Save this as `{name}.py`:' in readme.replace('\n', ' ')
    program = readme.partition(f'`{name}.py`:')[2].partition('```python\n')[2]
    (folder / f'{name}.py').write_text(program.partition('```')[0])


@pytest.mark.parametrize('server', ['falcon-channels serve', 'gunicorn', 'uvicorn'])
def test_echo_programs_answer_from_an_empty_folder(server: str, tmp_path: Path) -> None:
    """The commands of README.md start what the reader has saved.

    Before, they named the folder `examples`, which an installation does not have.
    """
    command = {
        'falcon-channels serve': 'falcon-channels serve echo_asgi:app',
        'gunicorn': 'gunicorn --worker-class gevent echo_wsgi:app',
        'uvicorn': 'uvicorn echo_asgi:app',
    }[server]
    readme = (ROOT / 'README.md').read_text()
    assert server == 'uvicorn' or f'\n    {command}' in readme
    listen = {'gunicorn': '--no-control-socket --bind :{port}'}.get(
        server, '--port {port}'
    )
    name = command.partition(':')[0].split()[-1]
    save(name, tmp_path)
    program, *arguments = f'{command} {listen}'.split()
    path = Path(sys.executable).with_name(program)
    with ServerProcess([str(path), *arguments], cwd=tmp_path) as process:
        with connect(process.ws_url) as ws:
            ws.send('hello')
            assert 'Message text was: hello' == ws.recv(30)
        with pytest.raises(InvalidStatus) as caught:
            connect(process.ws_url, origin='https://evil.example')
        assert 403 == caught.value.response.status_code
        assert 'Traceback' not in process.log()


def test_rooms_program_answers_from_an_empty_folder(tmp_path: Path) -> None:
    """The commands of README.md start the rooms and post to one of them."""
    readme = (ROOT / 'README.md').read_text()
    serve = 'falcon-channels serve rooms_asgi:app'
    curl = next(line for line in readme.splitlines() if line.startswith('    curl'))
    assert f'    {serve}\n{curl}\n' in readme
    save('rooms_asgi', tmp_path)
    program = Path(sys.executable).with_name('falcon-channels')
    command = [str(program), *serve.split()[1:], '--port', '{port}']
    with ServerProcess(command, cwd=tmp_path) as server:
        with connect(f'{server.ws_url}/rooms/garden') as ws:
            words = shlex.split(curl.replace('8000', str(server.port)))
            subprocess.run([*words, '--fail', '--silent'], check=True)
            assert '{"text":"hello"}' == ws.recv(30)


@pytest.fixture(scope='module')
def links() -> list[str]:
    """The links and images of README.md, as PyPI renders it."""
    metadata = project_wheel_metadata(ROOT, isolated=False)
    assert 'text/markdown' == metadata['Description-Content-Type']
    description = metadata.get_payload()
    rendered = markdown.render(description)
    assert rendered is not None
    found = re.findall(r'(?:href|src)="([^"]*)"', rendered)
    assert len(re.findall(r'(?<!`)\]\(', description)) <= len(found)
    return [link for link in found if not link.startswith('#')]


def test_links_of_the_readme_are_absolute_on_pypi(links: list[str]) -> None:
    """PyPI shows README.md without the repository, so relative links lead nowhere."""
    assert [] == [
        link for link in links if not link.startswith(('http://', 'https://'))
    ]


def test_links_of_the_readme_name_files_of_the_repository(links: list[str]) -> None:
    """Each link to the site, a file or an image has its source in the repository."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    repository = project['urls']['Source']
    raw = repository.replace('github.com', 'raw.githubusercontent.com')
    tag = f'v{project["version"]}'
    places = {
        f'{project["urls"]["Documentation"]}en/stable/': 'docs',
        f'{repository}/blob/{tag}/': '.',
        f'{raw}/{tag}/': '.',
    }
    checked = 0
    for link in links:
        for place, folder in places.items():
            if link.startswith(place):
                name = link.removeprefix(place).partition('#')[0]
                path = ROOT / folder / re.sub(r'\.html$', '.md', name)
                assert path.is_file(), link
                checked += 1
    ours = [link for link in links if 'falcon-channels' in link]
    assert len(ours) == checked
    assert checked > 20


@pytest.mark.every_server
def test_rooms_example_delivers_and_stores_messages(asgi_server: AsgiServer) -> None:
    """All clients in a room get every message; the history stores it."""
    with ServerProcess(asgi_server.command('examples.rooms_asgi:app')) as server:
        url = f'{server.ws_url}/rooms/garden'
        with connect(url) as alice, connect(url) as bob:
            alice.send('"hello"')
            assert '"hello"' == bob.recv(30)
            assert '"hello"' == alice.recv(30)
            httpx.post(f'{server.url}/rooms/garden', json={'text': 'posted'})
            assert '{"text":"posted"}' == bob.recv(30)
        page = httpx.get(f'{server.url}/rooms/garden').json()
        assert 2 == len(page['publications'])
        with pytest.raises(InvalidStatus) as caught:
            connect(f'{server.ws_url}/rooms/secret')
        assert 403 == caught.value.response.status_code
