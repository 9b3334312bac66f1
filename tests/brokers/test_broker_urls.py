"""URLs of brokers that cannot be used: what the error says, and what it hides."""

from __future__ import annotations

import traceback

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
