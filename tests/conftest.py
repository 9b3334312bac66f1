"""Options of pytest: the ASGI server of the tests, and readable contract failures."""

from __future__ import annotations

import signal
import sys

import pytest
from support.asgi_servers import SERVERS

pytest.register_assert_rewrite('falcon_channels.testing')


# NOTE: a shell starts background jobs with SIGINT ignored, and their children inherit
#   this. Tests stop servers with SIGINT, so its handler is restored here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--asgi-server',
        choices=list(SERVERS),
        help='run only the tests that start an ASGI application, on this server',
    )
    parser.addoption(
        '--without-hiredis',
        action='store_true',
        help='run the tests of Redis as if the package hiredis were not installed',
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption('--without-hiredis'):
        # NOTE: an import of a module that is ``None`` here fails.
        sys.modules['hiredis'] = None  # type: ignore[assignment]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'asgi_server' not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption('--asgi-server')
    if chosen:
        names = [chosen]
    elif metafunc.definition.get_closest_marker('every_server'):
        names = list(SERVERS)
    else:
        names = ['serve']
    metafunc.parametrize(
        'asgi_server', [SERVERS[name] for name in names], ids=names, scope='session'
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if not config.getoption('--asgi-server'):
        return
    # NOTE: `target` is the fixture of tests/attacks that starts a server.
    fixtures = {'asgi_server', 'target'}
    chosen = [item for item in items if fixtures & {*getattr(item, 'fixturenames', ())}]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
