"""URLs of brokers that cannot be used: what the error says, and what it hides."""

from __future__ import annotations

import re
import sys
import traceback
from typing import Any

import pytest

from falcon_channels.brokers.postgres import migrate
from falcon_channels.brokers.urls import BROKERS
from falcon_channels.brokers.urls import open_broker
from falcon_channels.cli import main
from falcon_channels.errors import OptionsError

#: Passwords whose special characters are not written as percent and two digits.
PASSWORDS = ['[s3cret]', '[s3cret', 's3cret/x', 'x/s3cret', 's3cret?x', 'x?s3cret']
PASSWORDS += ['s3cret#x', 'x#s3cret', 'x?s3cret=1', 'x?timeout_s=1&s3cret']
SCHEMES = sorted(scheme for scheme in BROKERS if scheme != 'memory')


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('password', PASSWORDS)
def test_error_of_a_malformed_url_shows_no_part_of_its_password(
    scheme: str, password: str
) -> None:
    """A password with special characters is refused, and not in the traceback."""
    with pytest.raises(OptionsError) as caught:
        open_broker(f'{scheme}://ann:{password}@localhost/0')
    assert 's3cret' not in ''.join(traceback.format_exception(caught.value))


@pytest.mark.parametrize('password', PASSWORDS)
def test_migrate_with_a_malformed_url_says_so_without_its_password(
    password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints one line without the password, and exits with 1."""
    url = f'postgresql://ann:{password}@localhost/0'
    assert 1 == main(['migrate', url])
    said = capsys.readouterr().err
    assert 1 == len(said.splitlines())
    assert 's3cret' not in said
    with pytest.raises(OptionsError):
        migrate(url)


@pytest.mark.parametrize('scheme', ['redis', 'sqlite', 'memory', 'postgresq', ''])
@pytest.mark.parametrize('has_psycopg', [True, False])
def test_migrate_with_the_url_of_another_broker_connects_to_no_server(
    scheme: str,
    has_psycopg: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The URL of another broker is refused, before the extra is needed.

    The command ignored the scheme. With `sqlite:///live.db`, it connected to the
    default server of PostgreSQL, and could create its tables in a wrong database.
    """
    if not has_psycopg:
        monkeypatch.setitem(sys.modules, 'psycopg', None)
    assert 1 == main(['migrate', f'{scheme}://' if scheme else 'localhost'])
    said = capsys.readouterr().err
    assert 1 == len(said.splitlines())
    assert 'it must begin with postgresql:// or postgres://' in said


@pytest.mark.parametrize('scheme', sorted(BROKERS))
@pytest.mark.parametrize('other', sorted(BROKERS))
def test_broker_accepts_the_urls_of_its_schemes_only(scheme: str, other: str) -> None:
    """`from_url` of a class refuses a URL that `open_broker` gives to another one."""
    path = {'sqlite': '/a.db', 'redis+unix': '/a', 'memory': ''}
    path |= {'redis+sentinel': 'a/b', 'rediss+sentinel': 'a/b'}
    broker = open_broker(f'{scheme}://{path.get(scheme, "localhost/0")}')
    broker_class: Any = type(broker)
    url = f'{other}://{path.get(other, "localhost/0")}'
    if BROKERS[scheme][:2] == BROKERS[other][:2]:
        assert isinstance(broker_class.from_url(url), broker_class)
        return
    with pytest.raises(OptionsError, match=f'begins with {re.escape(other)}:, but'):
        broker_class.from_url(url)


@pytest.mark.parametrize(
    ('url', 'said'),
    [
        ('', 'the URL of the broker is empty'),
        ('memory://shared', 'memory:// has no name'),
        ('memory:///a', 'memory:// has no name'),
        ('memory://?timeout_s=1', "memory:// has no option 'timeout_s'"),
    ],
)
def test_url_of_memory_that_asks_for_more_is_refused(url: str, said: str) -> None:
    """Memory is used only on purpose, because other processes do not share it."""
    with pytest.raises(OptionsError, match=re.escape(said)):
        open_broker(url)


@pytest.mark.parametrize(
    'host',
    [
        '',
        'db',
        'db:5432',
        'db:',
        '[::1]',
        '[::1]:5432',
        'a:1,b:2',
        'ann@db',
        'a:x@[::1]',
    ],
)
def test_postgres_url_with_a_usual_host_is_accepted(host: str) -> None:
    """Names, addresses, ports, several hosts and users are accepted."""
    assert open_broker(f'postgresql://{host}/chat?timeout_s=1') is not None
