"""Test the page of the commands: the fields that it lists are printed."""

from __future__ import annotations

import re

import pytest
from support.processes import ROOT
from support.shell import Shell

from falcon_channels.commands import client

TEXT = ' '.join((ROOT / 'docs/commands.md').read_text().split())


@pytest.mark.parametrize(
    ('words', 'extra'),
    [
        (('disconnect', 'ann'), set()),
        (('unsubscribe', 'ann', 'rooms:lobby'), {'channel'}),
        (('revoke', 'ann', 'rooms:lobby'), {'channel'}),
        (('revoke', 'ann', 'rooms:lobby', '--ttl-s', '9'), {'channel', 'ttl_s'}),
    ],
)
def test_line_of_a_command_has_the_fields_of_the_page(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    extra: set[str],
) -> None:
    """The page says which fields the line has in addition to the common ones."""

    def call(
        self: client.ApiClient, method: str, shape: type, /, **request: object
    ) -> dict[str, int]:
        return {'total': 2, 'num_nodes': 2}

    monkeypatch.setenv('FALCON_CHANNELS_API_KEY', 'k' * 32)
    monkeypatch.setattr(client.ApiClient, 'call', call)
    [line] = Shell(capsys).lines(*words)
    common = {'user', 'num_connections', 'num_nodes'}
    assert common | extra == set(re.findall(r'"(\w+)":', line))
    assert '{"user": "ann", "num_connections": 2, "num_nodes": 2}' in TEXT
    assert (
        'The line of `unsubscribe` and `revoke` also has `channel`, and the line of '
        '`revoke` also has `ttl_s`, if it was given.'
    ) in TEXT
