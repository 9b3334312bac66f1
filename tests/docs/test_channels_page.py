"""Test the page about channels: its examples run, and its tables are complete."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from support.processes import ROOT

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels.routing import RESPONDERS

TEXT = (ROOT / 'docs/channels.md').read_text()


@pytest.mark.parametrize(
    ('number', 'name'),
    [
        (0, 'test_color'),
        (1, 'test_document'),
        (2, 'test_members'),
        (3, 'test_orders'),
        (4, 'test_prices'),
        (5, 'test_late_writer'),
        (6, 'test_answers_have_an_end'),
    ],
)
def test_examples_of_the_page_pass(number: int, name: str) -> None:
    """Each test that the page shows passes."""
    blocks = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
    assert 7 == len(blocks)
    names: dict[str, Any] = {}
    exec(blocks[number], names)
    names[name]()


def test_field_of_a_channel_name_ends_at_a_slash_and_not_at_a_colon() -> None:
    """The router treats slashes and colons as the page says."""
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


def test_page_names_every_option_and_responder() -> None:
    """The page contains each option and each responder."""
    fields = [*ChannelOptions.__struct_fields__, *NodeOptions.__struct_fields__]
    assert [] == [name for name in [*fields, *RESPONDERS] if f'`{name}' not in TEXT]


def _describe(parameter: inspect.Parameter) -> str:
    """Return an argument as the page has it; arguments with a default are keywords."""
    if parameter.default is not parameter.empty:
        return f'{parameter.name}={parameter.default!r}'
    star = '*, ' if parameter.kind is parameter.KEYWORD_ONLY else ''
    return star + parameter.name


def test_page_has_the_signature_of_every_call() -> None:
    """Each public call of `Channels` has a row with all its arguments and defaults."""
    pattern = r'^\| `(?:await )?channels\.(\w+)(?:\((.*?)\))?` \|'
    rows = dict(re.findall(pattern, TEXT, re.MULTILINE))
    expected = {}
    for name, value in vars(Channels).items():
        if name.startswith('_') or name.startswith('process_'):
            continue
        expected[name] = ''
        if callable(value):
            parameters = list(inspect.signature(value).parameters.values())[1:]
            expected[name] = ', '.join(_describe(parameter) for parameter in parameters)
    assert expected == rows
