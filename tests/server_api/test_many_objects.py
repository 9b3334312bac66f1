"""Requests of operators to a process with very many connections and channels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
import json
from typing import Any

from falcon import testing
import falcon.asgi
import pytest
from support.loop_turns import LoopTurns

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import NodeOptions
from falcon_channels import parts
from falcon_channels.cluster import connections
from falcon_channels.cluster import dispatch
from falcon_channels.explain import recorder
from falcon_channels.testing import SimulatedClient

KEY = 'a-key-for-the-api'
INSPECTOR_KEY = 'a-key-for-reading'
NUM_OBJECTS = 20_000

#: Requests of the server API and of the inspector. Each may have to read the facts of
#: all connections or channels.
API_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ('channels', {}),
    ('channels', {'pattern': 'rooms:1*'}),
    ('info', {}),
    ('connections', {'limit': 1000}),
    ('connections', {'user': '', 'limit': 1000}),
    ('connections', {'channel': 'rooms:all', 'limit': 1000}),
    ('connections', {'user': '', 'channel': 'rooms:all', 'limit': 1000}),
    ('connections', {'user': '', 'channel': 'rooms:7'}),
    ('presence', {'channel': 'rooms:all'}),
    ('presence_stats', {'channel': 'rooms:all'}),
    ('explain', {'channel': 'rooms:all', 'offset': 1, 'user': ''}),
    ('batch', {'commands': [{'info': {}}] * 1000}),
    ('batch', {'commands': [{'info': {}}] * 1000, 'parallel': True}),
    ('batch', {'commands': [{'publish': {'channel': 'rooms:new', 'data': 1}}] * 1000}),
]
INSPECTOR_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ('overview', {}),
    ('largest_channels', {'limit': 200}),
    ('largest_channels', {'search': '7'}),
    ('channel', {'channel': 'rooms:all'}),
    ('user', {'user': ''}),
    ('events', {}),
    ('slow_readers', {}),
]


HEADERS = {'Content-Type': 'application/json', 'X-API-Key': KEY}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, so that one pass over all objects is much longer than a part."""
    monkeypatch.setattr(parts, 'PART', 50)
    monkeypatch.setattr(connections, '_DESCRIBED_PART', 5)
    monkeypatch.setattr(dispatch, '_DISCONNECTED_PART', 5)
    monkeypatch.setattr(recorder, '_RECORDED_PART', 5)


class Crowd:
    """A process with many anonymous connections, and its app.

    Each connection is subscribed to ``rooms:all`` and to a channel of its own.

    Attributes:
        longest: Largest number of bytecodes in one turn of the loop, by request.
    """

    def __init__(self) -> None:
        self.channels = Channels(options=NodeOptions(linger_s=600.0))
        self.channels.add_route(
            'rooms:{room}',
            None,
            ChannelOptions(
                subscribers='anybody',
                presence=True,
                presence_ttl_s=600,
                history_size=1,
            ),
        )
        self.app = falcon.asgi.App()
        self.channels.add_api(self.app, keys=KEY)
        self.channels.add_inspector(self.app, keys=INSPECTOR_KEY)
        self.longest: dict[str, int] = {}

    async def enter(self, number: int) -> None:
        """Connect and subscribe."""
        for index in range(number):
            client = SimulatedClient(self.channels)
            await client.__aenter__()
            await client.subscribe('rooms:all')
            await client.subscribe(f'rooms:{index}')
        await self.channels.publish('rooms:all', 1)
        await self.channels.publish('rooms:7', 1)
        await asyncio.sleep(0.01)

    async def post(
        self,
        conductor: testing.ASGIConductor,
        path: str,
        fields: dict[str, Any],
        headers: dict[str, str] = HEADERS,
        until: Callable[[], bool] = lambda: True,
    ) -> testing.Result:
        """Send a request, and count what it does until its effect is complete."""
        body = json.dumps(fields)
        with LoopTurns() as turns:
            result = await conductor.simulate_post(path, body=body, headers=headers)
            while not until():
                await asyncio.sleep(0)
        assert 200 == result.status_code
        assert 'error' not in result.json
        self.longest[f'{path} {body[:80]}'] = turns.longest
        return result


# A slow machine needs more than a minute, because all bytecodes are counted.
@pytest.mark.timeout(240)
async def test_request_of_an_operator_lets_the_event_loop_turn_between_parts() -> None:
    """No request reads all connections or channels in one turn of the event loop.

    In each turn, a request executes at most two bytecodes for each object. To read all
    objects, even the shortest loop needs five.
    """
    crowd = Crowd()
    async with testing.ASGIConductor(crowd.app) as conductor:
        await crowd.enter(NUM_OBJECTS)
        path = '/_channels/api'
        login = await crowd.post(conductor, f'{path}/login', {'key': INSPECTOR_KEY})
        token = login.cookies['falcon_channels_inspector'].value
        cookie = {**HEADERS, 'Cookie': f'falcon_channels_inspector={token}'}
        for method, fields in INSPECTOR_REQUESTS:
            await crowd.post(conductor, f'{path}/{method}', fields, cookie)
        for method, fields in API_REQUESTS:
            await crowd.post(conductor, f'/api/{method}', fields)
        await crowd.channels.close()
    too_long = {name: n for name, n in crowd.longest.items() if n > 2 * NUM_OBJECTS}
    assert {} == too_long


async def test_command_about_a_user_with_many_connections_is_executed_in_parts() -> (
    None
):
    """A user is recorded and disconnected in parts of a few connections.

    One connection takes about a thousand bytecodes.
    """
    crowd = Crowd()
    async with testing.ASGIConductor(crowd.app) as conductor:
        await crowd.enter(500)
        hub = crowd.channels.node.hub
        await crowd.post(conductor, '/api/record_user', {'user': ''})
        await crowd.post(
            conductor,
            '/api/disconnect',
            {'user': ''},
            until=lambda: not hub.connections,
        )
        await crowd.channels.close()
    too_long = {name: n for name, n in crowd.longest.items() if n > 50_000}
    assert {} == too_long
    assert 2 == len(crowd.longest)


async def test_channels_in_parts_have_every_channel_once_and_sorted() -> None:
    """The answer of `channels` does not depend on the parts in which it is made."""
    crowd = Crowd()
    async with testing.ASGIConductor(crowd.app) as conductor:
        await crowd.enter(120)
        answer = await crowd.post(conductor, '/api/channels', {'pattern': 'rooms:*'})
        found = answer.json['result']['channels']
        expected = {f'rooms:{index}': 1 for index in range(120)} | {'rooms:all': 120}
        assert expected == {name: row['num_clients'] for name, row in found.items()}
        assert sorted(expected) == list(found)
        answer = await crowd.post(conductor, '/api/channels', {'pattern': 'none:*'})
        assert {} == answer.json['result']['channels']
        await crowd.channels.close()
