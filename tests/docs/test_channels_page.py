"""The page about channels: its example runs, and its tables name what there is."""

from __future__ import annotations

import re
from typing import Any

from support.processes import ROOT

from falcon_channels import ChannelOptions
from falcon_channels import ChannelsOptions
from falcon_channels.routing import RESPONDERS

TEXT = (ROOT / 'docs/channels.md').read_text()


def test_the_example_runs() -> None:
    """The test of the page passes."""
    (block,) = re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    names['test_room']()


def test_every_option_and_responder_is_named() -> None:
    """No option and no responder is missing from the page."""
    fields = [*ChannelOptions.__struct_fields__, *ChannelsOptions.__struct_fields__]
    assert [] == [name for name in [*fields, *RESPONDERS] if f'`{name}' not in TEXT]
