"""The field ``delta`` of publish and broadcast in the server API."""

from __future__ import annotations

import json
from typing import Any

from falcon import testing
import pytest
from support.fake_clock import on_fake_clock

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.server_api.methods import ApiMethods
from falcon_channels.testing import SimulatedSdk

STATE = [f'part {number}' for number in range(40)]


def make_channels() -> Channels:
    channels = Channels()
    channels.add_route('state', None, ChannelOptions(delta=True, subscribers='anybody'))
    channels.add_route('plain', None, ChannelOptions(subscribers='anybody'))
    return channels


async def call(channels: Channels, method: str, /, **body: Any) -> dict[str, Any]:
    methods = ApiMethods(channels.node)
    return await methods.call(
        method, json.dumps(body).encode(), testing.create_asgi_req()
    )


@pytest.mark.parametrize('method', ['publish', 'broadcast'])
@pytest.mark.parametrize(
    ('fields', 'is_delta'),
    [
        ({}, True),
        ({'delta': None}, True),
        ({'delta': True}, True),
        ({'delta': False}, False),
    ],
)
@on_fake_clock
async def test_delta_of_a_request_decides_whether_a_publication_is_whole(
    method: str, fields: dict[str, Any], is_delta: bool
) -> None:
    """On a route with deltas, only ``"delta": false`` sends a publication whole."""
    channels = make_channels()
    where: dict[str, Any] = {'channel': 'state'}
    if method == 'broadcast':
        where = {'channels': ['state']}
    async with SimulatedSdk(channels) as sdk:
        await sdk.subscribe('state', delta='fossil')
        for number in range(2):
            answer = await call(
                channels, method, data=[number, STATE], **where, **fields
            )
            assert 'result' in answer
        await sdk.receive()
        assert is_delta is (await sdk.receive())['pub'].get('delta', False)
    await channels.close()


@on_fake_clock
async def test_delta_is_refused_where_the_route_has_none() -> None:
    """A request that asks for a delta gets error 108 if there can be none."""
    channels = make_channels()
    await channels.start()
    answer = await call(channels, 'publish', channel='plain', data=1, delta=True)
    assert 108 == answer['error']['code']
    assert 'delta=True' in answer['error']['message']
    answer = await call(
        channels, 'broadcast', channels=['state', 'plain'], data=1, delta=True
    )
    first, second = answer['result']['responses']
    assert 'result' in first
    assert 108 == second['error']['code']
    for fields in ({}, {'delta': False}):
        answer = await call(channels, 'publish', channel='plain', data=1, **fields)
        assert 'result' in answer
    await channels.close()
