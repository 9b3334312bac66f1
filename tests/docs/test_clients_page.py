"""Test the tables of the page about clients."""

from __future__ import annotations

import re

from support.processes import ROOT

from falcon_channels import EndpointOptions

TEXT = (ROOT / 'docs/clients.md').read_text()


def test_page_has_every_option_of_an_endpoint_with_default_and_unit() -> None:
    """The table has each field of `EndpointOptions`, its default and its unit."""
    section = TEXT.partition('## Options of an endpoint')[2].partition('\n## ')[0]
    rows = re.findall(r'^\| `(\w+)` \| (\S+) \| ?(.*?) ?\| .+ \|$', section, re.M)
    defaults = EndpointOptions()
    expected = {
        name: repr(getattr(defaults, name)) for name in defaults.__struct_fields__
    }
    assert expected == {name: default for name, default, _ in rows}
    for name, _, unit in rows:
        if name.endswith('_per_s'):
            assert 'commands per second' == unit
        elif name.endswith('_s'):
            assert 'seconds' == unit
        else:
            assert bool(unit) is (name != 'allow_anonymous')
