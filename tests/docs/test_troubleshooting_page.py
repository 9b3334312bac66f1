"""Compare the page about troubleshooting with the codes and log texts of the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
import re
from typing import Any

import httpx
import pytest
from support.asgi_servers import SERVE
from support.processes import ROOT
from support.processes import ServerProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from falcon_channels import ChannelOptions
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions
from falcon_channels.protocol import codes

TEXT = (ROOT / 'docs/troubleshooting.md').read_text()
SOURCES = {path: path.read_text() for path in (ROOT / 'src').rglob('*.py')}
NOT_SENT = 'the library does not send it'
#: A value in a log text: of `logging`, or of an f-string.
PLACEHOLDER = re.compile(r'%[.\d]*[a-z]|\0')


APP = """
import falcon.asgi
from falcon_channels import Channels

channels = Channels()


class Page:
    async def on_get(self, req, resp):
        pass


class Room:
    async def on_websocket(self, req, ws):
        await channels.serve(req, ws, 'room')


class Nameless:
    async def on_websocket(self, req, ws):
        await channels.serve(req, ws, 'no such name')


channels.add_route('room', None)
app = falcon.asgi.App(middleware=[channels])
app.add_route('/page', Page())
app.add_route('/room', Room())
app.add_route('/nameless', Nameless())
channels.add_endpoints(app)
"""


def section(title: str) -> str:
    """Return the text below a heading, up to the next one."""
    found = re.search(
        rf'^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)', TEXT, re.DOTALL | re.M
    )
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its two first lines."""
    lines = re.findall(r'^\| (.*) \|$', section(title), re.M)
    return [line.split(' | ') for line in lines[1:]]


def texts() -> Iterator[str]:
    """Return each text in the source, with three dots for each value."""
    for source in SOURCES.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield PLACEHOLDER.sub('...', node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else '\0'
                    for part in node.values
                ]
                yield PLACEHOLDER.sub('...', ''.join(map(str, parts)))


def unused_codes() -> set[int]:
    """Return the codes whose constants only `protocol/codes.py` mentions."""
    others = '\n'.join(
        source
        for path, source in SOURCES.items()
        if path != ROOT / 'src/falcon_channels/protocol/codes.py'
    )
    statuses = {codes.disconnect_for_status(s).code for s in range(400, 600)}
    statuses |= {codes.error_for_status(s).code for s in range(400, 600)}
    statuses |= {codes.unsubscribe_for_end(error).code for error in ('', 'an error')}
    return {
        value.code
        for name, value in vars(codes).items()
        if isinstance(value, codes.ReplyError | codes.Unsubscribe | codes.Disconnect)
        and not re.search(rf'\b{name}\b', others)
        and value.code not in statuses
    }


@pytest.mark.parametrize(
    ('title', 'table', 'returns'),
    [
        ('Codes that end a connection', codes.DISCONNECTS, 'reconnects'),
        ('Codes that end a subscription', codes.UNSUBSCRIBES, 'resubscribes'),
        ('Errors of a call', codes.REPLY_ERRORS, ''),
    ],
)
def test_table_has_every_code_with_its_name_and_effect(
    title: str, table: Mapping[int, Any], returns: str
) -> None:
    """The page has all codes, their names, and whether a client returns."""
    expected = [
        [
            str(code),
            table[code][1],
            *(['yes' if getattr(table[code], returns) else 'no'] if returns else []),
        ]
        for code in sorted(table)
    ]
    assert expected == [row[:-1] for row in rows(title)]


def test_page_says_which_codes_are_not_sent() -> None:
    """The codes that the library defines but never sends are marked as such."""
    titles = ('Codes that end a connection', 'Codes that end a subscription')
    marked = {
        int(row[0])
        for title in (*titles, 'Errors of a call')
        for row in rows(title)
        if NOT_SENT in row[-1]
    }
    assert unused_codes() == marked


def test_each_log_text_of_the_page_is_in_the_source() -> None:
    """Each text of the table is a part of one text in the source code."""
    known = [*texts()]
    named = [row[0].strip('`') for row in rows('By text in the log')]
    assert len(named) > 20
    missing = [
        text
        for text in named
        if not any(text.removesuffix(' ...') in other for other in known)
    ]
    assert [] == missing


def test_each_option_of_the_page_exists() -> None:
    """Each name in code that looks like an option is one."""
    known = {
        name
        for options in (ChannelOptions, EndpointOptions, NodeOptions)
        for name in options.__struct_fields__
    }
    named = re.findall(
        r'`((?:max|history|recovery|presence|leave|connect|pong)_\w+)`', TEXT
    )
    assert len(named) > 10
    assert set() == set(named) - known


@pytest.mark.server
def test_refused_handshakes_have_the_status_of_the_page(tmp_path: Path) -> None:
    """The server answers the mistakes of the first table with their statuses."""
    (tmp_path / 'app.py').write_text(APP)
    command = SERVE.command('app:app', '--ws-max-per-peer', '1')
    with ServerProcess(command, cwd=tmp_path) as server:

        def status(path: str, **options: Any) -> int:
            with pytest.raises(InvalidStatus) as caught:
                connect(server.ws_url + path, **options)
            return caught.value.response.status_code

        found = {status('/missing'), status('/nameless')}
        assert {404} == found
        assert 405 == status('/page')
        assert 405 == httpx.get(f'{server.url}/room').status_code
        assert 426 == httpx.get(f'{server.url}/connection/websocket').status_code
        assert 403 == status('/room', origin='https://example.com')
        with connect(f'{server.ws_url}/room'):
            assert 429 == status('/room')
    table = section('The page cannot connect, and the browser shows code 1006')
    for number in (403, 404, 405, 426, 429):
        assert f'\n| {number} | ' in table or f', {number} | ' in table
