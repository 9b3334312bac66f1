"""The page about channels: its example runs, and its tables name what there is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.processes import ROOT

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.routing import RESPONDERS

TEXT = (ROOT / 'docs/channels.md').read_text()


@pytest.mark.parametrize(('number', 'name'), [(0, 'test_document'), (1, 'test_room')])
def test_the_examples_run(number: int, name: str) -> None:
    """The tests of the page pass."""
    blocks = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
    assert 2 == len(blocks)
    names: dict[str, Any] = {}
    exec(blocks[number], names)
    names[name]()


def test_where_fields_end() -> None:
    """What the page says of slashes and colons is what the router does."""
    channels = Channels()
    for template in ('rooms:{room}', 'dm:{a}:{b}', 'files/{name:path}'):
        channels.add_route(template, None)
    found = {
        name: match and match.params
        for name in ('rooms:a/b', 'rooms:a:b', 'dm:x:y:z', 'files/a/b')
        for match in [channels.node.router.match(name)]
    }
    assert {
        'rooms:a/b': None,
        'rooms:a:b': {'room': 'a:b'},
        'dm:x:y:z': {'a': 'x:y', 'b': 'z'},
        'files/a/b': {'name': 'a/b'},
    } == found


def test_every_option_and_responder_is_named() -> None:
    """No option and no responder is missing from the page."""
    fields = [*ChannelOptions.__struct_fields__, *NodeOptions.__struct_fields__]
    assert [] == [name for name in [*fields, *RESPONDERS] if f'`{name}' not in TEXT]
