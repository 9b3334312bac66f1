"""Test the page about SQL: serve its app, and publish with its statements."""

from __future__ import annotations

from collections.abc import Iterator
import json
import re
import subprocess

import psycopg
import pytest
from support.asgi_servers import AsgiServer
from support.postgres_server import PostgresServer
from support.postgres_server import program
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.sync.client import connect

from falcon_channels.brokers.postgres import migrate

TEXT = (ROOT / 'docs/sql.md').read_text()
BLOCKS = dict(
    re.findall(r'<!-- (\w+\.(?:py|sql)) -->\n```\w+\n(.*?)```', TEXT, re.DOTALL)
)

pytestmark = [pytest.mark.server, pytest.mark.xdist_group('postgres')]


@pytest.fixture(scope='module')
def database() -> Iterator[PostgresServer]:
    server = PostgresServer('fsync=off')
    migrate(server.url)
    yield server
    server.stop()


@pytest.fixture(scope='module')
def ws_url(
    asgi_server: AsgiServer,
    database: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The app of the page."""
    folder = tmp_path_factory.mktemp('sql')
    (folder / 'app.py').write_text(BLOCKS['app.py'])
    env = {'DATABASE_URL': database.url}
    with ServerProcess(asgi_server.command('app:app'), cwd=folder, env=env) as server:
        yield server.ws_url


def psql(database: PostgresServer, script: str) -> str:
    """Run a script with psql, and return its output."""
    words = [program('psql'), '--no-psqlrc', '-qAt', '-v', 'ON_ERROR_STOP=1']
    done = subprocess.run(
        [*words, database.url], input=script, capture_output=True, text=True, timeout=50
    )
    assert ('', 0) == (done.stderr, done.returncode)
    return done.stdout


def test_every_code_block_has_a_name_and_is_run() -> None:
    """The page has no code block that is not run, except the command."""
    names = ['app.py', 'arguments.sql', 'change.sql', 'grant.sql', 'publish.sql']
    assert [*names, 'trigger.sql'] == sorted(BLOCKS)
    assert TEXT.count('```') == 2 * (len(BLOCKS) + 1)


def test_statements_of_the_page_reach_a_client(
    database: PostgresServer, ws_url: str
) -> None:
    """A client of the app receives what psql publishes."""
    with connect(f'{ws_url}/orders/7') as client:
        assert re.fullmatch(
            r'\(1,[0-9a-f]{16},f,f\)\n', psql(database, BLOCKS['publish.sql'])
        )
        assert {'state': 'paid'} == json.loads(client.recv(timeout=30))
        assert '2|f\n' == psql(database, BLOCKS['arguments.sql'])
        assert '2|t\n' == psql(database, BLOCKS['arguments.sql'])
        packed = {'state': 'packed', 'boxes': 2}
        assert packed == json.loads(client.recv(timeout=30))


def test_trigger_of_the_page_publishes_every_change(
    database: PostgresServer, ws_url: str
) -> None:
    """Inserted, changed and deleted rows are published."""
    psql(database, BLOCKS['trigger.sql'])
    with connect(f'{ws_url}/orders/8') as client:
        psql(database, BLOCKS['change.sql'])
        psql(database, 'DELETE FROM orders')
        found = [json.loads(client.recv(timeout=30)) for _ in range(3)]
    assert [
        {'id': 8, 'state': 'new'},
        {'id': 8, 'state': 'paid'},
        {'id': 8, 'deleted': True},
    ] == found


def test_user_of_the_page_may_publish_but_not_read(
    database: PostgresServer, ws_url: str
) -> None:
    """The two statements of the page let a user publish, and not read."""
    psql(database, BLOCKS['grant.sql'])
    with (
        connect(f'{ws_url}/orders/9') as client,
        psycopg.connect(database.url, user='shop', autocommit=True) as connection,
    ):
        connection.execute("SELECT falcon_channels.publish('orders:9', '\"shop\"')")
        assert 'shop' == client.recv(timeout=30)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('SELECT * FROM falcon_channels.items')


def test_errors_have_the_codes_of_the_page(
    database: PostgresServer, ws_url: str
) -> None:
    """The table names the SQLSTATE of each error."""
    codes = dict(re.findall(r'^\| `(\w+)` (\w+) \|', TEXT, re.MULTILINE))
    found = set()
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("SELECT falcon_channels.publish('orders:1', '1')")
        for arguments in (
            "'unknown', '1'",
            "'orders:1', to_jsonb(repeat('x', 70000))",
            "'orders:1', '{'",
            "'orders:1', NULL::text",
            "'orders:1 ', '1'",
        ):
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(f'SELECT falcon_channels.publish({arguments})')
            assert caught.value.sqlstate is not None
            assert type(caught.value) is psycopg.errors.lookup(caught.value.sqlstate)
            found.add(caught.value.sqlstate)
    # The tests of the function show the other three.
    assert {*codes} == found | {'0A000', '55000', '55P03'}
