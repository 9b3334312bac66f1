"""The snippets of docs/clients.md run and print the documented output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest
from support.asgi_servers import AsgiServer
from support.processes import ROOT
from support.processes import ServerProcess

from conformance.programs import GO
from conformance.programs import java_class_path
from conformance.programs import require_go

PAGE = (ROOT / 'docs' / 'clients.md').read_text()
BLOCKS = re.findall(r'^```(python|js|sh|go|java)\n(.*?)^```$', PAGE, re.M | re.S)
APP = BLOCKS[0][1]
NODE_MODULES = Path(__file__).parent / 'js' / 'node_modules'

# The expected output of each snippet after the application.
EXPECTED = [
    r'1 hello\n',
    r'new\npaid\n',
    r'2 error out of paper\n',
    r'7\n7.5\n',
    r'http_stream 6\n',
    r'1 hello\n',
    r'1 \{"text": "hello"\}\n',
    r'1 \{"text": "hello"\}\n',
    r'1 hello\n',
    r'rooms:ws\n',
    r'\{"connect":\{.*"subs":\{"rooms:curl":\{"recoverable":true.*\}\n',
]

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


@pytest.fixture(scope='module')
def server(
    asgi_server: AsgiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp('clients')
    (folder / 'app.py').write_text(APP)
    with ServerProcess(asgi_server.command('app:app'), cwd=folder) as server:
        yield server


@pytest.mark.parametrize(
    ('language', 'code', 'printed'),
    [(*block, printed) for block, printed in zip(BLOCKS[1:], EXPECTED, strict=True)],
    ids=[f'{number} {language}' for number, (language, _) in enumerate(BLOCKS[1:])],
)
def test_snippet_prints_what_the_page_promises(
    server: ServerProcess, tmp_path: Path, language: str, code: str, printed: str
) -> None:
    """A snippet prints the expected output when it runs against a server."""
    code = code.replace('localhost:8000', f'127.0.0.1:{server.port}')
    if language == 'js':
        (tmp_path / 'node_modules').symlink_to(NODE_MODULES)
    elif language == 'go':
        require_go()
        for file in ('go.mod', 'go.sum'):
            shutil.copy(GO / file, tmp_path)
    name, command = {
        'python': ('client.py', [sys.executable]),
        'js': ('client.mjs', ['node']),
        'sh': ('client.sh', ['sh']),
        'go': ('client.go', ['go', 'run']),
        'java': ('Main.java', ['java', '-cp']),
    }[language]
    if language == 'java':
        command.append(java_class_path())
    (tmp_path / name).write_text(code)
    done = subprocess.run(
        [*command, name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    # NOTE: the curl snippet has a time limit, so curl exits with code 28 (timeout).
    assert done.returncode == (28 if language == 'sh' else 0), done.stderr
    assert re.fullmatch(printed, done.stdout)
