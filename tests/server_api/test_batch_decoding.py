"""A batch that only publishes is decoded in one step, and answered like any other."""

from __future__ import annotations

import json
from typing import Any

from falcon import testing
import pytest

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels.server_api.methods import ApiMethods

COMMANDS: list[dict[str, Any]] = [
    {'publish': {'channel': 'rooms:a', 'data': {'n': [1, None, 1.5, 'x']}}},
    {'publish': {'channel': 'rooms:a', 'b64data': 'MQ=='}},
    {'publish': {'channel': 'rooms:a', 'data': 1, 'tags': {'a': 'b'}}},
    {'publish': {'channel': 'rooms:a', 'data': 2, 'idempotency_key': 'k'}},
    {'publish': {'channel': 'rooms:a', 'data': 3, 'idempotency_key': 'k'}},
    {'publish': {'channel': 'rooms:a', 'data': 4, 'version': 7}},
    {'publish': {'channel': 'rooms:a', 'data': 5, 'version': 7}},
    {'publish': {'channel': 'rooms:a'}},
    {'publish': {'channel': 'rooms:a', 'data': 'x' * 70_000}},
    {'publish': {'channel': 'nowhere', 'data': 1}},
    {'publish': {'channel': '', 'data': 1}},
]
WRONG: dict[str, Any] = {
    'no channel': {'publish': {'data': 1}},
    'unknown field': {'publish': {'channel': 'rooms:a', 'data': 1, 'x': 1}},
    'no request': {'publish': None},
    'two methods': {'publish': {'channel': 'rooms:a', 'data': 1}, 'info': {}},
    'no method': {},
    'another method': {'info': {}},
}


async def call(commands: list[dict[str, Any]], parallel: bool) -> list[Any]:
    """Return the replies of new channels to a batch, without epochs."""
    channels = Channels()
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
    async with channels:
        answer = await ApiMethods(channels.node).call(
            'batch',
            json.dumps({'commands': commands, 'parallel': parallel}).encode(),
            testing.create_asgi_req(),
        )
        page = await channels.history('rooms:a')
        for publication in page.publications:
            assert publication.time_ms
    for reply in answer['replies']:
        reply.get('publish', {}).pop('epoch', None)
    return [answer['replies'], [(p.data, p.tags) for p in page.publications]]


@pytest.mark.parametrize('parallel', [False, True])
async def test_batch_that_only_publishes_is_answered_like_a_batch_with_more(
    parallel: bool,
) -> None:
    """A command of another method at the end changes no reply before it."""
    small = [command for command in COMMANDS if len(json.dumps(command)) < 1000]
    for commands in (small, COMMANDS):
        replies, log = await call(commands, parallel)
        others, other_log = await call([*commands, {'channels': {}}], parallel)
        assert replies == others[:-1]
        assert log == other_log
    offsets = [reply['publish']['offset'] for reply in replies if 'publish' in reply]
    assert [1, 2, 3, 4, 4, 5, 5] == offsets
    assert [107, 107, 102, 107] == [
        reply['error']['code'] for reply in replies if 'error' in reply
    ]


@pytest.mark.parametrize('command', WRONG.values(), ids=WRONG.keys())
async def test_command_that_is_no_publication_is_answered_alone(
    command: dict[str, Any],
) -> None:
    """A command that cannot be decoded does not affect the publications beside it."""
    publication = {'publish': {'channel': 'rooms:a', 'data': 1}}
    replies, log = await call([publication, command, publication], False)
    assert [{'publish': {'offset': 1}}, {'publish': {'offset': 2}}] == replies[::2]
    assert ('error' in replies[1]) is (command != {'info': {}})
    assert 2 == len(log)


async def test_batch_of_1001_publications_is_refused() -> None:
    """The limit of commands also applies to a batch that only publishes."""
    body = {'commands': [{'publish': {'channel': 'a', 'data': 1}}] * 1001}
    channels = Channels()
    async with channels:
        answer = await ApiMethods(channels.node).call(
            'batch', json.dumps(body).encode(), testing.create_asgi_req()
        )
    assert 107 == answer['error']['code']
