"""Ten people chat for a minute while their connections break again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
import random

import pytest
from support.chat_pages import chat_server
from support.chat_pages import new_folder
from support.chat_talkers import Talker
from support.chat_talkers import talker
from support.proxy import Proxy
from support.sdk_tasks import finish_tasks

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group('chat_crowd'),
    # One minute, and the time that a busy machine needs before and after it.
    pytest.mark.timeout(240),
]

PEOPLE = 10
TALK_S = 60.0
#: Seconds between two messages of a person (minimum and maximum).
PAUSE_S = (0.25, 1.0)
#: Seconds between two breaks of a connection (minimum and maximum).
BREAK_S = (0.1, 0.9)


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    """Wait for the connections that the SDK closes in the background."""
    yield
    await finish_tasks()


async def test_ten_people_with_breaking_connections_receive_every_message_once() -> (
    None
):
    """Every member receives every message once and in order in spite of the breaks."""
    dice = random.Random(20)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(new_folder()))
        # With two processes, two members are often connected to different processes.
        server = stack.enter_context(chat_server(folder, workers=2))
        cable = await stack.enter_async_context(Proxy(server.port))
        host = await stack.enter_async_context(talker(server.url, 'Host'))
        await host.http.post('/api/rooms', json={'name': 'crowd'})
        people = [
            await stack.enter_async_context(talker(server.url, f'Person {number}'))
            for number in range(PEOPLE)
        ]
        for one in people:
            client = one.connect(cable.url.replace('http', 'ws'))
            await client.connect()
            subscription = client.new_subscription('rooms:crowd', events=one)
            await subscription.subscribe()
            await subscription.ready()
        talking = [
            asyncio.create_task(talk(one, number, random.Random(number)))
            for number, one in enumerate(people)
        ]
        breaks = 0
        while not all(task.done() for task in talking):
            cable.drop_one(dice)
            breaks += 1
            await asyncio.wait(talking, timeout=dice.uniform(*BREAK_S))
        said = await asyncio.gather(*talking)
        await host.say('the end', 'crowd')
        for one in people:
            await one.until(
                lambda one=one: (
                    one.publications
                    and one.publications[-1].pub.data['text'] == 'the end'
                ),
                'the last message has arrived',
            )
    texts = [ctx.pub.data['text'] for ctx in people[0].publications]
    assert sum(said) + 1 == len(texts)
    for one in people:
        assert list(range(1, len(texts) + 1)) == [
            ctx.pub.offset for ctx in one.publications
        ]
        assert texts == [ctx.pub.data['text'] for ctx in one.publications]
    # The messages of each person arrive in the order in which they were sent.
    for number, count in enumerate(said):
        own = [text for text in texts if text.startswith(f'{number} ')]
        assert [f'{number} {message}' for message in range(count)] == own
    assert 0 == sum(one.unrecovered for one in people)
    assert min(said) >= 20
    assert breaks >= 50
    assert sum(one.connections - 1 for one in people) >= 30


async def talk(one: Talker, number: int, dice: random.Random) -> int:
    """Send messages for a minute, some of them twice; return their number."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + TALK_S
    count = 0
    while loop.time() < end_s:
        text, key = f'{number} {count}', f'{number}-{count}'
        await one.say(text, 'crowd', key)
        if dice.random() < 0.2:
            await one.say(text, 'crowd', key)
        count += 1
        # NOTE: this models how fast people type. It does not wait for a condition.
        await asyncio.sleep(dice.uniform(*PAUSE_S))
    return count
