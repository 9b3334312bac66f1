"""docs/protocol.md has the codes that the program has."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

from falcon_channels import ChannelOptions
from falcon_channels import EndpointOptions
from falcon_channels import NodeOptions
from falcon_channels.protocol import codes

PAGE = (Path(__file__).parents[2] / 'docs' / 'protocol.md').read_text()


@pytest.mark.parametrize('row', codes.REPLY_ERRORS.values(), ids=str)
def test_errors_are_on_the_page(row: codes.ReplyError) -> None:
    """Every error is there with its meaning."""
    last = ' temporary: the SDK repeats the command |' if row.temporary else ' |'
    assert f'| {row.code} | {row.message} |{last}\n' in PAGE


@pytest.mark.parametrize('row', codes.UNSUBSCRIBES.values(), ids=str)
def test_unsubscribe_codes_are_on_the_page(row: codes.Unsubscribe) -> None:
    """Every code is there with what the client does."""
    then = 'subscribes again' if row.resubscribes else 'does not subscribe again'
    assert f'| {row.code} | {row.reason} | {then} |\n' in PAGE


@pytest.mark.parametrize('row', codes.DISCONNECTS.values(), ids=str)
def test_disconnect_codes_are_on_the_page(row: codes.Disconnect) -> None:
    """Every code is there with what the client does."""
    then = 'reconnects' if row.reconnects else 'does not reconnect'
    assert f'| {row.code} | {row.reason} | {then} |\n' in PAGE


@pytest.mark.parametrize('status', [401, 403, 404, 413, 429, 503])
def test_statuses_are_on_the_page(status: int) -> None:
    """Every HTTP status is there with both of its codes."""
    ended = codes.disconnect_for_status(status).code
    answered = codes.error_for_status(status).code
    assert f'| {status} | {ended} | {answered} |\n' in PAGE


def test_limits_on_the_page_exist() -> None:
    """Every option that the page names is one."""
    kinds = {
        kind.__name__: kind.__struct_fields__
        for kind in (ChannelOptions, NodeOptions, EndpointOptions)
    }
    named = re.findall(r'`(\w+Options)\.(\w+)`', PAGE)
    assert len(named) >= 9
    assert [] == [(kind, field) for kind, field in named if field not in kinds[kind]]
