"""``falcon-channels inspect``: it opens the inspector of a running app."""

from __future__ import annotations

from collections.abc import Iterator
import webbrowser

import pytest
from support.asgi_servers import SERVE
from support.processes import free_port
from support.processes import ServerProcess

from falcon_channels.cli import main

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('inspect command')]


@pytest.fixture(scope='module')
def server() -> Iterator[ServerProcess]:
    command = SERVE.command('support.inspector_app:app')
    with ServerProcess(command, env={'PYTHONPATH': 'tests'}) as process:
        yield process


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were opened in a browser."""
    addresses: list[str] = []

    def open_address(address: str) -> bool:
        addresses.append(address)
        return True

    monkeypatch.setattr(webbrowser, 'open', open_address)
    return addresses


def test_address_of_an_inspector_is_opened_in_a_browser(
    server: ServerProcess, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The browser gets the address, which contains no key."""
    assert 0 == main(['inspect', f'{server.url}/_channels/'])
    assert [f'{server.url}/_channels'] == opened
    assert '' == capsys.readouterr().out


def test_address_that_is_not_given_has_the_host_of_the_server_api(
    server: ServerProcess,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All commands use the same variable. A wrong URL in it is reported."""
    variable = 'FALCON_CHANNELS_API_URL'
    monkeypatch.setenv(variable, f'{server.url}/internal/api')
    assert 0 == main(['inspect'])
    assert [f'{server.url}/_channels'] == opened
    monkeypatch.setenv(variable, 'example.com')
    assert 1 == main(['inspect'])
    assert "'example.com' is no URL such as" in capsys.readouterr().err


def test_address_is_printed_if_there_is_no_browser(
    server: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On a server, a person copies the address. `--print` asks for that."""
    monkeypatch.setattr(webbrowser, 'open', lambda address: False)
    for option in ([], ['--print']):
        assert 0 == main(['inspect', f'{server.url}/_channels', *option])
        assert f'{server.url}/_channels\n' == capsys.readouterr().out


def test_address_without_an_inspector_is_not_opened(
    server: ServerProcess, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error says what to do, and no browser is opened."""
    for address, text in (
        (f'{server.url}/nothing', 'answered HTTP 404, and not as an inspector'),
        (f'http://127.0.0.1:{free_port()}/_channels', 'no answer from'),
        ('ftp://example.com', 'is no URL such as http://127.0.0.1:8000/_channels'),
        (f'{server.url}/_channels?key=secret', 'do not belong into the URL'),
    ):
        assert 1 == main(['inspect', address])
        assert text in capsys.readouterr().err
    assert [] == opened
